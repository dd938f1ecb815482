"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="explainability",
    package="explainability",
    question="Why did the model say that, and can the picture be trusted? (a picture and any classifier → maps, each with its test)",
    claim="explainability.images.formats:claim",
    kinds="pictures (PNG, JPEG, WebP, BMP, GIF, TIFF), or folders of them by class",
    needs={
        "PIL": "pictures",
        "timm": "models by name, vision transformers",
        "torchvision": "models by name",
        "scipy": "boxes and masks",
        "lightning": "training",
        "matplotlib": "figures",
    },
)
