"""What judging a benchmark leaves: one row per item and predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Judged:
    """One row per item and predictor.

    Attributes:
        rows: each with predictor, id, group, and its measures.
        measures: which of its values are measured, each a mean over rows unless `tabulate` knows better.
        account: what was read.
        missing: items that could not be judged; `why` says of what.
        settings: what the figures depend on.
    """

    rows: Sequence[Mapping[str, Any]]
    measures: tuple[str, ...]
    account: str
    missing: int
    why: str
    settings: dict[str, Any]

    def by_predictor(self) -> dict[str, list[Mapping[str, Any]]]:
        """The rows of each predictor, in order."""
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.rows:
            rows.setdefault(row["predictor"], []).append(row)
        return rows
