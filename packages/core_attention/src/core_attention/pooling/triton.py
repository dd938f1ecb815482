"""Triton kernels of attention pooling: the scores of a chunk, and the softmax-weighted sums of a stretch of it.

`score` fuses both gate products, tanh, σ and the score product, so that no ``[instances, 2·hidden]`` tensor is written. `part` splits a
stretch into pieces, each with its own maximum, sum and weighted sum, and merges the pieces.
Forward only: backward recomputes in torch (three matrix products per chunk, where a fused kernel has little to win).
"""

# pyright: reportArgumentType=false
# (a launcher passes plain numbers where the kernel's signature says tl.constexpr)

import torch
import triton
import triton.language as tl
from torch import Tensor

from core_attention.pooling.weights import Weights

PIECE = 2048  # instances a program sums


def unusable(x: Tensor) -> str:
    """Why the kernels cannot take x; empty if they can."""
    if not (x.is_cuda or triton.knobs.runtime.interpret):  # pyright: ignore[reportAttributeAccessIssue]
        return f"Triton kernels need a CUDA tensor, x is on {x.device.type}"
    if x.dtype == torch.float64:
        return "Triton kernels run in float32, float16 and bfloat16, x is float64"
    return ""


@triton.jit
def _score_kernel(
    h, gate, gate_bias, score_weight, score_bias, out, n, dim: tl.constexpr, hidden: tl.constexpr, rows: tl.constexpr,
    GATED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    at_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    at_k, at_d, at_r = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_R)
    scores = tl.zeros([BLOCK_N, BLOCK_R], tl.float32)
    if GATED:
        for d in range(0, hidden, BLOCK_D):
            in_d = d + at_d < hidden
            value = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            opens = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            for k in range(0, dim, BLOCK_K):
                in_k = k + at_k < dim
                tile = tl.load(
                    h + at_n[:, None] * dim + k + at_k[None, :], mask=(at_n < n)[:, None] & in_k[None, :], other=0.0
                )
                place = (d + at_d)[None, :] * dim + (k + at_k)[:, None]
                inside = in_k[:, None] & in_d[None, :]
                value = tl.dot(tile, tl.load(gate + place, mask=inside, other=0.0), value, input_precision="ieee")
                opens = tl.dot(
                    tile, tl.load(gate + hidden * dim + place, mask=inside, other=0.0), opens, input_precision="ieee"
                )
            value += tl.load(gate_bias + d + at_d, mask=in_d, other=0.0).to(tl.float32)[None, :]
            opens += tl.load(gate_bias + hidden + d + at_d, mask=in_d, other=0.0).to(tl.float32)[None, :]
            gated = (2.0 * tl.sigmoid(2.0 * value) - 1.0) * tl.sigmoid(opens)  # tanh v = 2 σ(2v) − 1
            place = at_r[None, :] * hidden + (d + at_d)[:, None]
            weight = tl.load(score_weight + place, mask=(at_r < rows)[None, :] & in_d[:, None], other=0.0)
            weight = weight.to(tl.float32)
            scores = tl.dot(gated, weight, scores, input_precision="ieee")
    else:
        for k in range(0, dim, BLOCK_K):
            in_k = k + at_k < dim
            tile = tl.load(
                h + at_n[:, None] * dim + k + at_k[None, :], mask=(at_n < n)[:, None] & in_k[None, :], other=0.0
            )
            place = at_r[None, :] * dim + (k + at_k)[:, None]
            weight = tl.load(score_weight + place, mask=(at_r < rows)[None, :] & in_k[:, None], other=0.0)
            scores = tl.dot(tile, weight, scores, input_precision="ieee")
    scores += tl.load(score_bias + at_r, mask=at_r < rows, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at_n[:, None] * rows + at_r[None, :], scores, mask=(at_n < n)[:, None] & (at_r < rows)[None, :])


@triton.jit
def _part_kernel(
    scores, h, top, total, acc, n, dim: tl.constexpr, rows: tl.constexpr,
    PIECE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at_r = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    in_r, in_c = at_r < rows, column < dim
    running = tl.full([BLOCK_R], float("-inf"), tl.float32)
    weight_sum = tl.zeros([BLOCK_R], tl.float32)
    sums = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(0, PIECE, BLOCK_N):
        at_n = piece * PIECE + start + tl.arange(0, BLOCK_N)
        in_n = at_n < n
        s = tl.load(
            scores + at_n[None, :] * rows + at_r[:, None], mask=in_r[:, None] & in_n[None, :], other=float("-inf")
        )
        # online softmax; −∞ − −∞ would be NaN where nothing has counted yet
        new = tl.maximum(running, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp(s - base[:, None])
        shrink = tl.exp(running - base)
        tile = tl.load(h + at_n[:, None] * dim + column[None, :], mask=in_n[:, None] & in_c[None, :], other=0.0)
        sums = sums * shrink[:, None] + tl.dot(weight.to(tile.dtype), tile, input_precision="ieee")
        weight_sum = weight_sum * shrink + tl.sum(weight, 1)
        running = new
    tl.store(acc + (piece * rows + at_r[:, None]) * dim + column[None, :], sums, mask=in_r[:, None] & in_c[None, :])
    if tl.program_id(1) == 0:
        tl.store(top + piece * rows + at_r, running, mask=in_r)
        tl.store(total + piece * rows + at_r, weight_sum, mask=in_r)


def score(h: Tensor, weights: Weights) -> Tensor:
    """Raw scores [instances, rows] in float32 of one chunk ``h`` [instances, dim]."""
    h = h.contiguous()
    n, dim = h.shape
    rows, hidden = weights.score.shape
    gated = weights.gate is not None
    # the kernel has no optional arguments: zeros for an absent bias, and for absent gates a tensor that it never reads
    zeros = h.new_zeros(max(rows, 2 * hidden))
    gate = h if weights.gate is None else weights.gate.contiguous()
    gate_bias = zeros if weights.gate_bias is None else weights.gate_bias
    score_bias = zeros if weights.score_bias is None else weights.score_bias
    out = h.new_empty(n, rows, dtype=torch.float32)
    if gated:
        block_n, block_d = 64, min(128, max(16, triton.next_power_of_2(hidden)))
    else:
        block_n, block_d = 128, 16
    _score_kernel[(triton.cdiv(n, block_n),)](
        h,
        gate,
        gate_bias,
        weights.score.contiguous(),
        score_bias,
        out,
        n,
        dim,
        hidden,
        rows,
        GATED=gated,
        BLOCK_N=block_n,
        BLOCK_K=32,
        BLOCK_D=block_d,
        BLOCK_R=max(16, triton.next_power_of_2(rows)),
    )
    return out


def part(scores: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum [rows], sum [rows] and weighted sum [rows, dim] of one stretch of instances."""
    scores, h = scores.float().contiguous(), h.contiguous()
    n, dim = h.shape
    rows = scores.shape[1]
    pieces = triton.cdiv(n, PIECE)
    top, total = scores.new_empty(pieces, rows), scores.new_empty(pieces, rows)
    acc = scores.new_empty(pieces, rows, dim)
    block_c = min(128, max(16, triton.next_power_of_2(dim)))
    block_r = min(64, max(16, triton.next_power_of_2(rows)))
    grid = (pieces, triton.cdiv(dim, block_c), triton.cdiv(rows, block_r))
    _part_kernel[grid](
        scores, h, top, total, acc, n, dim, rows, PIECE=PIECE, BLOCK_N=32, BLOCK_C=block_c, BLOCK_R=block_r
    )
    # the pieces merged, each weighed by how far its maximum is below that of all
    whole = top.amax(dim=0)
    share = torch.exp(top - whole.masked_fill(whole == float("-inf"), 0.0))
    return whole, (total * share).sum(0), (acc * share[..., None]).sum(0)
