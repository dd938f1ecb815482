"""Routed attention by our Triton kernel: which problems it takes, with which tiles, and how it is called."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core_attention.routed.lists import Tiles, make_lists, padded
from core_attention.routed.routes import RouteMask, Routes, RouteThreshold

INSTALLED = importlib.util.find_spec("triton") is not None
WIDEST = 256

# (half precision, padded width) → candidates forward, backward; the first is taken where nothing can be timed. Chosen to fit the
# 99 KiB of shared memory of the smaller Ampere cards (the last of each wants a larger one).
CANDIDATES: dict[tuple[bool, int], tuple[tuple[Tiles, ...], tuple[Tiles, ...]]] = {
    (True, 64): (
        (Tiles(128, 64, 4, 3), Tiles(64, 64, 4, 3), Tiles(128, 32, 4, 3), Tiles(128, 128, 8, 3)),
        (Tiles(64, 64, 4, 2), Tiles(32, 64, 4, 2), Tiles(64, 32, 4, 2), Tiles(64, 128, 8, 2)),
    ),
    (True, 128): (
        (Tiles(128, 64, 8, 2), Tiles(64, 64, 4, 2), Tiles(128, 32, 4, 3), Tiles(128, 128, 8, 2)),
        (Tiles(64, 64, 8, 1), Tiles(32, 64, 4, 1), Tiles(64, 32, 4, 2), Tiles(64, 128, 8, 1)),
    ),
    (True, 256): ((Tiles(64, 32, 8, 2), Tiles(64, 64, 8, 2)), (Tiles(32, 32, 8, 1), Tiles(64, 64, 8, 1))),
    (False, 64): ((Tiles(64, 32, 8, 2), Tiles(64, 64, 8, 2)), (Tiles(32, 32, 8, 1), Tiles(64, 64, 8, 1))),
    (False, 128): ((Tiles(32, 32, 8, 1), Tiles(64, 32, 8, 1)), (Tiles(32, 32, 8, 1), Tiles(64, 32, 8, 1))),
    (False, 256): ((Tiles(16, 32, 8, 1),), (Tiles(16, 16, 8, 1),)),
}
_best: dict[tuple, Tiles] = {}


def why_not(q: Tensor, v: Tensor) -> str | None:
    """Why the kernel cannot compute attention of these; None if it can."""
    if not INSTALLED:
        return "triton is not installed; it comes with torch's CUDA builds for Linux"
    if q.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the kernel runs on CUDA, the tensors are on {q.device.type}"
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the kernel computes in float32, the tensors are {q.dtype}"
    if max(q.shape[3], v.shape[3]) > WIDEST:
        return f"the kernel takes widths up to {WIDEST}, these are {q.shape[3]} and {v.shape[3]}"
    return None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    routes: Routes,
    key_mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and float32 log-sum-exp; `bias` is (batch or 1, key heads or 1, keys)."""
    from core_attention.routed import triton_kernels as kernel

    def run(tiles: Tiles) -> tuple[Tensor, Tensor]:
        lists = make_lists(routes, q.shape[2], k.shape[2], tiles, causal=causal, key_mask=key_mask)
        return kernel.forward(q, k, v, lists, bias, scale)

    return run(_tiles(q, v, routes, False, run))


def backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    routes: Routes,
    key_mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and of the bias in its own shape."""
    from core_attention.routed import triton_kernels as kernel

    def run(tiles: Tiles) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        lists = make_lists(routes, q.shape[2], k.shape[2], tiles, causal=causal, key_mask=key_mask)
        return kernel.backward(q, k, v, out, lse, grad, grad_lse, lists, bias, scale)

    dq, dk, dv, dbias = run(_tiles(q, v, routes, True, run))
    if bias is not None and dbias is not None:
        dbias = dbias.sum_to_size(bias.shape).to(bias.dtype)
    return dq, dk, dv, dbias


def _tiles(q: Tensor, v: Tensor, routes: Routes, is_backward: bool, run: Callable[[Tiles], object]) -> Tiles:
    """The candidate that was fastest where this kind of problem first came up on this device."""
    width = max(64, padded(q.shape[3]), padded(v.shape[3]))
    candidates = CANDIDATES[q.element_size() == 2, width][is_backward]
    if q.device.type != "cuda":
        return candidates[0]
    if isinstance(routes, RouteThreshold):
        kind: tuple = ("threshold",)
    else:
        kind = (isinstance(routes, RouteMask), routes.query_block, routes.key_block)
    key = (torch.cuda.get_device_capability(q.device), q.dtype, width, is_backward, *kind)
    if key not in _best:
        _best[key] = fastest(candidates, run)
    return _best[key]


def fastest(candidates: Sequence[Tiles], run: Callable[[Tiles], object]) -> Tiles:
    """Times each candidate after a first run that compiles it; one that the device has no room for is left out.

    Raises:
        RuntimeError: none can run.
    """
    from triton.runtime.errors import OutOfResources

    seconds: dict[Tiles, float] = {}
    failure = None
    for tiles in candidates:
        try:
            run(tiles)
        except OutOfResources as error:
            failure = error
            continue
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(3):
            run(tiles)
        stop.record()
        stop.synchronize()
        seconds[tiles] = start.elapsed_time(stop)
    if not seconds:
        raise RuntimeError(f"no tile of the routed kernel fits this device: {failure}")
    return min(seconds, key=lambda tiles: seconds[tiles])
