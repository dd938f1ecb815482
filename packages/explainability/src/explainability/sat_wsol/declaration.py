"""What is declared of sat_wsol; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "sat_wsol",
    components_of("explainability.sat_wsol.official", "SAT"),
    paper=Paper(
        "Spatial-Aware Token for Weakly Supervised Object Localization",
        2023,
        repository="wpy1999/SAT",
        licence="none",
        components=("SAT",),
    ),
)
