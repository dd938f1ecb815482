"""The one table of an arena, from its cells: means over seeds with intervals, as rows, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from language_models.arena.cells import Budget, cell_path

# two-sided 95 % quantiles of Student's t by degrees of freedom; from ten on the difference is small
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Figure:
    """A mean over seeds.

    Attributes:
        mean: None where no seed has it; `why` says why.
        margin: half of the 95 % interval (Student's t over seeds); None for a single seed.
    """

    mean: float | None
    margin: float | None = None
    why: str = ""

    def shown(self, digits: int = 3) -> str:
        """As in a table."""
        if self.mean is None:
            return f"– ({self.why})" if self.why else "–"
        text = f"{self.mean:.{digits}f}"
        return text if self.margin is None else f"{text} ± {self.margin:.{digits}f}"


def figure_of(values: Sequence[float | None], why: str = "") -> Figure:
    """Mean and margin of the values of the seeds that have one."""
    present = [value for value in values if value is not None and math.isfinite(value)]
    if not present:
        return Figure(None, None, why)
    if len(present) < 2:
        return Figure(present[0])
    margin = STUDENT.get(len(present) - 1, 2.0) * stdev(present) / math.sqrt(len(present))
    return Figure(mean(present), margin)


@dataclass(frozen=True)
class Row:
    """One kind.

    Attributes:
        context: tokens of a training window.
        bits: bits per byte by context.
        needles: accuracy by length, over all depths.
        needle_grid: accuracy by length and depth.
        recall: accuracy by pairs.
        speed: by length: prefill and decode in ms per token, state and peak in bytes.
        failed: part → why it has no figures.
    """

    kind: str
    context: int
    parameters: int | None
    train_tokens_per_second: Figure
    bits: Mapping[int, Figure]
    needles: Mapping[int, Figure]
    needle_grid: Mapping[int, Mapping[float, float]]
    recall: Mapping[int, Figure]
    speed: Mapping[int, Mapping[str, Any]]
    failed: Mapping[str, str]


def collect(out: Path, kinds: Sequence[str], seeds: int, budget: Budget, failures: Mapping[str, str]) -> list[Row]:
    """The rows of an arena, from the cells that are there."""
    return [_row(out, kind, seeds, budget, failures) for kind in kinds]


def _cells(out: Path, part: str, kind: str, seeds: int) -> list[dict[str, Any]]:
    cells = []
    for seed in range(seeds):
        path = cell_path(out, part, kind, seed)
        if path.is_file():
            cells.append(json.loads(path.read_text(encoding="utf-8")))
    return cells


def _row(out: Path, kind: str, seeds: int, budget: Budget, failures: Mapping[str, str]) -> Row:
    text, recall = _cells(out, "text", kind, seeds), _cells(out, "recall", kind, seeds)
    speed = _cells(out, "speed", kind, 1)
    failed = {}
    for name, reason in failures.items():
        part, failed_kind, _ = name.split(" · ")  # as `arena` names its cells
        if failed_kind == kind:
            failed[part] = reason
    why = failed.get("text") or (text[0]["why_missing"] if text else "not run")
    # keys of JSON are texts; a cell lacks the contexts that its kind cannot read
    values_of: dict[int, list[float]] = {}
    for cell in text:
        for context, values in cell["bits_per_byte"].items():
            values_of.setdefault(int(context), []).append(mean(values))
    bits = {context: figure_of(values_of[context]) for context in sorted(values_of)}
    needles, needle_grid = {}, {}
    for length in budget.needle_lengths:
        grids = [cell["needles"][str(length)] for cell in text if str(length) in cell["needles"]]
        needles[length] = figure_of([mean(grid.values()) for grid in grids], why)
        if grids:
            needle_grid[length] = {float(depth): mean(grid[depth] for grid in grids) for depth in grids[0]}
    pairs = sorted({int(n) for cell in recall for n in cell["recall"]})
    return Row(
        kind,
        budget.context,
        text[0]["parameters"] if text else None,
        figure_of([cell["train_tokens_per_second"] for cell in text], why),
        bits,
        needles,
        needle_grid,
        {n: figure_of([cell["recall"][str(n)] for cell in recall]) for n in pairs},
        {int(n): row for n, row in (speed[0]["speed"] if speed else {}).items()},
        failed,
    )


def columns(rows: Sequence[Row], budget: Budget) -> list[tuple[str, Any]]:
    """(title, how to read it from a row) of every column that some row has."""
    titled: list[tuple[str, Any]] = [
        ("kind", lambda row: row.kind),
        ("parameters", lambda row: "" if row.parameters is None else f"{row.parameters:,}"),
    ]
    for context in sorted({c for row in rows for c in row.bits}):
        titled.append((f"bits/byte @ {context}", lambda row, c=context: row.bits.get(c, Figure(None)).shown()))
    for number in sorted({n for row in rows for n in row.recall}):
        titled.append(
            (
                f"MQAR {number}",
                lambda row, n=number: row.recall.get(n, Figure(None, why=row.failed.get("recall", ""))).shown(2),
            )
        )
    for length in budget.needle_lengths:
        titled.append((f"needle {length}", lambda row, n=length: row.needles[n].shown(2)))
    titled.append(("train tokens/s", lambda row: row.train_tokens_per_second.shown(0)))
    for length in sorted({n for row in rows for n in row.speed}):
        for name, title, factor, digits in (
            ("prefill_ms_per_token", "prefill ms/token", 1, 3),
            ("decode_ms_per_token", "decode ms/token", 1, 2),
            ("state_bytes", "state kB", 1 / 1000, 0),
            ("peak_bytes", "peak MB", 1e-6, 0),
        ):
            titled.append(
                (f"{title} @ {length}", lambda row, n=length, k=name, f=factor, d=digits: _speed(row, n, k, f, d))
            )
    return titled


def _speed(row: Row, length: int, name: str, factor: float, digits: int) -> str:
    at = row.speed.get(length, {})
    if name not in at:
        why = at.get("why", row.failed.get("speed", ""))
        return f"– ({why})" if why else "–"
    return f"{at[name] * factor:.{digits}f}"


def cells_of(rows: Sequence[Row], budget: Budget) -> tuple[list[str], list[list[str]]]:
    """The table as words: titles, and one list a row."""
    shown = columns(rows, budget)
    return [title for title, _ in shown], [[read(row) for _, read in shown] for row in rows]


def as_csv(rows: Sequence[Row], budget: Budget) -> str:
    """Comma-separated values."""
    titles, body = cells_of(rows, budget)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(body)
    return out.getvalue()


def as_markdown(rows: Sequence[Row], budget: Budget) -> str:
    """A Markdown table for each group of columns, so that none is too wide to read."""
    titles, body = cells_of(rows, budget)
    groups: dict[str, list[int]] = {}
    for place, title in enumerate(titles):
        if place > 1:
            name = "speed" if ("@" in title and "bits" not in title) or "train" in title else title.split()[0]
            groups.setdefault(name, []).append(place)
    parts = []
    for places in groups.values():
        shown = [0, *([1] if not parts else []), *places]
        lines = ["| " + " | ".join(titles[i] for i in shown) + " |", "|" + "---|" * len(shown)]
        for row in body:
            lines.append("| " + " | ".join(row[i] for i in shown) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_json(rows: Sequence[Row], budget: Budget, facts: Mapping[str, Any]) -> str:
    """Everything, for programs."""
    return json.dumps({**facts, "budget": asdict(budget), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
