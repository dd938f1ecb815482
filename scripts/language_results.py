"""The results page of language_models, and the table of which mechanism for which length, from finished arenas.

python scripts/language_results.py corpus library.txt            # the interpreter's own library as one text
language-models arena --text library.txt --out arena-library …
python scripts/language_results.py page shakespeare=arena-shakespeare library=arena-library
python scripts/language_results.py findings findings       # the folder of scripts/language_findings.py
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- arena -->", "<!-- /arena -->"
FINDINGS = ("<!-- findings -->", "<!-- /findings -->")
TITLES = {
    "recall": "Associative recall (accuracy by pairs; 8 pairs were never trained)",
    "rescue": "A quarter of Standard layers (bits per byte of held-out text, by context)",
    "titans": "Titans beside a window of equal length",
    "landmark": "Pass keys up to 16 times the training length",
}


def write_corpus(out: Path) -> str:
    """Writes the .py files of the standard library without tests and site-packages, sorted, and says version, bytes and digest."""
    root = Path(sysconfig.get_path("stdlib"))
    parts = []
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root).parts
        if not {"test", "tests", "idle_test", "site-packages", "lib2to3"} & set(inside):
            parts.append(file.read_bytes().decode("utf-8", errors="ignore"))
    text = "\n".join(parts).replace("\0", "")
    out.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"Python {platform.python_version()}, {len(parts)} files, {len(text.encode())} bytes, SHA-256 {digest}"


def mean_of(row: dict[str, Any], table: str, key: str) -> float | None:
    """The mean of one figure of a row; None where there is none."""
    figure = row[table].get(key)
    return None if figure is None else figure["mean"]


def advice(arena: dict[str, Any]) -> str:
    """For every needle length: who finds most, and of these who decodes fastest; and the lowest bits per byte at each context."""
    lines = ["| length | lowest bits per byte | most needles found | kinds with at least 90 % |", "|---|---|---|---|"]
    rows = arena["rows"]
    lengths = sorted({int(n) for row in rows for n in (*row["bits"], *row["needles"])})
    for length in lengths:
        key = str(length)
        bits = {row["kind"]: mean_of(row, "bits", key) for row in rows}
        needles = {row["kind"]: mean_of(row, "needles", key) for row in rows}
        # the best of many kinds at chance (1/16) is luck: 20 needles reach a quarter once in thousands of tries
        found: dict[str, float | None] = {
            kind: value for kind, value in needles.items() if value is not None and value > 0.25
        }
        none_found = "none above chance" if any(value is not None for value in needles.values()) else "–"
        most = _best(found, True) if found else none_found
        lines.append(f"| {length} | {_best(bits, False)} | {most} | {_reaching(needles)} |")
    return "\n".join((*lines, "", *costs(rows)))


def costs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds by how much a decoded token and the state grow from the shortest to the longest length that was measured."""
    lengths = sorted({int(n) for row in rows for n in row["speed"]})
    if len(lengths) < 2:
        return []
    first, last = str(lengths[0]), str(lengths[-1])
    lines = [
        f"| kind | decode ms/token @ {first} | @ {last} | state kB @ {first} | @ {last} |",
        "|---|---|---|---|---|",
    ]
    measured = [row for row in rows if "state_bytes" in row["speed"].get(last, {})]
    for row in sorted(measured, key=lambda each: each["speed"][last]["state_bytes"]):
        begin, end = row["speed"][first], row["speed"][last]
        times = f"{begin['decode_ms_per_token']:.1f} | {end['decode_ms_per_token']:.1f}"
        sizes = f"{begin['state_bytes'] / 1000:,.0f} | {end['state_bytes'] / 1000:,.0f}"
        lines.append(f"| {row['kind']} | {times} | {sizes} |")
    short = [row["kind"] for row in rows if row not in measured]
    if short:
        lines += ["", f"Not measured at {last}: {', '.join(short)} (the fixed stream of this arena ends before)."]
    return lines


def _best(values: dict[str, float | None], largest: bool) -> str:
    told = {kind: value for kind, value in values.items() if value is not None}
    if not told:
        return "–"
    choose = max if largest else min
    kind = choose(told, key=lambda k: told[k])
    return f"{kind} ({told[kind]:.2f})"


def _reaching(values: dict[str, float | None]) -> str:
    kinds = [kind for kind, value in values.items() if value is not None and value >= 0.9]
    return ", ".join(kinds) or "none"


def write_pages(named: Sequence[str]) -> None:
    """Replaces what stands between the marks of docs/results-language.md and docs/language-which.md."""
    results, which = [], []
    for each in named:
        name, _, folder = each.partition("=")
        arena = json.loads((Path(folder) / "arena.json").read_text(encoding="utf-8"))
        seeds = "1 seed" if arena["seeds"] == 1 else f"{arena['seeds']} seeds"
        budget = ", ".join(f"{key} {value}" for key, value in arena["budget"].items())
        results.append(
            f"## {name}\n\n{arena['bytes']:,} bytes, {seeds}; {budget}.\n\n{(Path(folder) / 'arena.md').read_text()}"
        )
        which.append(f"## {name}, trained on windows of {arena['context']}\n\n{advice(arena)}\n")
    replace_between(DOCS / "results-language.md", (BEGIN, END), results)
    replace_between(DOCS / "language-which.md", (BEGIN, END), which)


def replace_between(page: Path, marks: tuple[str, str], parts: Sequence[str]) -> None:
    """Replaces what stands between two marks of a page."""
    begin, end = marks
    before, rest = page.read_text(encoding="utf-8").split(begin)
    text = before + begin + "\n\n" + "\n".join(parts) + "\n" + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def write_findings(folder: Path) -> None:
    """The small targeted runs, a table each."""
    parts = []
    for name, title in TITLES.items():
        cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / name).glob("*.json"))]
        if cells:
            parts.append(f"### {title}\n\n{finding_table(cells)}\n")
    replace_between(DOCS / "results-language.md", FINDINGS, parts)


def finding_table(cells: Sequence[dict[str, Any]]) -> str:
    """A row per kind and seed; accuracies of needles are means over their depths."""
    rows = []
    for cell in cells:
        row: dict[str, str] = {"kind": cell["kind"], "seed": str(cell["seed"]), "parameters": f"{cell['parameters']:,}"}
        row["steps"] = str(cell["steps"])
        if "layers" in cell:
            row["layers"] = str(cell["layers"])
        for pairs, share in cell.get("recall", {}).items():
            row[f"{pairs} pairs"] = f"{share:.2f}"
        for context, bits in cell.get("bits_per_byte", {}).items():
            row[f"bits/byte @ {context}"] = f"{bits:.3f}"
        for length, grid in cell.get("needles", {}).items():
            row[f"needle {length}"] = f"{mean(grid.values()):.2f}"
        rows.append(row)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        lines.append("| " + " | ".join(row.get(title, "–") for title in titles) + " |")
    return "\n".join(lines)


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "corpus":
        print(write_corpus(Path(words[0])))
    elif verb == "page":
        write_pages(words)
    elif verb == "findings":
        write_findings(Path(words[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
