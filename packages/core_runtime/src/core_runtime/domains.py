"""A field as the suite sees it: how it recognises its files, what it can show in a minute, what it needs.

A domain package registers one `Domain` for each of its commands under the entry-point group ``attention_suite.domains``. It is data: the rooms that it
names are imported when they are needed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
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
    """One domain, or one group of a domain's command. Its verbs stand in the rooms of `package` (docs/architecture.md).

    Args:
        name: the command, ``pathology-mil`` (``remote-sensing maps`` for a group).
        package: where its rooms are, ``pathology_mil``, ``remote_sensing.maps``.
        question: the question that it answers for its users, in one line.
        claim: import path of a cheap look at a path: a `Claim`, or None where the domain can do nothing with it. It never raises for a
            damaged file.
        kinds: what it recognises, in words, for the message when nothing fits.
        needs: module → what it is for.
        extras: optional module → what to install for which purpose.
        notes: further lines of its doctor.
    """

    name: str
    package: str
    question: str
    claim: str
    kinds: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[Check] = ()

    @property
    def app(self) -> str:
        """Import path of the command: a group's is the whole command."""
        return f"{self.package.partition('.')[0]}.cli:app"

    def recognises(self, path: Path) -> Claim | None:
        """How sure the domain is that a path is its own."""
        return _imported(self.claim)(path)

    def glance(self, path: Path) -> Findings:
        """First look within a minute, with pictures.

        Raises:
            UserError: a file of its own that cannot be read.
        """
        return _imported(f"{self.package}.commands.inspect:glance")(path)

    def demo(self, out: Path, **options: Any) -> DemoResult:
        """Makes samples, trains, evaluates, predicts and reports; `options` as of the verb ``demo``."""
        return _imported(f"{self.package}.commands.demo:demo")(out, **options)

    def doctor(self) -> list[Check]:
        """Whether what it needs is here."""
        return [*check_modules(self.needs, self.extras), *self.notes]


def _imported(path: str) -> Callable[..., Any]:
    """The function at an import path, ``"ieeg.recordings.formats:claim"``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def domains() -> tuple[dict[str, Domain], dict[str, str]]:
    """The installed domains by name, and of each that cannot be imported, why."""
    from importlib.metadata import (
        entry_points,
    )  # not above: every demo imports this module, and --help needs no reader of metadata

    installed: dict[str, Domain] = {}
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            domain = entry.load()
        except Exception as error:
            broken[entry.name] = clean(f"{type(error).__name__}: {error}")
        else:
            installed[domain.name] = domain
    return installed, broken


def check_modules(purposes: Mapping[str, str], extras: Mapping[str, str]) -> list[Check]:
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
    for module, advice in extras.items():
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
