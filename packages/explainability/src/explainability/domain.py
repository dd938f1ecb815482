"""What the suite knows of this domain; imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from explainability.images.formats import claim


def doctor() -> list[Check]:
    return check_modules(
        {
            "PIL": "pictures",
            "timm": "models by name, vision transformers",
            "torchvision": "models by name",
            "scipy": "boxes and masks",
            "lightning": "training",
            "matplotlib": "figures",
        }
    )


domain = Domain(
    name="explainability",
    question="Why did the model say that, and can the picture be trusted? (a picture and any classifier → maps, each with its test)",
    recognises=claim,
    glance=lazily("explainability.commands.inspect:glance"),
    demo=lazily("explainability.commands.demo:demo"),
    doctor=doctor,
    app="explainability.cli:app",
    kinds="pictures (PNG, JPEG, WebP, BMP, GIF, TIFF), or folders of them by class",
)
