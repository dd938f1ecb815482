"""``attention-suite list``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.domains import Domain, domains


@dataclass(frozen=True)
class DomainList(Outcome):
    """The installed domains, and why others cannot be imported."""

    domains: Sequence[Domain]
    broken: Mapping[str, str]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.broken else 0

    def facts(self) -> dict[str, Any]:
        rows = []
        for domain in self.domains:
            rows.append({"name": domain.name, "question": domain.question, "recognises": domain.kinds})
        return {"domains": rows, "broken": self.broken}

    def lines(self) -> Iterable[str]:
        for domain in self.domains:
            yield f"{domain.name:24} {domain.question}"
        for name, why in self.broken.items():
            yield f"{name:24} cannot be imported: {why}"


def list_domains() -> DomainList:
    """Lists the installed domains and the question that each answers.

    Example: attention-suite list
    """
    installed, broken = domains()
    return DomainList(list(installed.values()), broken)
