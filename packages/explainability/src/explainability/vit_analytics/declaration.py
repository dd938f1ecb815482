"""What is declared of vit_analytics; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "vit_analytics",
    components_of("explainability.vit_analytics.official", "head_analysis"),
    paper=Paper(
        "How Does Attention Work in Vision Transformers? A Visual Analytics Attempt",
        2023,
        components=("head_analysis",),
    ),
)
