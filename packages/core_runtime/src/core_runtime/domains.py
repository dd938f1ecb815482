"""A field as the suite sees it: how it recognises its files, what it can show in a minute, what it needs.

A domain package registers one `Domain` for each of its commands under the entry-point group ``attention_suite.domains``. The module that holds it
imports nothing heavy: `lazily` names what is imported when it is called.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import clean
from core_runtime.findings import Findings

GROUP = "attention_suite.domains"


@dataclass(frozen=True)
class Check:
    """One line of a domain's doctor: what was looked at, whether it is as it should be, and what to do if not."""

    name: str
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """How sure a domain is that a file is its own.

    Attributes:
        kind: what the file is to it ("whole-slide image").
        certainty: 0 to 1. As a guide: 1, only this field writes such files (a format of its own, a BIDS data set); 0.8, the content says so;
            0.5, it could be; 0.2, the domain can do something with it, as with any picture.
        evidence: why, in words ("OpenSlide opens it as aperio").
    """

    kind: str
    certainty: float
    evidence: str = ""


@dataclass(frozen=True)
class DemoResult(Outcome):
    """What a domain's demo found: a sentence, the picture worth showing, a table (columns, rows), its own report, figures for programs."""

    headline: str
    report: Path
    pictures: Sequence[tuple[Any, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return {"headline": self.headline, "report": self.report, "metrics": dict(self.metrics)}

    def lines(self) -> Iterable[str]:
        yield self.headline
        yield f"Report: {self.report}"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One domain, or one group of a domain's command.

    Args:
        name: the command, ``pathology-mil`` (``remote-sensing maps`` for a group).
        question: the question that it answers for its users, in one line.
        recognises: cheap look at a path: a `Claim`, or None if it can do nothing with it. Never raises for a damaged file.
        glance: first look within a minute, with pictures; raises `UserError` for a file of its own that cannot be read.
        demo: ``demo(out, full=False)`` makes samples, trains, evaluates, predicts and reports.
        doctor: checks of what the domain needs.
        app: import path of the command, ``pathology_mil.cli:app``.
        kinds: what it recognises, in words, for the message when nothing fits.
    """

    name: str
    question: str
    recognises: Callable[[Path], Claim | None]
    glance: Callable[[Path], Findings]
    demo: Callable[..., DemoResult]
    doctor: Callable[[], list[Check]]
    app: str
    kinds: str = ""


def lazily(path: str) -> Callable[..., Any]:
    """The function at an import path, ``"ieeg.commands.demo:demo"``, imported when it is called."""
    module, _, name = path.partition(":")

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(import_module(module), name)(*arguments, **named)

    return call


def domains() -> tuple[dict[str, Domain], dict[str, str]]:
    """The installed domains by name, and of each that cannot be imported, why."""
    installed: dict[str, Domain] = {}
    broken: dict[str, str] = {}
    entries: list[EntryPoint] = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in entries:
        try:
            domain = entry.load()
        except Exception as error:
            broken[entry.name] = clean(f"{type(error).__name__}: {error}")
        else:
            installed[domain.name] = domain
    return installed, broken


def check_modules(purposes: Mapping[str, str], extras: Mapping[str, str] | None = None) -> list[Check]:
    """One check for each module that a domain needs, and one for torch and its devices.

    Args:
        purposes: module → what it is for.
        extras: optional module → what to install for which purpose.
    """
    checks = []
    for module, purpose in purposes.items():
        try:
            version = getattr(import_module(module), "__version__", "version unknown")
            checks.append(Check(module, True, f"{purpose}, {version}"))
        except (ImportError, OSError) as error:
            checks.append(Check(module, False, f"{purpose}: {clean(str(error))}"))
    for module, advice in (extras or {}).items():
        try:
            import_module(module)
            checks.append(Check(module, True))
        except (ImportError, OSError):
            # what is optional may be missing: the check passes and says what it would be good for
            checks.append(Check(module, True, f"optional: {advice}"))
    return [*checks, _check_torch()]


def _check_torch() -> Check:
    import torch

    device = "CPU only"
    if torch.cuda.is_available():
        device = "CUDA"
    elif torch.backends.mps.is_available():
        device = "MPS"
    return Check("torch", True, f"{torch.__version__}, {device}")
