"""How the suite sees this domain."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from gui_grounding.screens.formats import claim


def doctor() -> list[Check]:
    return check_modules(
        {
            "transformers": "the language model and the vision tower",
            "tokenizers": "text as tokens",
            "scipy": "regions",
            "PIL": "screenshots",
            "lightning": "training",
        }
    )


domain = Domain(
    name="gui-grounding",
    question="Where on this screenshot is what the instruction means? (a screenshot and an instruction → V2P → a click)",
    recognises=claim,
    glance=lazily("gui_grounding.commands.inspect:glance"),
    demo=lazily("gui_grounding.commands.demo:demo"),
    doctor=doctor,
    app="gui_grounding.cli:app",
    kinds="screenshots, and grounding annotations (ScreenSpot, v2, Pro, OSWorld-G, GUI-Actor training sets)",
)
