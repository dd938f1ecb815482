"""``attention-suite doctor``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.domains import Check, domains
from core_runtime.errors import clean


@dataclass(frozen=True)
class Health(Outcome):
    """Checks, each with the domain that it belongs to."""

    checks: Sequence[tuple[str, Check]]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if all(check.ok for _, check in self.checks) else 1

    def facts(self) -> list[dict[str, Any]]:
        rows = []
        for name, check in self.checks:
            rows.append({"domain": name, "check": check.name, "ok": check.ok, "note": check.note})
        return rows

    def lines(self) -> Iterable[str]:
        for name, check in self.checks:
            state = "MISSING"
            if check.ok:
                state = "ok     "  # as wide as MISSING
            note = ""
            if check.note:
                note = f" ({check.note})"
            yield f"{state} {name}: {check.name}{note}"


def doctor() -> Health:
    """Checks every installed domain, one line per check; exit status 1 if something is missing.

    Example: attention-suite doctor
    """
    installed, broken = domains()
    # A package that cannot be imported is one failed check, and so is a doctor that fails: the other domains still answer.
    checks = [(name, Check("import", False, why)) for name, why in broken.items()]
    for name, domain in installed.items():
        try:
            for check in domain.doctor():
                checks.append((name, check))
        except Exception as error:
            checks.append((name, Check("doctor", False, clean(f"{type(error).__name__}: {error}"))))
    return Health(checks)
