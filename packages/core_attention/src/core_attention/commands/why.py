"""Which backend attention() takes, and why each other is not taken."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from core_attention.commands.frame import Refusal

EXAMPLE = "core-attention why 1 8 4096 64 --mask 'causal & segments' --dtype bfloat16 --device cuda"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", type=int, nargs=4, metavar="N", help="batch, heads, queries, width (of the queries)")
    parser.add_argument("--keys", type=int, help="number of keys (default: as queries)")
    parser.add_argument("--kv-heads", type=int, help="heads of keys and values (default: as queries)")
    parser.add_argument("--value-width", type=int, help="width of a value (default: as a key's)")
    parser.add_argument("--mask", default="none", help="kinds joined by &: causal, window, lengths, segments, blocks …")
    parser.add_argument("--dtype", default="float32", help="of queries, keys and values (default: float32)")
    parser.add_argument("--device", default="cpu", help="a device type; need not be here (default: cpu)")
    parser.add_argument("--backend", default="auto", help="ask for one backend (default: auto)")
    parser.add_argument("--grad", action="store_true", help="gradients are needed")
    parser.add_argument("--lse", action="store_true", help="the log-sum-exp is needed")


def run(
    shape: Sequence[int],
    *,
    keys: int | None,
    kv_heads: int | None,
    value_width: int | None,
    mask: str,
    dtype: str,
    device: str,
    backend: str,
    grad: bool,
    lse: bool,
    as_json: bool,
) -> int:
    from core_attention.attention import explain_shapes

    batch, heads, queries, width = shape
    if keys is None:
        keys = queries
    of_keys = [batch, kv_heads or heads, keys]
    try:
        explanation = explain_shapes(
            shape,
            [*of_keys, width],
            [*of_keys, value_width or width],
            mask=mask,
            dtype=dtype,
            device=device,
            backend=backend,
            needs_grad=grad,
            return_lse=lse,
        )
    except (ValueError, RuntimeError) as error:
        raise Refusal(str(error)) from error
    if as_json:
        answer = {
            "backend": explanation.backend,
            "reason": explanation.reason,
            "others": dict(explanation.others),
        }
        print(json.dumps(answer, indent=1))
    else:
        print(explanation)
    return 0
