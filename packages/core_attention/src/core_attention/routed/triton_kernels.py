"""Routed attention on CUDA (Triton): a list of key tiles for each query tile, online softmax forward, recomputing backward.

A program owns one tile of queries (forward, and the gradient of queries) or of keys (the gradient of keys and values, summed over
the query heads that share them) and walks over the tiles of the other side that its list names. Inside a tile a pair is visible by
one of four modes: WHOLE (all of it), ROWS (a bit per row: the key tile lies in one block), PAIRS (a bit per pair of blocks), and
THRESHOLD (a score per key, a limit per query). `core_attention.routed.lists` makes tiles and lists.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from core_attention.routed.lists import Lists, padded

WHOLE, ROWS, PAIRS, THRESHOLD = range(4)


@triton.jit
def _seen(
    i, j, last_i, last_j, CHOSEN, SCORE, LIMIT, TIE, KEYS, chosen, score, limit, keys, COLUMNS, QB, KB, late,
    MODE: tl.constexpr, HAS_TIE: tl.constexpr, HAS_KEYS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """(rows, keys): which pairs of a tile are visible."""
    row, key = i < last_i, j < last_j
    visible = row[:, None] & key[None, :]
    if MODE == 1:  # ROWS
        bit = tl.load(CHOSEN + chosen + (i // QB).to(tl.int64) * COLUMNS + tl.min(j, 0) // KB, mask=row, other=0)
        visible = visible & (bit != 0)[:, None]
    if MODE == 2:  # PAIRS
        at = CHOSEN + chosen + (i // QB).to(tl.int64)[:, None] * COLUMNS + (j // KB)[None, :]
        visible = visible & (tl.load(at, mask=visible, other=0) != 0)
    if MODE == 3:  # THRESHOLD
        value = tl.load(SCORE + score + j, mask=key, other=float("-inf"))
        bound = tl.load(LIMIT + limit + i, mask=row, other=float("inf"))
        equal = value[None, :] == bound[:, None]
        if HAS_TIE:
            oldest = tl.load(TIE + limit + i, mask=row, other=0)
            equal = equal & (j[None, :] >= oldest[:, None])
        visible = visible & ((value[None, :] > bound[:, None]) | equal) & (bound < float("inf"))[:, None]
    if HAS_KEYS:
        visible = visible & (tl.load(KEYS + keys + j, mask=key, other=0) != 0)[None, :]
    if CAUSAL:
        visible = visible & (j[None, :] <= i[:, None] + late)
    return visible


@triton.jit
def _forward(
    Q, K, V, O, L, LIST, COUNT, CHOSEN, SCORE, LIMIT, TIE, KEYS, BIAS,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, rb, rh, cb, ch, sb, sh, tb, th, keysb, biasb, biash,
    H, GROUP, NQ, NK, D, E, ROUTE_GROUP, OWN, OTHER, QSPAN, QSUBS, KSPAN, KSUBS, COLUMNS, QB, KB, late, scale,
    MODE: tl.constexpr, HAS_TIE: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    tile, bh = pid % OWN, (pid // OWN).to(tl.int64)
    b, h = bh // H, bh % H
    g, r = h // GROUP, h // ROUTE_GROUP
    i = tile // QSUBS * QSPAN + tile % QSUBS * BM + tl.arange(0, BM)
    last_i = tl.minimum((tile // QSUBS + 1) * QSPAN, NQ)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    rows, wide, tall = (i < last_i)[:, None], (d < D)[None, :], (e < E)[None, :]
    q = tl.load(Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=rows & wide, other=0.0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, BE], tl.float32)
    line = b * rb + r * rh + tile
    for slot in range(0, tl.load(COUNT + line)):
        other = tl.load(LIST + line * OTHER + slot)
        j = other // KSUBS * KSPAN + other % KSUBS * BN + tl.arange(0, BN)
        last_j = tl.minimum((other // KSUBS + 1) * KSPAN, NK)
        cols = (j < last_j)[:, None]
        k = tl.load(K + b * kb + g * kh + j[:, None] * kn + d[None, :] * kd, mask=cols & wide, other=0.0)
        v = tl.load(V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd, mask=cols & tall, other=0.0)
        visible = _seen(
            i, j, last_i, last_j, CHOSEN, SCORE, LIMIT, TIE, KEYS, b * cb + r * ch, b * sb + r * sh, b * tb + r * th,
            b * keysb, COLUMNS, QB, KB, late, MODE, HAS_TIE, HAS_KEYS, CAUSAL,
        )  # fmt: skip
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if HAS_BIAS:
            s += tl.load(BIAS + b * biasb + g * biash + j, mask=j < last_j, other=0.0)[None, :]
        s = tl.where(visible, s * 1.4426950408889634, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(top - base)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        total = total * shrink + tl.sum(p, 1)
        top = higher
    empty = total == 0.0
    acc = acc / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, float("-inf"), top * 0.6931471805599453 + tl.log(tl.where(empty, 1.0, total)))
    at = O + b * ob + h * oh + i[:, None] * on + e[None, :] * od
    tl.store(at, acc.to(O.dtype.element_ty), mask=rows & tall)
    tl.store(L + bh * NQ + i, lse, mask=i < last_i)


@triton.jit
def _weights(s, lse, seen):
    """The softmax of `s` again, from its log-sum-exp; 0 where nothing is seen."""
    base = tl.where(lse == float("-inf"), 0.0, lse)
    return tl.where(seen, tl.exp2((s - base[:, None]) * 1.4426950408889634), 0.0)


@triton.jit
def _backward_queries(
    Q, K, V, DO, L, DELTA, DQ, LIST, COUNT, CHOSEN, SCORE, LIMIT, TIE, KEYS, BIAS,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, rb, rh, cb, ch, sb, sh, tb, th, keysb, biasb, biash,
    H, GROUP, NQ, NK, D, E, ROUTE_GROUP, OWN, OTHER, QSPAN, QSUBS, KSPAN, KSUBS, COLUMNS, QB, KB, late, scale,
    MODE: tl.constexpr, HAS_TIE: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    tile, bh = pid % OWN, (pid // OWN).to(tl.int64)
    b, h = bh // H, bh % H
    g, r = h // GROUP, h // ROUTE_GROUP
    i = tile // QSUBS * QSPAN + tile % QSUBS * BM + tl.arange(0, BM)
    last_i = tl.minimum((tile // QSUBS + 1) * QSPAN, NQ)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    rows, wide, tall = (i < last_i)[:, None], (d < D)[None, :], (e < E)[None, :]
    q = tl.load(Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=rows & wide, other=0.0)
    do = tl.load(DO + b * ob + h * oh + i[:, None] * on + e[None, :] * od, mask=rows & tall, other=0.0)
    lse = tl.load(L + bh * NQ + i, mask=i < last_i, other=float("-inf"))
    delta = tl.load(DELTA + bh * NQ + i, mask=i < last_i, other=0.0)
    dq = tl.zeros([BM, BD], tl.float32)
    line = b * rb + r * rh + tile
    for slot in range(0, tl.load(COUNT + line)):
        other = tl.load(LIST + line * OTHER + slot)
        j = other // KSUBS * KSPAN + other % KSUBS * BN + tl.arange(0, BN)
        last_j = tl.minimum((other // KSUBS + 1) * KSPAN, NK)
        cols = (j < last_j)[:, None]
        k = tl.load(K + b * kb + g * kh + j[:, None] * kn + d[None, :] * kd, mask=cols & wide, other=0.0)
        v = tl.load(V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd, mask=cols & tall, other=0.0)
        visible = _seen(
            i, j, last_i, last_j, CHOSEN, SCORE, LIMIT, TIE, KEYS, b * cb + r * ch, b * sb + r * sh, b * tb + r * th,
            b * keysb, COLUMNS, QB, KB, late, MODE, HAS_TIE, HAS_KEYS, CAUSAL,
        )  # fmt: skip
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if HAS_BIAS:
            s += tl.load(BIAS + b * biasb + g * biash + j, mask=j < last_j, other=0.0)[None, :]
        p = _weights(s, lse, visible)
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None]) * scale
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    tl.store(DQ + (bh * NQ + i[:, None]) * D + d[None, :], dq.to(DQ.dtype.element_ty), mask=rows & wide)


@triton.jit
def _backward_keys(
    Q, K, V, DO, L, DELTA, DK, DV, DBIAS, LIST, COUNT, CHOSEN, SCORE, LIMIT, TIE, KEYS, BIAS,
    qb, qh, qn, qd, kb, kh, kn, kd, vb, vh, vn, vd, ob, oh, on, od, rb, rh, cb, ch, sb, sh, tb, th, keysb, biasb, biash,
    H, GROUP, NQ, NK, D, E, ROUTE_GROUP, OWN, OTHER, QSPAN, QSUBS, KSPAN, KSUBS, COLUMNS, QB, KB, late, scale,
    MODE: tl.constexpr, HAS_TIE: tl.constexpr, HAS_KEYS: tl.constexpr, HAS_BIAS: tl.constexpr, CAUSAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    KV = H // GROUP
    tile, bg = pid % OWN, (pid // OWN).to(tl.int64)
    b, g = bg // KV, bg % KV
    j = tile // KSUBS * KSPAN + tile % KSUBS * BN + tl.arange(0, BN)
    last_j = tl.minimum((tile // KSUBS + 1) * KSPAN, NK)
    d, e = tl.arange(0, BD), tl.arange(0, BE)
    cols, wide, tall = (j < last_j)[:, None], (d < D)[None, :], (e < E)[None, :]
    k = tl.load(K + b * kb + g * kh + j[:, None] * kn + d[None, :] * kd, mask=cols & wide, other=0.0)
    v = tl.load(V + b * vb + g * vh + j[:, None] * vn + e[None, :] * vd, mask=cols & tall, other=0.0)
    added = tl.zeros([BN], tl.float32)
    if HAS_BIAS:
        added = tl.load(BIAS + b * biasb + g * biash + j, mask=j < last_j, other=0.0)
    dk = tl.zeros([BN, BD], tl.float32)
    dv = tl.zeros([BN, BE], tl.float32)
    dbias = tl.zeros([BN], tl.float32)
    for member in range(0, GROUP):
        h = g * GROUP + member
        r, bh = h // ROUTE_GROUP, b * H + h
        line = b * rb + r * rh + tile
        for slot in range(0, tl.load(COUNT + line)):
            other = tl.load(LIST + line * OTHER + slot)
            i = other // QSUBS * QSPAN + other % QSUBS * BM + tl.arange(0, BM)
            last_i = tl.minimum((other // QSUBS + 1) * QSPAN, NQ)
            rows = (i < last_i)[:, None]
            lse = tl.load(L + bh * NQ + i, mask=i < last_i, other=float("-inf"))
            delta = tl.load(DELTA + bh * NQ + i, mask=i < last_i, other=0.0)
            some = (lse != float("-inf"))[:, None]  # whatever a row that sees nothing holds, it moves nothing
            q = tl.load(Q + b * qb + h * qh + i[:, None] * qn + d[None, :] * qd, mask=rows & wide & some, other=0.0)
            do = tl.load(DO + b * ob + h * oh + i[:, None] * on + e[None, :] * od, mask=rows & tall, other=0.0)
            visible = _seen(
                i, j, last_i, last_j, CHOSEN, SCORE, LIMIT, TIE, KEYS, b * cb + r * ch, b * sb + r * sh,
                b * tb + r * th, b * keysb, COLUMNS, QB, KB, late, MODE, HAS_TIE, HAS_KEYS, CAUSAL,
            )  # fmt: skip
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + added[None, :]
            p = _weights(s, lse, visible)
            dv += tl.dot(tl.trans(p).to(do.dtype), do, input_precision=PRECISION)
            ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
            dk += tl.dot(tl.trans(ds * scale).to(q.dtype), q, input_precision=PRECISION)
            dbias += tl.sum(ds, 0)
    tl.store(DK + (bg * NK + j[:, None]) * D + d[None, :], dk.to(DK.dtype.element_ty), mask=cols & wide)
    tl.store(DV + (bg * NK + j[:, None]) * E + e[None, :], dv.to(DV.dtype.element_ty), mask=cols & tall)
    if HAS_BIAS:
        tl.store(DBIAS + bg * NK + j, dbias, mask=j < last_j)


def _precision(dtype: torch.dtype) -> str:
    """float32 products in TF32 only where torch's own may be."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _at(t: Tensor | None, heads: bool = True) -> tuple[int, ...]:
    """Strides of batch and head, 0 where all share one."""
    if t is None:
        return (0, 0) if heads else (0,)
    strides = [0 if t.shape[axis] == 1 else t.stride(axis) for axis in range(2 if heads else 1)]
    return tuple(strides)


def _launch(
    kernel, programs: int, tensors: tuple, strided: tuple, lists: Lists, by_key: bool, bias: Tensor | None, scale: float
) -> None:
    q, k, v, o = strided
    heads, kv_heads = q.shape[1], k.shape[1]
    listed, count = lists.by_key if by_key else lists.by_query
    own = lists.key_tiles if by_key else lists.query_tiles
    tile = lists.tiles
    kernel[(programs * own,)](
        *tensors, listed, count, lists.chosen, lists.score, lists.limit, lists.tie, lists.keys, bias,
        *q.stride(), *k.stride(), *v.stride(), *o.stride(), *_at(count), *_at(lists.chosen), *_at(lists.score),
        *_at(lists.limit), *_at(lists.keys, heads=False), *_at(bias),
        heads, heads // kv_heads, q.shape[2], k.shape[2], q.shape[3], v.shape[3], heads // count.shape[1],
        own, listed.shape[3], *lists.query_span, *lists.key_span, lists.columns, lists.query_block, lists.key_block,
        k.shape[2] - q.shape[2], scale,
        MODE=lists.mode, HAS_TIE=lists.tie is not None, HAS_KEYS=lists.keys is not None, HAS_BIAS=bias is not None,
        CAUSAL=lists.causal, BM=tile.rows, BN=tile.keys, BD=padded(q.shape[3]), BE=padded(v.shape[3]),
        PRECISION=_precision(q.dtype), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def forward(q: Tensor, k: Tensor, v: Tensor, lists: Lists, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, queries, value width) and float32 log-sum-exp (batch, heads, queries)."""
    batch, heads, queries, _ = q.shape
    out = q.new_empty(batch, heads, queries, v.shape[3])
    lse = q.new_empty(batch, heads, queries, dtype=torch.float32)
    _launch(_forward, batch * heads, (q, k, v, out, lse), (q, k, v, out), lists, False, bias, scale)
    return out, lse


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    lists: Lists,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of queries, keys, values and, as (batch, key heads, keys) in float32, of the bias."""
    delta = (out.float() * grad.float()).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    dbias = None if bias is None else bias.new_empty(k.shape[:3], dtype=torch.float32)
    given, strided = (q, k, v, grad, lse, delta), (q, k, v, grad)
    _launch(_backward_queries, q.shape[0] * q.shape[1], (*given, dq), strided, lists, False, bias, scale)
    _launch(_backward_keys, k.shape[0] * k.shape[1], (*given, dk, dv, dbias), strided, lists, True, bias, scale)
    return dq, dk, dv, dbias
