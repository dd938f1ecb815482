"""Do the tests notice? Puts one-line faults into a package, one at a time, and runs its quick tests on each.

Two sorts of faults:

- *drawn*: a comparison at its edge (< for <=), another operator or rounding, a constant moved, min for max, a negation dropped, True for False. They
  are drawn by a seed from the lines of the chosen files; those that survive are printed with their line, to be caught by a new test or explained.
- *listed* in `packages/PACKAGE/tests/faults.toml`: faults of the field that once went unnoticed, or would hurt. Each says in words what goes wrong,
  in which file, what stands there and what stands there instead.

    uv run python scripts/mutants.py ieeg --number 20 --seed 1
    uv run python scripts/mutants.py remote_sensing --files "maps/vectors/*.py" --number 10
    uv run python scripts/mutants.py pathology_mil --listed --page      # and write the row of docs/reliability.md
    uv run python scripts/mutants.py core_runtime --list

The package is copied to a temporary folder first: the working tree is never touched. Test files that name the faulty module run first, all others
where these pass.
"""

import argparse
import ast
import contextlib
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by scripts/mutants.py -->", "<!-- end of mutants -->"
HEAD = "| package | faults | put in | caught | survived |\n|---|---|---|---|---|"
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
    words: str = ""

    def source(self) -> str:
        """The whole file with the fault in it."""
        whole = self.path.read_bytes()
        start = sum(len(line) for line in whole.splitlines(keepends=True)[: self.line - 1])
        return (whole[: start + self.begin] + self.after.encode() + whole[start + self.end :]).decode()

    def __str__(self) -> str:
        text = self.path.read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        what = self.words or f"{self.before} → {self.after}"
        return f"{self.path.name}:{self.line}:{self.begin}: {what}    in `{text[:90]}`"


def faults_of(path: Path) -> Iterator[Fault]:
    """Every fault that this script knows how to put into a file."""
    text = path.read_text(encoding="utf-8")
    lines = [line.encode() for line in text.splitlines()]
    tree = ast.parse(text)
    annotations = {id(inner) for node in ast.walk(tree) for inner in _annotation_nodes(node)}
    for node in ast.walk(tree):
        if id(node) in annotations or not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        line, begin, end = node.lineno, node.col_offset, node.end_col_offset or 0
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
    if left.end_lineno is None or left.end_lineno != right.lineno:
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


def listed(package: str, sources: Path) -> tuple[list[Fault], list[str]]:
    """The faults that `faults.toml` names, and the words of those whose line is no longer there, or there twice."""
    faults, stale = [], []
    table = tomllib.loads((ROOT / "packages" / package / "tests" / "faults.toml").read_text(encoding="utf-8"))
    for entry in table["fault"]:
        path = sources / package / entry["file"]
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(entry["before"]) != 1:
            stale.append(f"{entry['file']}: {entry['what']}")
            continue
        at = text.index(entry["before"])
        start = text.rfind("\n", 0, at) + 1
        begin = len(text[start:at].encode())
        end = begin + len(entry["before"].encode())
        line = text.count("\n", 0, at) + 1
        faults.append(Fault(path, line, begin, end, entry["before"], entry["after"], entry["what"]))
    return faults, stale


def in_order(tests: list[str], fault: Fault, sources: Path) -> list[list[str]]:
    """The test files below `tests`, in two parts: the near ones (of the faulty module's name, then those that import it), then all others.

    Most faults are caught by the near ones, and collecting all others would take longer than running these.
    """
    files = []
    for place in tests:
        path = ROOT / place
        files += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    parts = fault.path.relative_to(sources).with_suffix("").parts
    module, folder = ".".join(parts), ".".join(parts[:-1])

    def distance(file: Path) -> int:
        if file.stem == f"test_{parts[-1]}":
            return 0
        text = file.read_text(encoding="utf-8")
        if module in text:
            return 1
        return 2 if len(parts) > 2 and folder in text else 3

    files.sort(key=distance)
    near = [str(file) for file in files if distance(file) < 2]
    return [near, [str(file) for file in files if distance(file) >= 2]]


# Imported once, before the first fault: each run is a fork of this process, and begins where these are loaded.
LIBRARIES = (
    "pytest", "numpy", "torch", "lightning", "torchmetrics", "scipy.signal", "scipy.ndimage", "sklearn.model_selection", "pandas",
    "matplotlib.figure", "h5py", "mne", "edfio", "shapely", "cv2", "openslide", "rasterio", "rasterio.features", "pyogrio",
)  # fmt: skip


def load_libraries() -> None:
    """What the tests import from others; what is not installed is left out."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def pass_without_faults(tests: list[str], sources: Path) -> bool:
    """Whether the tests pass as the package is: else every fault would count as caught."""
    child = multiprocessing.get_context("fork").Process(target=_run_tests, args=(tests, sources))
    child.start()
    child.join()
    return child.exitcode == 0


NO_TESTS = 5  # pytest's exit status where all tests of the files are slow ones


def caught(fault: Fault, tests: list[str], sources: Path, limit: float) -> str:
    """What the tests make of a fault: "caught", "hangs" (also caught) or "survives"."""
    whole = fault.path.read_text(encoding="utf-8")
    fault.path.write_text(fault.source(), encoding="utf-8")
    try:
        for part in in_order(tests, fault, sources):
            if not part:
                continue
            child = multiprocessing.get_context("fork").Process(target=_run_tests, args=(part, sources))
            child.start()
            child.join(limit)
            if child.is_alive():
                child.kill()
                child.join()
                return "hangs"
            if child.exitcode not in (0, NO_TESTS):
                return "caught"
        return "survives"
    finally:
        fault.path.write_text(whole, encoding="utf-8")


def _run_tests(tests: list[str], sources: Path) -> None:
    """In a process of its own: pytest with the faulty sources before all others, silent; ends with its exit status."""
    import pytest

    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(sources)
    sys.path.insert(0, str(sources))
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        status = pytest.main([*options, *tests])
    os._exit(int(status))


def write_row(package: str, faults: str, counts: dict[str, int]) -> None:
    """Puts a campaign's row into docs/reliability.md, in place of the last one of that name."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    survived = counts.get("survives", 0)
    number = sum(counts.values())
    name = f"| {package} | {faults} |"
    rows = [line for line in old.splitlines() if line.startswith("| ") and not line.startswith((name, "| package"))]
    rows.append(f"{name} {number} | {number - survived} | {survived} |")
    table = "\n".join([HEAD, *sorted(rows)])
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", help="as in packages/: ieeg, pathology_mil, …")
    parser.add_argument("--files", default="*.py", help="which files, below the package (default: all)")
    parser.add_argument("--tests", nargs="*", help="which tests (default: those of the package)")
    parser.add_argument("--number", type=int, default=20, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600, help="seconds per fault")
    parser.add_argument("--listed", action="store_true", help="the faults of faults.toml instead of drawn ones")
    parser.add_argument("--page", action="store_true", help="write the row of docs/reliability.md")
    parser.add_argument(
        "--only", metavar="TEXT", help="only the faults whose line or words hold this text; writes no page"
    )
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    arguments = parser.parse_args()
    tests = arguments.tests or [f"packages/{arguments.package}/tests"]
    name = "listed" if arguments.listed else f"drawn (seed {arguments.seed})"
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "src"
        shutil.copytree(ROOT / "packages" / arguments.package / "src", sources)
        stale: list[str] = []
        if arguments.listed:
            faults, stale = listed(arguments.package, sources)
        else:
            faults = draw(arguments.package, arguments.files, arguments.number, arguments.seed, sources)
        if not faults:
            sys.exit("Error: no file of that name holds a place for a fault")
        if arguments.only:
            faults = [fault for fault in faults if arguments.only in str(fault)]
        counts: dict[str, int] = {}
        if not arguments.list:
            load_libraries()
            if not arguments.only and not pass_without_faults(tests, sources):
                sys.exit("Error: the tests fail as the package is; mend them first")
        for fault in faults:
            began = time.monotonic()
            state = "drawn" if arguments.list else caught(fault, tests, sources, arguments.limit)
            counts[state] = counts.get(state, 0) + 1
            print(f"{state:8} {time.monotonic() - began:5.0f} s  {fault}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    for words in stale:
        print(f"not put in, its line has changed: {words}")
    if stale:
        sys.exit("Error: mend faults.toml first")
    if arguments.page and not arguments.list and not arguments.only:
        write_row(arguments.package, name, counts)


if __name__ == "__main__":
    main()
