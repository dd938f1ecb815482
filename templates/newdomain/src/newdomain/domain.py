"""What the suite knows of this domain; imports nothing heavy."""

from pathlib import Path

from core_runtime.suite import Check, DemoResult, Domain, Glance
from newdomain.signals import read_signal, recognises


def glance(path: Path) -> Glance:
    from newdomain.figures import draw_signal

    signal = read_signal(path)
    return Glance(
        title=f"Signal {signal.name}",
        usable=True,
        summary=f"{len(signal.values)} samples over {signal.seconds[-1] - signal.seconds[0]:.1f} s",
        facts=[("samples", len(signal.values)), ("windows", len(signal.windows()))],
        pictures=[(draw_signal(signal), "The trace")],
        next_commands=[f"newdomain predict '{path}' --model RUN/model"],
    )


def demo(out: Path, full: bool) -> DemoResult:
    from newdomain.demo import run_demo

    return run_demo(out, full)


def doctor() -> list[Check]:
    import torch

    return [Check("torch", True, torch.__version__)]


domain = Domain(
    name="newdomain",
    question="NEWQUESTION",
    recognises=recognises,
    glance=glance,
    demo=demo,
    doctor=doctor,
    app="newdomain.cli:app",
    kinds="signals (CSV with the columns seconds,value)",
)
