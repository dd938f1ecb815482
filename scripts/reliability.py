"""Writes the tables of docs/reliability.md: which kinds of unusual and damaged input were tried, how many cases of each, and what happens.

A test takes part with ``@pytest.mark.reliability("what was tried", "what happens", cases=1000)``; `cases` is how many inputs one run of the test tries.
The table counts the tests that passed; a kind of which one failed says so.

    uv run python scripts/reliability.py                 # quick tests
    uv run python scripts/reliability.py --slow          # also those marked slow: the thousand mutations of each format
    uv run python scripts/reliability.py packages/ieeg   # of one package, whose table alone is written anew
    uv run python scripts/reliability.py --print packages/ieeg/tests/recordings
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by scripts/reliability.py -->", "<!-- end -->"


@dataclass
class Kind:
    """One row: what happens, cases that passed, tests that failed or were skipped."""

    outcome: str
    cases: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(eq=False)  # pytest keeps plugins in sets
class Collector:
    """A pytest plugin that counts the marked tests by package and kind."""

    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if item.get_closest_marker("reliability") is None]
        items[:] = [item for item in items if item.get_closest_marker("reliability") is not None]
        config.hook.pytest_deselected(items=others)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        report = yield
        mark = item.get_closest_marker("reliability")
        assert mark is not None
        kind, outcome = mark.args
        parts = item.path.relative_to(ROOT).parts
        package = parts[1] if parts[0] == "packages" else "all commands"
        row = self.kinds.setdefault((package, kind), Kind(outcome))
        if report.skipped:
            row.skipped += 1
        elif report.failed:
            row.failed += 1
        elif report.when == "call":
            row.cases += mark.kwargs.get("cases", 1)
        return report


def tables(kinds: dict[tuple[str, str], Kind]) -> dict[str, str]:
    """Package → its rows as Markdown."""
    by_package: dict[str, list[str]] = {}
    for (package, kind), row in sorted(kinds.items()):
        notes = row.outcome
        if row.failed:
            notes += f" (**{row.failed} failed**)"
        if row.skipped:
            notes += f" ({row.skipped} need files that are not here)"
        lines = by_package.setdefault(package, ["| what was tried | cases | what happens |", "|---|---|---|"])
        lines.append(f"| {kind} | {row.cases:,} | {notes} |")
    return {package: "\n".join(lines) for package, lines in by_package.items()}


def sections(text: str) -> dict[str, str]:
    """Package → its table, of the part of the page that this script writes."""
    found = {}
    for section in text.split("### ")[1:]:
        package, _, rows = section.partition("\n")
        found[package.strip()] = rows.strip()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "paths", nargs="*", help="tests to run (default: all); of what was not run the page keeps its tables"
    )
    parser.add_argument("--slow", action="store_true", help="also the tests marked slow")
    parser.add_argument("--print", action="store_true", help="print the tables, write no page")
    arguments = parser.parse_args()
    collector = Collector()
    marks = "not gpu" if arguments.slow else "not slow and not gpu"
    pytest.main(["-m", marks, "-n", "0", "-q", *arguments.paths], plugins=[collector])
    made = tables(collector.kinds)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    kept = sections(old) if arguments.paths else {}
    shown = made if arguments.print else kept | made
    rows = "\n\n".join(f"### {package}\n\n{shown[package]}" for package in sorted(shown))
    if arguments.print:
        print(rows)
    else:
        PAGE.write_text(f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}", encoding="utf-8")
    if any(row.failed for row in collector.kinds.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
