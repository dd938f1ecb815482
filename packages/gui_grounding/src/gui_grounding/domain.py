"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="gui-grounding",
    package="gui_grounding",
    question="Where on this screenshot is what the instruction means? (a screenshot and an instruction → V2P → a click)",
    claim="gui_grounding.screens.formats:claim",
    kinds="screenshots, and grounding annotations (ScreenSpot, v2, Pro, OSWorld-G, GUI-Actor training sets)",
    needs={
        "transformers": "the language model and the vision tower",
        "tokenizers": "text as tokens",
        "scipy": "regions",
        "PIL": "screenshots",
        "lightning": "training",
    },
)
