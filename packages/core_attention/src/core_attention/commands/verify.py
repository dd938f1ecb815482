"""Replay golden cases against the published results.

Builds each component, runs it on the recorded inputs and compares every output, gradient and updated state. Exit status: 1 if a case
differs or raises, else 2 if one is unknown or unusable, else 0.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_attention.commands.frame import add_device, check_device

if TYPE_CHECKING:
    from core_attention.golden.compare import Row
    from core_attention.golden.replay import Result

EXAMPLE = "core-attention verify packages/core_attention/tests/golden --json"
_STATUSES = ("ok", "differs", "skipped", "unknown", "unusable")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="+", metavar="CASE", help="a case's JSON file, a folder of them, or a pattern")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the input files of the cases")
    add_device(parser)
    parser.add_argument("--no-skip", action="store_true", help="a missing input file is a failure")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the traceback of a component that raises")


def run(cases: Sequence[str], *, data: Path | None, device: str, no_skip: bool, verbose: bool, as_json: bool) -> int:
    from core_attention.golden.history import record
    from core_attention.golden.replay import verify

    check_device(device)
    results = []
    for path in _case_paths(cases):
        result = verify(path, device=device, data=data)
        results.append(result)
        if not as_json:
            _print_result(result, verbose=verbose)
    counts = Counter(result.status for result in results)
    if as_json:
        print(json.dumps({"cases": [_facts(result) for result in results], "counts": counts}, indent=1))
    elif len(results) > 1:
        print(", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status]))
    try:
        record(results, device=device)
    except OSError as error:
        print(f"the results are not recorded for `core-attention list`: {error}", file=sys.stderr)
    if counts["differs"] or (no_skip and counts["skipped"]):
        return 1
    return 2 if counts["unknown"] or counts["unusable"] else 0


def _case_paths(arguments: Sequence[str]) -> Iterator[Path]:
    """The case files that the arguments name; what names nothing is passed on, and reported as unreadable."""
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from sorted(path.rglob("*.json")) or [path]
        elif path.exists() or not glob.has_magic(argument):
            yield path
        else:
            yield from sorted(Path(match) for match in glob.glob(argument, recursive=True)) or [path]


def _print_result(result: Result, *, verbose: bool) -> None:
    title = f"{result.status:<9} {result.path.stem}"
    if result.component:
        title += f" · {result.system}/{result.component}"
    if result.message:
        title += f": {result.message}"
    elif result.nearest is not None:
        title += f" · {len(result.rows)} compared, nearest its limit {_describe(result.nearest)}"
    elif result.status == "ok":
        title += " · nothing compared: everything recorded is optional"
    print(title, flush=True)
    if result.status == "differs":
        for row in result.rows:
            if not row.ok:
                print(f"          {_describe(row)}: {row.problem}", flush=True)
    if verbose and result.trace:
        print(result.trace, file=sys.stderr)


def _describe(row: Row) -> str:
    if math.isinf(row.error) and row.index is None:
        return row.name
    place = f" at {list(row.index)}" if row.index else ""
    return f"{row.name} (error {row.error:.3g}, limit {row.limit:.3g}{place})"


def _facts(result: Result) -> dict[str, Any]:
    return {**vars(result), "path": str(result.path), "rows": [_finite(vars(row)) for row in result.rows]}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: it is written as text."""
    facts = {}
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        facts[key] = value
    return facts
