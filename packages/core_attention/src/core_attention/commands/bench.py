"""Time a mechanism against its definition and softmax attention."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from core_attention.commands.frame import add_device, check_device, count, refuse_unknown

EXAMPLE = "core-attention bench rala --tokens 1024 4096 --memory"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the name of a mechanism; core-attention list names them")
    parser.add_argument("--tokens", type=count, nargs="+", default=[1024], help="numbers of tokens (default: 1024)")
    add_device(parser)
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16", "float16"])
    parser.add_argument("--backward", action="store_true", help="time forward and backward")
    parser.add_argument("--rounds", type=count, default=7, help="paired rounds (default: 7)")
    parser.add_argument("--threads", type=count, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--memory", action="store_true", help="measure CPU memory too, each in a process of its own")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the backend of each attention() and why")


def run(
    name: str,
    *,
    tokens: Sequence[int],
    device: str,
    dtype: str,
    backward: bool,
    rounds: int,
    threads: int,
    memory: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    from core_attention.registry import catalogue

    if catalogue.find("examples", name) is None:
        refuse_unknown("a mechanism", name, catalogue.declared("examples"))
    import torch

    from core_attention.measuring.bench import bench
    from core_attention.measuring.clock import table

    check_device(device)
    torch.set_num_threads(threads)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows = bench(
        name,
        tokens,
        device=device,
        dtype=getattr(torch, dtype),
        backward=backward,
        rounds=rounds,
        with_memory=memory,
    )
    if as_json:
        print(json.dumps({"mechanism": name, "rows": rows}, indent=1))
        return 0
    timed = "forward and backward" if backward else "forward"
    print(f"{name}, {timed}, {device}, {dtype}, {threads} threads, {rounds} paired rounds\n{table(rows)}")
    return 0
