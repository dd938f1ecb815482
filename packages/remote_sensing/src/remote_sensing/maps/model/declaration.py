"""What is declared of mapsam; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "mapsam",
    components_of(
        "remote_sensing.maps.model.official",
        "DoRA_Sam",
        "Sam",
        "_DoRA_qkv",
        "Attention",
        "losses",
        "calculate_metric",
        "load_from",
    ),
    paper=Paper(
        "MapSAM: Adapting Segment Anything Model for Automated Feature Detection in Historical Maps",
        2024,
        repository="Xue-Xia/MapSAM",
        licence="MIT",
        components=("Attention", "DoRA_Sam", "Sam", "_DoRA_qkv", "calculate_metric", "load_from", "losses"),
    ),
)
