"""What attention that chooses costs: time and peak memory of each mechanism against its dense definition and full attention.

    python benchmarks/core_routed.py                          all contests, on one thread and on two
    python benchmarks/core_routed.py --only bra,moba --threads 1    those whose names begin with "bra" or "moba"
    python benchmarks/core_routed.py --growth                 the growth table of docs/performance.md

A contest is a small function that returns what to run under names, our own first (see `Contest`); `contests_*.py` beside this
file hold them. Memory is the peak of a fresh process beyond inputs and weights, after a small warm-up.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from measure import paired, parser, peak_memory, ratio, show, size
from torch import Tensor

Run = Callable[[], Any]
HERE = Path(__file__).parent
LONGEST = 40  # seconds that one run of the growth table may be expected to take
FILES = ("contests_blocks", "contests_selective")  # each has CONTESTS and GROWTH
STRUCTURED = ("contests_structured", "contests_images")  # those of core_structured.py


@dataclass(frozen=True)
class Contest:
    """Contestants at one size.

    Attributes:
        make: ``make(small)`` → name → (function, inputs); the function's output is differentiated with respect to the inputs and
            the function's parameters. `small` is a size at which a first call loads libraries. The first contestant is ours.
        required: what must be reached, in words; printed beside the figures.
        forward, backward: which passes are measured.
        rounds: paired rounds at most (long runs need few).
        memory: whether peak memory is taken; `threads` of it is 1.
    """

    make: Callable[[bool], Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]]
    required: str = ""
    forward: bool = True
    backward: bool = True
    rounds: int = 7
    memory: bool = True


@dataclass(frozen=True)
class Growth:
    """One mechanism over a range of lengths up to `most`: ``make(tokens)`` → (function, inputs)."""

    make: Callable[[int], tuple[Callable[..., Any], tuple[Any, ...]]]
    most: int = 65536
    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)


def contests(files: tuple[str, ...] = FILES) -> dict[str, Contest]:
    """All contests of some files by name."""
    return {name: contest for part in _parts(files) for name, contest in part.CONTESTS.items()}


def growths(files: tuple[str, ...] = FILES) -> dict[str, Growth]:
    """All mechanisms of the growth table by name."""
    return {name: growth for part in _parts(files) for name, growth in part.GROWTH.items()}


def _parts(files: tuple[str, ...]) -> list[Any]:
    sys.path[:0] = [str(HERE)] if str(HERE) not in sys.path else []
    return [import_module(name) for name in files if (HERE / f"{name}.py").exists()]


def runner(function: Callable[..., Any], inputs: tuple[Any, ...], backward: bool) -> Run:
    """One forward, without gradients; or forward and backward of the output's sum."""
    leaves = [t for t in inputs if isinstance(t, Tensor) and t.is_floating_point()]
    weights = list(function.parameters()) if isinstance(function, torch.nn.Module) else []

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def both() -> None:
        for leaf in leaves:
            leaf.requires_grad_()
        torch.autograd.grad(function(*inputs).sum(), leaves + weights, allow_unused=True)

    return both if backward else forward


def memory(kind: str, name: str, who: str, backward: bool, write_seconds: Path | None = None) -> int:
    """Peak bytes of one contestant ("contest"), or of one mechanism at `who` tokens ("growth"), in a fresh process."""
    make = {
        "contest": "core_routed.contests(core_routed.FILES + core_routed.STRUCTURED)[{0!r}].make({2})[{1!r}]",
        "growth": "core_routed.growths(core_routed.FILES + core_routed.STRUCTURED)[{0!r}].make(256 if {2} else {1})",
    }[kind]
    setup = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import core_routed\n"
        f"core_routed.runner(*{make.format(name, who, True)}, {backward})()\n"
        f"run = core_routed.runner(*{make.format(name, who, False)}, {backward})"
    )
    work = "run()"
    if write_seconds is not None:
        setup += "\nimport time, pathlib"
        work = (
            "start = time.perf_counter(); run(); "
            f"pathlib.Path({str(write_seconds)!r}).write_text(str(time.perf_counter() - start))"
        )
    return peak_memory(setup, work, timeout=3600)


def measure(name: str, contest: Contest, threads: int, rounds: int, with_memory: bool) -> list[dict[str, str]]:
    """The rows of one contest on so many threads."""
    rows = []
    for backward in [b for b, wanted in ((False, contest.forward), (True, contest.backward)) if wanted]:
        torch.set_num_threads(threads)
        for one in contest.make(True).values():  # a first call loads libraries, for seconds
            runner(*one, backward)()
        made = contest.make(False)
        runs = {who: runner(*one, backward) for who, one in made.items()}
        times = paired(runs, rounds=min(rounds, contest.rounds), warm=int(contest.rounds > 2))
        ours, *_ = runs
        del made, runs
        peaks = {who: memory("contest", name, who, backward) for who in times} if with_memory and contest.memory else {}
        for who in times:
            row = {"contest": name, "pass": "both" if backward else "forward", "threads": str(threads), "who": who}
            best = {one: min(times[one].seconds) for one in (ours, who)}
            row["ms"], row["best"] = f"{1000 * times[who].median:.4g}", f"{1000 * best[who]:.4g}"
            row["ours / this"] = "" if who == ours else ratio(times[ours], times[who])
            row["best / best"] = "" if who == ours else f"{best[ours] / best[who]:.2f}×"
            if peaks:
                row["memory"] = size(peaks[who])
                row["ours / its memory"] = "" if who == ours else f"{peaks[ours] / max(1, peaks[who]):.2f}×"
            rows.append(row)
    return rows


def grow(name: str, growth: Growth, backward: bool) -> dict[str, str]:
    """One line of the growth table: seconds and memory at each length, and the fitted exponents (of memory without the first length)."""
    lengths: list[int] = []
    seconds, peaks = [], []
    for tokens in growth.lengths:
        if len(lengths) > 1:
            expected = seconds[-1] * (tokens / lengths[-1]) ** max(1.0, exponent(lengths[-2:], seconds[-2:]))
            if expected > LONGEST:
                break
        if tokens > growth.most:
            break
        lengths.append(tokens)
        second, peak = _one_length(name, growth, tokens, backward)
        seconds.append(second)
        peaks.append(peak)
    row = {"mechanism": name, "pass": "both" if backward else "forward"}
    row |= {_thousands(tokens): "not run" for tokens in growth.lengths}
    for tokens, second, peak in zip(lengths, seconds, peaks, strict=True):
        row[_thousands(tokens)] = f"{second:.3g} s, {size(peak)}"
    row["time ~ N^"] = f"{exponent(lengths, seconds):.2f}"
    row["memory ~ N^"] = f"{exponent(lengths[1:], peaks[1:]):.2f}"
    return row


def _one_length(name: str, growth: Growth, tokens: int, backward: bool) -> tuple[float, int]:
    """Seconds and peak bytes at one length; long runs are timed where their memory is measured, in one run."""
    if tokens < 16384:
        run = runner(*growth.make(tokens), backward)
        seconds = paired({"x": run}, rounds=3)["x"].median
        del run
        return seconds, memory("growth", name, str(tokens), backward)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds"
        peak = memory("growth", name, str(tokens), backward, write_seconds=path)
        return float(path.read_text()), peak


def _thousands(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def exponent(lengths: list[int], values: list[float] | list[int]) -> float:
    """The slope of log value over log length, by least squares; not a number of fewer than two lengths."""
    if len(lengths) < 2:
        return math.nan
    x, y = [math.log(n) for n in lengths], [math.log(max(v, 1e-9)) for v in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / sum((a - middle_x) ** 2 for a in x)


def main(files: tuple[str, ...] = FILES, description: str = __doc__ or "") -> None:
    """The command over the contests of some files."""
    made = parser(description)
    made.set_defaults(threads=0)
    made.add_argument("--only", default="", help="contests or mechanisms whose names begin so; several with commas")
    made.add_argument("--growth", action="store_true", help="the growth table instead of the contests (one thread)")
    made.add_argument("--forward", action="store_true", help="forward passes only")
    made.add_argument("--no-memory", action="store_true", help="times only")
    made.add_argument("--list", action="store_true", help="only name the contests")
    args: argparse.Namespace = made.parse_args()
    wanted = tuple(args.only.split(","))
    if args.list:
        print("\n".join([*contests(files), *(f"growth {name}" for name in growths(files))]))
    elif args.growth:
        torch.set_num_threads(args.threads or 1)
        for name, growth in growths(files).items():
            if name.startswith(wanted):
                passes = (False,) if args.forward else (False, True)
                show(name, [grow(name, growth, backward) for backward in passes], args.json)
    else:
        for name, contest in contests(files).items():
            if name.startswith(wanted):
                contest = replace(contest, backward=contest.backward and not args.forward)
                for threads in [args.threads] if args.threads else [1, 2]:
                    rows = measure(
                        name, contest, threads, args.rounds, not args.no_memory and threads == (args.threads or 1)
                    )
                    show(f"{name}: {contest.required}" if contest.required else name, rows, args.json)


if __name__ == "__main__":
    main()
