"""What is declared of saliency_verbalization; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "saliency_verbalization",
    components_of("explainability.saliency_verbalization.official", "search"),
    paper=Paper(
        "Saliency Map Verbalization: Comparing Feature Importance Representations from Model-free and Instruction-based Methods",
        2023,
        repository="DFKI-NLP/SMV",
        licence="none",
        components=("search",),
    ),
)
