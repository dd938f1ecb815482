"""What the suite knows of this domain; imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from newdomain.signals.formats import claim


def doctor() -> list[Check]:
    return check_modules({"lightning": "training", "matplotlib": "pictures"})


domain = Domain(
    name="newdomain",
    question="NEWQUESTION",
    recognises=claim,
    glance=lazily("newdomain.commands.inspect:glance"),
    demo=lazily("newdomain.commands.demo:demo"),
    doctor=doctor,
    app="newdomain.cli:app",
    kinds="signals (CSV with the columns seconds,value)",
)
