"""The files of an evaluation: predictions, tables, and a page with the most confident misses."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_runtime.cli import plain
from core_runtime.folders import write_text
from core_runtime.report import Report
from core_runtime.statistics import FEW, RARE
from gui_grounding.items.item import Target
from gui_grounding.reports.overlay import mark, shade
from gui_grounding.screens.pictures import open_screenshot

_SHOWN = 24  # failures on the page
COLUMNS = ("predictor", "slice", "items", "hit@1", "low", "high", "hit@k", "mass", "overlap", "median distance")
INTERVALS = (
    "95 % intervals of hit@1: bootstrap over whole screenshots, widened to Wilson's interval with as many items as there are screenshots "
    f"where these are fewer than {FEW}, or the rarer outcome is expected in fewer than {RARE} of them."
)


def write_evaluation(folder: Path, evaluation: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes predictions.jsonl, metrics.json, table.md, table.csv, table.tex and report.html."""
    lines = [json.dumps(plain(row), ensure_ascii=False) for row in rows]
    write_text(folder / "predictions.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "metrics.json", json.dumps(plain(evaluation.facts()), ensure_ascii=False, indent=1) + "\n")
    table = table_rows(evaluation.table)
    write_text(folder / "table.csv", _csv(table))
    unjudged = ""
    if evaluation.values["failed_items"]:
        unjudged = f"\n{evaluation.unjudged}\n"
    write_text(folder / "table.md", _markdown(table) + unjudged)
    write_text(folder / "table.tex", _latex(table))
    _page(evaluation, rows, table).write(folder / "report.html")


def table_rows(table: Mapping[str, Any]) -> list[list[Any]]:
    """A row per predictor and slice, in the order of `COLUMNS`."""
    rows = []
    for predictor, slices in table.items():
        for name, entry in slices.items():
            hit = entry["hit@1"]
            row: list[Any] = [predictor, name, entry["items"], hit["value"], hit["low"], hit["high"]]
            row += [entry[measure]["value"] for measure in ("hit@k", "mass", "overlap")]
            rows.append([*row, entry["median distance"]])
    return rows


def _page(evaluation: Any, rows: Sequence[Mapping[str, Any]], table: Sequence[Sequence[Any]]) -> Report:
    values = evaluation.values
    page = Report("GUI grounding", lead=f"{values['account']}, on {values['screenshots']} screenshots.")
    for note in values["notes"]:
        page.warning(note)
    if values["failed_items"]:
        page.warning(evaluation.unjudged)
    shown = (
        "precision",
        "device",
        "min_pixels",
        "max_pixels",
        "regions_ranked_by",
        "system_message",
        "asked",
        "versions",
    )
    page.facts([(name, str(values[name])) for name in shown if name in values])
    page.heading("Scores")
    cells = [[None if isinstance(cell, float) and cell != cell else cell for cell in row] for row in table]
    page.table(COLUMNS, cells, caption=INTERVALS)
    if values["calibration"] is not None:
        page.heading("Can its probabilities be believed?").facts(values["calibration"].items())
    last = ""
    if rows:
        last = rows[-1]["predictor"]
    missed = [row for row in rows if row["predictor"] == last and not row["hit@1"]]
    missed.sort(key=lambda row: -(row["confidence"] or 0.0))
    page.heading(f"Misses of {last}: {len(missed)}, the most confident first")
    for row in missed[:_SHOWN]:
        page.picture(draw_row(row), _caption(row), width=420)
    return page


def draw_row(row: Mapping[str, Any]) -> Any:
    """One judged item: targets in green, points as crosses."""
    targets = [Target(target["shape"], [(x, y) for x, y in target["points"]]) for target in row["targets"]]
    points = []
    if row["points"]:
        points = [[(x, y) for x, y in row["points"]]]
    shown = shade(open_screenshot(Path(row["image"])).image, None, longest=720)
    return mark(shown, points, [], targets, abstains=bool(row["abstains"]))


def _caption(row: Mapping[str, Any]) -> str:
    confidence = row["confidence"]
    sure = ""
    if confidence is not None:
        sure = f", confidence {confidence:.2f}"
    answer = "missed"
    if row["abstains"]:
        answer = "said: not here"
    return f"{row['id']}: “{row['instruction'][:200]}”, {answer}{sure}"


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return out.getvalue()


def _markdown(rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_short(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _latex(rows: Sequence[Sequence[Any]]) -> str:
    lines = [r"\begin{tabular}{ll" + "r" * (len(COLUMNS) - 2) + "}", " & ".join(COLUMNS) + r" \\ \hline"]
    for row in rows:
        cells = [_short(cell) for cell in row]
        for before, after in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("×", r"$\times$")):
            cells = [cell.replace(before, after) for cell in cells]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _short(cell: Any) -> str:
    if isinstance(cell, float):
        if cell != cell:
            return "–"
        return f"{cell:.3f}"
    return str(cell)
