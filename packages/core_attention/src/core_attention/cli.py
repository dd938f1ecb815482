"""The command ``core-attention``: list · show · verify · bench · why.

Imports of anything heavy stay inside the verbs, so that ``--help`` answers at once.
"""

import argparse
import glob
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core_attention.golden import Result
    from core_attention.golden_compare import Row


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="core-attention",
        description="Published attention systems: what is here, what it costs, and whether it equals the original.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verify = verbs.add_parser(
        "verify",
        help="replay golden cases against the published results",
        description="Replays golden cases: builds each component, runs it on the recorded inputs and compares every "
        "output, gradient and updated state. Exit status: 1 if a case differs or raises, else 2 if one is unknown or "
        "unusable, else 0.",
        epilog="example: core-attention verify packages/core_attention/tests/golden --json",
    )
    verify.add_argument("cases", nargs="+", metavar="CASE", help="a case's JSON file, a folder of them, or a pattern")
    verify.add_argument("--data", type=Path, metavar="DIR", help="where input files of the cases are looked for")
    verify.add_argument("--device", default="cpu", help="where components run (default: cpu)")
    verify.add_argument("--no-skip", action="store_true", help="a missing input file is a failure")
    verify.add_argument("--json", action="store_true", help="print every comparison as JSON")
    verify.add_argument("-v", "--verbose", action="store_true", help="print the traceback of a component that raises")
    verify.set_defaults(run=_verify)
    return parser


def _verify(args: argparse.Namespace) -> int:
    from core_attention.golden import verify

    results = []
    for path in _case_paths(args.cases):
        result = verify(path, device=args.device, data=args.data)
        results.append(result)
        if not args.json:
            _print_result(result, verbose=args.verbose)
    counts = Counter(result.status for result in results)
    if args.json:
        print(json.dumps({"cases": [_as_json(result) for result in results], "counts": counts}, indent=1))
    elif len(results) > 1:
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=_order)))
    if counts["differs"] or (args.no_skip and counts["skipped"]):
        return 1
    return 2 if counts["unknown"] or counts["unusable"] else 0


def _order(item: tuple[str, int]) -> int:
    return ("ok", "differs", "skipped", "unknown", "unusable").index(item[0])


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


def _print_result(result: "Result", *, verbose: bool) -> None:
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


def _describe(row: "Row") -> str:
    if math.isinf(row.error) and row.index is None:
        return row.name
    at = f" at {list(row.index)}" if row.index else ""
    return f"{row.name} (error {row.error:.3g}, limit {row.limit:.3g}{at})"


def _as_json(result: "Result") -> dict[str, Any]:
    rows = [
        {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in vars(row).items()
        }
        for row in result.rows
    ]
    return {**vars(result), "path": str(result.path), "rows": rows}


if __name__ == "__main__":
    raise SystemExit(main())
