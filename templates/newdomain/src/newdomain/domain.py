"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="newdomain",
    package="newdomain",
    question="NEWQUESTION",
    claim="newdomain.signals.formats:claim",
    kinds="signals (CSV with the columns seconds,value)",
    needs={"lightning": "training", "matplotlib": "pictures"},
)
