"""Do the tests notice? Puts one-line faults into a package, one at a time, and runs its quick tests on each.

A fault is a comparison at its edge (< for <=), another operator or rounding, a constant moved, min for max, a negation dropped, True for False. Faults
are drawn by a seed from the lines of the chosen files; those that survive are printed with their line, to be caught by a new test or explained.

    uv run python scripts/mutants.py ieeg --number 20 --seed 1
    uv run python scripts/mutants.py remote_sensing --files "maps/vectors/*.py" --number 10
    uv run python scripts/mutants.py core_runtime --list

The package is copied to a temporary folder first: the working tree is never touched.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*"}
NAMES = {"floor": "ceil", "ceil": "floor", "min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin"}
SPELLED = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One place in a file, and what stands there instead."""

    path: Path
    line: int
    begin: int
    end: int
    before: str
    after: str

    def source(self) -> str:
        """The whole file with the fault in it."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        line = lines[self.line - 1].encode()
        lines[self.line - 1] = (line[: self.begin] + self.after.encode() + line[self.end :]).decode()
        return "".join(lines)

    def __str__(self) -> str:
        text = self.path.read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        return f"{self.path.name}:{self.line}:{self.begin}: {self.before} → {self.after}    in `{text[:90]}`"


def faults_of(path: Path) -> Iterator[Fault]:
    """Every fault that this script knows how to put into a file."""
    text = path.read_text(encoding="utf-8")
    lines = [line.encode() for line in text.splitlines()]
    annotations = {id(inner) for node in ast.walk(ast.parse(text)) for inner in _annotation_nodes(node)}
    for node in ast.walk(ast.parse(text)):
        if id(node) in annotations or not hasattr(node, "lineno") or node.lineno != node.end_lineno:
            continue
        line, begin, end = node.lineno, node.col_offset, node.end_col_offset
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            yield from _between(path, lines, node.left, node.comparators[0], node.ops[0], COMPARISONS)
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield from _between(path, lines, node.left, node.right, node.op, OPERATORS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield Fault(path, line, begin, end, str(node.value), str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) < 10_000:
            yield Fault(path, line, begin, end, str(node.value), str(node.value + 1))
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield Fault(path, line, begin, end, str(node.value), str(node.value * 0.9 if node.value else 0.1))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield Fault(path, line, begin, begin + 4, "not ", "")
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            stop = node.func.end_col_offset or 0
            if name in NAMES and node.func.lineno == node.func.end_lineno:
                yield Fault(path, line, stop - len(name), stop, name, NAMES[name])


def _annotation_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of annotations and decorators, in which a fault would change nothing that a test should see."""
    for part in (
        getattr(node, "annotation", None),
        getattr(node, "returns", None),
        *getattr(node, "decorator_list", ()),
    ):
        if isinstance(part, ast.AST):
            yield from ast.walk(part)


def _between(
    path: Path, lines: list[bytes], left: ast.expr, right: ast.expr, op: ast.AST, table: dict
) -> Iterator[Fault]:
    """The fault of an operator that stands between two operands on one line."""
    if left.end_lineno != right.lineno:
        return
    begin, end = left.end_col_offset or 0, right.col_offset
    between, spelled = lines[left.end_lineno - 1][begin:end], SPELLED[type(op)].encode()
    if between.count(spelled) != 1:
        return
    at = begin + between.index(spelled)
    yield Fault(path, left.end_lineno, at, at + len(spelled), spelled.decode(), table[type(op)])


def draw(package: str, pattern: str, number: int, seed: int, sources: Path) -> list[Fault]:
    """Faults of the chosen files, one per line at most, the same under a seed."""
    root = sources / package
    known = [
        fault
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).match(pattern)
        for fault in faults_of(path)
    ]
    random.Random(seed).shuffle(known)
    per_line = {(fault.path, fault.line): fault for fault in reversed(known)}
    drawn = [fault for fault in known if per_line[(fault.path, fault.line)] is fault]
    return drawn[:number]


def caught(fault: Fault, tests: list[str], sources: Path, limit: float) -> str:
    """What the tests make of a fault: "caught", "hangs" (also caught) or "survives"."""
    whole = fault.path.read_text(encoding="utf-8")
    fault.path.write_text(fault.source(), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        end = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=limit)
        return "survives" if end.returncode == 0 else "caught"
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        fault.path.write_text(whole, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="as in packages/: ieeg, pathology_mil, …")
    parser.add_argument("--files", default="*.py", help="which files, below the package (default: all)")
    parser.add_argument("--tests", nargs="*", help="which tests (default: those of the package)")
    parser.add_argument("--number", type=int, default=20, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600, help="seconds per fault")
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    arguments = parser.parse_args()
    tests = arguments.tests or [f"packages/{arguments.package}/tests"]
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "src"
        shutil.copytree(ROOT / "packages" / arguments.package / "src", sources)
        faults = draw(arguments.package, arguments.files, arguments.number, arguments.seed, sources)
        if not faults:
            sys.exit("Error: no file of that name holds a place for a fault")
        counts: dict[str, int] = {}
        for fault in faults:
            began = time.monotonic()
            state = "drawn" if arguments.list else caught(fault, tests, sources, arguments.limit)
            counts[state] = counts.get(state, 0) + 1
            print(f"{state:8} {time.monotonic() - began:5.0f} s  {fault}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))


if __name__ == "__main__":
    main()
