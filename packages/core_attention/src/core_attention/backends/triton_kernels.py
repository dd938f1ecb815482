"""Fused attention on CUDA (Triton): online softmax forward, recomputing backward, for masks that are known by position.

A program owns one block of queries (forward, and the gradient of queries) or of keys (the gradient of keys and values, summed over the
query heads that share them) and walks over the run of the other side that it can see: `first[batch, block] … last[batch, block]`,
made by `runs`. Inside the run a pair is visible if the key is before the sample's length, in the band, and of the query's segment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = 1.4426950408889634


class Tiles(NamedTuple):
    """Rows a program owns, rows of the other side it takes at a time, warps, stages."""

    own: int
    step: int
    warps: int
    stages: int


class Limits(NamedTuple):
    """What is visible: ``low <= key - query <= high``, keys before `lengths`, equal ids; None: no such limit."""

    low: int | None
    high: int | None
    lengths: Tensor | None  # (batch,)
    query_ids: Tensor | None  # (batch or 1, queries)
    key_ids: Tensor | None  # (batch or 1, keys)


# (half precision, padded width) → forward, backward. Chosen so that the compiler keeps (nearly) everything in registers and each fits the
# 99 KiB of shared memory of the smaller Ampere cards; not tuned on a device.
TILES = {
    (True, 64): (Tiles(128, 64, 8, 3), Tiles(64, 32, 4, 2)),
    (True, 128): (Tiles(128, 64, 8, 2), Tiles(64, 64, 8, 1)),
    (True, 256): (Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 1)),
    (False, 64): (Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 1)),
    (False, 128): (Tiles(32, 32, 8, 1), Tiles(32, 32, 8, 1)),
    (False, 256): (Tiles(16, 32, 8, 1), Tiles(16, 16, 8, 1)),
}


def tiles(width: int, value_width: int, itemsize: int, *, backward: bool) -> Tiles:
    """Block sizes for rows of this width."""
    widest = max(64, padded(width), padded(value_width))
    return TILES[itemsize == 2, widest][backward]


def padded(width: int) -> int:
    """The power of two ≥ 16 that a row of `width` occupies."""
    return max(16, 1 << (width - 1).bit_length())


def runs(
    size: int,
    other: int,
    block: int,
    low: int | None,
    high: int | None,
    ids: Tensor | None,
    other_ids: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """For each block of positions, the run of the other side's positions that any of them can see.

    Args:
        size: positions of this side.
        other: positions of the other side.
        block: positions in a block.
        low: least ``other - this``.
        high: greatest ``other - this``.
        ids: (batch or 1, size) ids; exact where they are sorted, else wide enough.

    Returns:
        first and behind-last, int32 (batch or 1, blocks).
    """
    start = torch.arange(0, size, block, device=device)[None]
    stop = (start + block).clamp(max=size)
    first = torch.zeros_like(start) if low is None else (start + low).clamp(0, other)
    last = torch.full_like(start, other) if high is None else (stop + high).clamp(0, other)
    if ids is not None and other_ids is not None:
        huge = torch.iinfo(torch.int64).max
        filled = torch.nn.functional.pad(ids.long(), (0, start.shape[1] * block - size), value=-1).unflatten(
            1, (-1, block)
        )
        least = torch.where(filled >= 0, filled, huge).amin(2)
        most = filled.amax(2)
        highest = other_ids.long().cummax(1).values
        lowest = torch.where(other_ids >= 0, other_ids.long(), huge).flip(1).cummin(1).values.flip(1)
        batch = max(ids.shape[0], other_ids.shape[0])
        least, most, highest, lowest = (t.expand(batch, -1).contiguous() for t in (least, most, highest, lowest))
        first = torch.maximum(first, torch.searchsorted(highest, least))
        last = torch.minimum(last, torch.searchsorted(lowest, most, right=True))
        last = torch.where(most >= 0, last, first)
    return first.int(), torch.maximum(first, last).int()


@triton.jit
def _visible(
    i, j, qid, kid, NQ, NK, length, low, high,
    HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr, HAS_IDS: tl.constexpr,
):  # fmt: skip
    visible = (i < NQ)[:, None] & (j < tl.minimum(length, NK))[None, :]
    if HAS_LOW:
        visible = visible & (j[None, :] - i[:, None] >= low)
    if HAS_HIGH:
        visible = visible & (j[None, :] - i[:, None] <= high)
    if HAS_IDS:
        visible = visible & (qid[:, None] == kid[None, :]) & (qid >= 0)[:, None]
    return visible


@triton.jit
def _forward(
    Q, K, V, O, L, LENGTHS, QID, KID, FIRST, LAST,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, qidb, kidb, runb,
    H, GROUP, NQ, NK, D, E, BLOCKS, scale, low, high,
    HAS_LENGTHS: tl.constexpr, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr, HAS_IDS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    block, bh = pid % BLOCKS, (pid // BLOCKS).to(tl.int64)
    b, h = bh // H, bh % H
    g = h // GROUP
    i = block * BM + tl.arange(0, BM)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    q = tl.load(
        Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=(i < NQ)[:, None] & (d < D)[None, :], other=0.0
    )
    length = NK
    if HAS_LENGTHS:
        length = tl.load(LENGTHS + b)
    qid = i
    if HAS_IDS:
        qid = tl.load(QID + b * qidb + i, mask=i < NQ, other=-1)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BE], tl.float32)
    first = tl.load(FIRST + b * runb + block)
    last = tl.minimum(tl.load(LAST + b * runb + block), length)
    for start in range(first, last, BN):
        j = start + tl.arange(0, BN)
        k = tl.load(
            K + b * kb + g * kh + j[None, :] * kn + d[:, None] * kd,
            mask=(j < NK)[None, :] & (d < D)[:, None],
            other=0.0,
        )
        kid = j
        if HAS_IDS:
            kid = tl.load(KID + b * kidb + j, mask=j < NK, other=-1)
        s = tl.dot(q, k, input_precision=PRECISION) * (scale * 1.4426950408889634)
        s = tl.where(_visible(i, j, qid, kid, NQ, NK, length, low, high, HAS_LOW, HAS_HIGH, HAS_IDS), s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(top - base)
        v = tl.load(
            V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd,
            mask=(j < NK)[:, None] & (e < E)[None, :],
            other=0.0,
        )
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        total = total * shrink + tl.sum(p, 1)
        top = higher
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, float("-inf"), top * 0.6931471805599453 + tl.log(tl.where(empty, 1.0, total)))
    at = O + b * ob + h * oh + i[:, None] * on + e[None, :] * od
    tl.store(at, acc.to(O.dtype.element_ty), mask=(i < NQ)[:, None] & (e < E)[None, :])
    tl.store(L + bh * NQ + i, lse, mask=i < NQ)


@triton.jit
def _weights(s, lse, visible, scale):
    """The softmax of `s` again, from its log-sum-exp; 0 where nothing is visible."""
    base = tl.where(lse == float("-inf"), 0.0, lse)
    return tl.where(visible, tl.exp2((s * scale - base[:, None]) * 1.4426950408889634), 0.0)


@triton.jit
def _backward_queries(
    Q, K, V, DO, L, DELTA, DQ, LENGTHS, QID, KID, FIRST, LAST,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, qidb, kidb, runb,
    H, GROUP, NQ, NK, D, E, BLOCKS, scale, low, high,
    HAS_LENGTHS: tl.constexpr, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr, HAS_IDS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    block, bh = pid % BLOCKS, (pid // BLOCKS).to(tl.int64)
    b, h = bh // H, bh % H
    g = h // GROUP
    i = block * BM + tl.arange(0, BM)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    rows, wide, tall = (i < NQ)[:, None], (d < D)[None, :], (e < E)[None, :]
    q = tl.load(Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=rows & wide, other=0.0)
    do = tl.load(DO + b * ob + h * oh + i[:, None] * on + e[None, :] * od, mask=rows & tall, other=0.0)
    lse = tl.load(L + bh * NQ + i, mask=i < NQ, other=float("-inf"))
    delta = tl.load(DELTA + bh * NQ + i, mask=i < NQ, other=0.0)
    length = NK
    if HAS_LENGTHS:
        length = tl.load(LENGTHS + b)
    qid = i
    if HAS_IDS:
        qid = tl.load(QID + b * qidb + i, mask=i < NQ, other=-1)
    dq = tl.zeros([BM, BD], tl.float32)
    first = tl.load(FIRST + b * runb + block)
    last = tl.minimum(tl.load(LAST + b * runb + block), length)
    for start in range(first, last, BN):
        j = start + tl.arange(0, BN)
        cols = (j < NK)[:, None]
        k = tl.load(K + b * kb + g * kh + j[:, None] * kn + d[None, :] * kd, mask=cols & wide, other=0.0)
        v = tl.load(V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd, mask=cols & tall, other=0.0)
        kid = j
        if HAS_IDS:
            kid = tl.load(KID + b * kidb + j, mask=j < NK, other=-1)
        visible = _visible(i, j, qid, kid, NQ, NK, length, low, high, HAS_LOW, HAS_HIGH, HAS_IDS)
        p = _weights(tl.dot(q, tl.trans(k), input_precision=PRECISION), lse, visible, scale)
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None]) * scale
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    tl.store(DQ + (bh * NQ + i[:, None]) * D + d[None, :], dq.to(DQ.dtype.element_ty), mask=rows & wide)


@triton.jit
def _backward_keys(
    Q, K, V, DO, L, DELTA, DK, DV, LENGTHS, QID, KID, FIRST, LAST,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, qidb, kidb, runb,
    H, GROUP, NQ, NK, D, E, BLOCKS, scale, low, high,
    HAS_LENGTHS: tl.constexpr, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr, HAS_IDS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    KV = H // GROUP
    block, bg = pid % BLOCKS, (pid // BLOCKS).to(tl.int64)
    b, g = bg // KV, bg % KV
    j = block * BM + tl.arange(0, BM)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    cols, wide, tall = (j < NK)[:, None], (d < D)[None, :], (e < E)[None, :]
    k = tl.load(K + b * kb + g * kh + j[:, None] * kn + d[None, :] * kd, mask=cols & wide, other=0.0)
    v = tl.load(V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd, mask=cols & tall, other=0.0)
    length = NK
    if HAS_LENGTHS:
        length = tl.load(LENGTHS + b)
    kid = j
    if HAS_IDS:
        kid = tl.load(KID + b * kidb + j, mask=j < NK, other=-1)
    dk = tl.zeros([BM, BD], tl.float32)
    dv = tl.zeros([BM, BE], tl.float32)
    first = tl.load(FIRST + b * runb + block)
    last = tl.load(LAST + b * runb + block)
    if block * BM >= length:
        last = first
    for member in range(0, GROUP):
        h = g * GROUP + member
        bh = b * H + h
        for start in range(first, last, BN):
            i = start + tl.arange(0, BN)
            rows = (i < NQ)[:, None]
            q = tl.load(Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=rows & wide, other=0.0)
            do = tl.load(DO + b * ob + h * oh + i[:, None] * on + e[None, :] * od, mask=rows & tall, other=0.0)
            lse = tl.load(L + bh * NQ + i, mask=i < NQ, other=float("-inf"))
            delta = tl.load(DELTA + bh * NQ + i, mask=i < NQ, other=0.0)
            qid = i
            if HAS_IDS:
                qid = tl.load(QID + b * qidb + i, mask=i < NQ, other=-1)
            visible = _visible(i, j, qid, kid, NQ, NK, length, low, high, HAS_LOW, HAS_HIGH, HAS_IDS)
            p = _weights(tl.dot(q, tl.trans(k), input_precision=PRECISION), lse, visible, scale)
            dv += tl.dot(tl.trans(p).to(do.dtype), do, input_precision=PRECISION)
            ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None]) * scale
            dk += tl.dot(tl.trans(ds).to(q.dtype), q, input_precision=PRECISION)
    tl.store(DK + (bg * NK + j[:, None]) * D + d[None, :], dk.to(DK.dtype.element_ty), mask=cols & wide)
    tl.store(DV + (bg * NK + j[:, None]) * E + e[None, :], dv.to(DV.dtype.element_ty), mask=cols & tall)


def _precision(dtype: torch.dtype) -> str:
    """float32 products in TF32 only where torch's own may be."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _launch(
    kernel,
    grid: int,
    tensors: tuple,
    strided: tuple,
    limits: Limits,
    run: tuple,
    sizes: tuple,
    scale: float,
    tile: Tiles,
) -> None:
    q, k, v, o = strided
    batch_stride = [
        0 if t is None or t.shape[0] == 1 else t.stride(0) for t in (limits.query_ids, limits.key_ids, run[0])
    ]
    heads, group, queries, keys, width, value_width, blocks = sizes
    kernel[(grid,)](
        *tensors, limits.lengths, limits.query_ids, limits.key_ids, *run,
        *q.stride(), *k.stride(), *v.stride(), *o.stride(), *batch_stride,
        heads, group, queries, keys, width, value_width, blocks, scale, limits.low or 0, limits.high or 0,
        HAS_LENGTHS=limits.lengths is not None, HAS_LOW=limits.low is not None, HAS_HIGH=limits.high is not None,
        HAS_IDS=limits.query_ids is not None,
        BM=tile.own, BN=tile.step, BD=padded(width), BE=padded(value_width), PRECISION=_precision(q.dtype),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def forward(q: Tensor, k: Tensor, v: Tensor, limits: Limits, scale: float) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, queries, value width) and float32 log-sum-exp (batch, heads, queries)."""
    (b, h, n, width), (_, g, m, value_width) = q.shape, v.shape
    tile = tiles(width, value_width, q.element_size(), backward=False)
    out = q.new_empty(b, h, n, value_width)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    run = runs(n, m, tile.own, limits.low, limits.high, limits.query_ids, limits.key_ids, q.device)
    blocks = -(-n // tile.own)
    sizes = (h, h // g, n, m, width, value_width, blocks)
    _launch(_forward, blocks * b * h, (q, k, v, out, lse), (q, k, v, out), limits, run, sizes, scale, tile)
    return out, lse


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    limits: Limits,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    (b, h, n, width), (_, g, m, value_width) = q.shape, v.shape
    tile = tiles(width, value_width, q.element_size(), backward=True)
    delta = (out.float() * grad.float()).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    grads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v)]
    given = (q, k, v, grad, lse, delta)
    sizes = (h, h // g, n, m, width, value_width)
    strided = (q, k, v, grad)
    run = runs(n, m, tile.own, limits.low, limits.high, limits.query_ids, limits.key_ids, q.device)
    blocks = -(-n // tile.own)
    _launch(_backward_queries, blocks * b * h, (*given, grads[0]), strided, limits, run, (*sizes, blocks), scale, tile)
    low, high = (None if edge is None else -edge for edge in (limits.high, limits.low))
    run = runs(m, n, tile.own, low, high, limits.key_ids, limits.query_ids, q.device)
    blocks = -(-m // tile.own)
    _launch(_backward_keys, blocks * b * g, (*given, *grads[1:]), strided, limits, run, (*sizes, blocks), scale, tile)
    return grads[0], grads[1], grads[2]
