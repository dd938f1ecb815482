"""What is declared of promptcam; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "promptcam",
    components_of("explainability.promptcam.official", "VisionTransformerPETL"),
    paper=Paper(
        "Prompt-CAM: Making Vision Transformers Interpretable for Fine-Grained Analysis",
        2025,
        repository="Imageomics/Prompt_CAM",
        licence="MIT",
        components=("VisionTransformerPETL",),
    ),
)
