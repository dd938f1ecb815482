"""What multi-variate and memory attention cost: time and peak memory against their definition, SDPA and public packages.

    uv sync --group bench                                        the public packages (braindecode, titans-pytorch)
    python benchmarks/core_structured.py                         all contests, on one thread and on two
    python benchmarks/core_structured.py --only mvpa --threads 1
    python benchmarks/core_structured.py --growth                the growth table of docs/performance.md
    python benchmarks/core_structured.py --profile mvpa-25x32    where the time of ours goes

The contests are functions in `contests_structured.py`; to add one, write a function that returns contestants and name it in CONTESTS
there. The frame is that of `core_routed.py`.
"""

from __future__ import annotations

import sys

import torch
from core_routed import STRUCTURED, contests, main, runner
from measure import show


def profile(name: str, top: int = 12) -> None:
    """Prints the share of each operator in one forward and backward of our contestant, on one thread."""
    torch.set_num_threads(1)
    made = contests(STRUCTURED)[name].make(False)
    ours, *_ = made.values()
    run = runner(*ours, backward=True)
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as found:
        run()
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    rows = [
        {
            "operator": e.key,
            "calls": str(e.count),
            "ms": f"{e.self_cpu_time_total / 1e3:.1f}",
            "share": f"{e.self_cpu_time_total / total:.0%}",
        }
        for e in events[:top]
    ]
    show(f"{name}: forward and backward of ours, one thread, {total / 1e3:.0f} ms", rows, False)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        profile(sys.argv[sys.argv.index("--profile") + 1])
    else:
        main(STRUCTURED, __doc__ or "")
