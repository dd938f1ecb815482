"""What the suite knows of this domain; imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from vision_language.items.formats import claim


def doctor() -> list[Check]:
    return check_modules(
        {
            "transformers": "CLIP, LLaVA, Qwen2.5-VL",
            "timm": "EfficientNets",
            "tokenizers": "text as tokens",
            "PIL": "pictures",
            "lightning": "training",
        }
    )


domain = Domain(
    name="vision-language",
    question="What in the picture does the sentence mean? (a picture and a sentence → sentence attention or RefAM → mask, box, point)",
    recognises=claim,
    glance=lazily("vision_language.commands.inspect:glance"),
    demo=lazily("vision_language.commands.demo:demo"),
    doctor=doctor,
    app="vision_language.cli:app",
    kinds="pictures with sentences, grounding annotations (JSON lines, ScreenSpot, VizWiz, RefCOCO), POPE and SugarCrepe files",
)
