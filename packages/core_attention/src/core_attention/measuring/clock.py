"""What every benchmark measures with: paired times, and the peak memory of a fresh process.

Ratios come from pairs: in each round every contestant runs once, in an order that turns from round to round, so that what slows the
machine down for a while slows all of them. CPU memory is the peak of resident memory minus what was resident once inputs and weights
existed, in a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PROBE = """
import resource, sys
def _status(field):
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
import torch
torch.set_num_threads({threads})
{setup}
import gc; gc.collect()
try:
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # forget the peak of the set-up
except OSError:
    pass
_before = _status("VmRSS")
{work}
print("peak", max(0, _status("VmHWM") - _before))
"""


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant in every round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, base: Times) -> tuple[float, float, float]:
        """Median, least and greatest of this one's time divided by `base`'s in the same round."""
        ratios = [a / b for a, b in zip(self.seconds, base.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def paired(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Times the contestants in alternation.

    Args:
        contestants: name → what to run; on CUDA, `sync` at its end.
        rounds: how often each runs.
        warm: unmeasured runs of each before.
        clock: of seconds; `time.process_time` leaves out the time that other processes take on a shared machine.
    """
    for run in contestants.values():
        for _ in range(warm):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            start = clock()
            contestants[name]()
            seconds[name].append(clock() - start)
        order = order[1:] + order[:1]
    return {name: Times(tuple(s)) for name, s in seconds.items()}


def peak_memory(setup: str, work: str, *, threads: int = 1, timeout: float = 600) -> int:
    """Bytes that `work` takes at its peak beyond what `setup` left resident, in a fresh process.

    Args:
        setup: source that imports, makes inputs and weights, and warms up on something small (a first call loads libraries).
        work: source that is measured.

    Raises:
        RuntimeError: the process failed; its last lines are quoted.
    """
    source = _PROBE.format(setup=setup, work=work, threads=threads)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the measured process ended with {done.returncode}:\n" + "\n".join(done.stderr.splitlines()[-5:])
        )
    return int(done.stdout.split("peak ")[-1])


def size(count: int | float) -> str:
    """Bytes as text. Below a mebibyte the allocator's own reserves decide, so no figure is given."""
    if count < 2**20:
        return "< 1 MiB"
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def ratio(times: Times, base: Times) -> str:
    """``0.42× (0.40–0.47)``: the median of pairs and their spread."""
    middle, low, high = times.over(base)
    return f"{middle:.2f}× ({low:.2f}–{high:.2f})"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of text under the keys of the first."""
    if not rows:
        return "nothing measured"
    columns = {}
    for head in rows[0]:
        cells = [head, *(str(row.get(head, "")) for row in rows)]
        width = max(map(len, cells))
        # the head, a rule under it, and the rows
        columns[head] = [cell.ljust(width) for cell in (cells[0], "-" * width, *cells[1:])]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns.values(), strict=True))
