"""What is declared of featenhancer; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "featenhancer",
    components_of("core_attention.mechanisms.featenhancer.official", "ScaleAwareFeatureAggregation"),
    paper=Paper(
        "FeatEnHancer: Enhancing Hierarchical Features for Object Detection and Beyond Under Low-Light Vision",
        2023,
        repository="khurramHashmi/FeatEnHancer",
        licence="CC BY-NC-ND 4.0",
        components=(
            "FeatEnHancer",
            "ScaleAwareFeatureAggregation",
        ),
    ),
    examples={
        "scale-aware": "core_attention.mechanisms.featenhancer.scale_aware:example",
    },
    aliases={
        "ScaleAwareFeatureAggregation": "scale-aware",
    },
    page="scale_aware.md",
)
