"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="vision-language",
    package="vision_language",
    question="What in the picture does the sentence mean? (a picture and a sentence → sentence attention or RefAM → mask, box, point)",
    claim="vision_language.items.formats:claim",
    kinds="pictures with sentences, grounding annotations (JSON lines, ScreenSpot, VizWiz, RefCOCO), POPE and SugarCrepe files",
    needs={
        "transformers": "CLIP, LLaVA, Qwen2.5-VL",
        "timm": "EfficientNets",
        "tokenizers": "text as tokens",
        "PIL": "pictures",
        "lightning": "training",
    },
)
