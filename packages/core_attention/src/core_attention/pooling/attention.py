"""Many query rows over one long bag: attention pooling of thousands to millions of instances into a few vectors.

A *bag* is N instances, ``x: [N, F]``. With an optional projection ``h = ReLU(x Wᵖᵀ)`` (else ``h = x``), R score rows are

    gated:   s = (tanh(h Vᵀ + b_V) ⊙ σ(h Uᵀ + b_U)) Wˢᵀ + bˢ      (Ilse et al. 2018, eq. 9; V and U are one 2D-wide product)
    linear:  s = h Wˢᵀ + bˢ                                         (a learned query folded into the key projection)

and ``pooled[r] = Σ_n softmax_N(s[:, r])_n h_n``. Everything that a multi-head or multi-branch layer does with values after that is a
product with a few pooled rows, so no per-row copy of ``h``, no key and no value tensor of length N is ever made.

`attention_pool` is the one door. Up to a bound it is plain differentiable code; past it the bag is read in chunks with an online
softmax, and backward recomputes each chunk, so that memory beyond the features no longer grows with N × width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core_attention.capture.recording import active, record
from core_attention.pooling.stream import EXCLUDED, StreamedPool, working

KEPT_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}  # activations that autograd may keep before a bag is streamed
CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}  # working set of one chunk: on the CPU about what its caches hold

Exclude = Callable[[Tensor], Tensor]
Backend = Literal["auto", "torch", "triton"]


class Pooled(NamedTuple):
    """What `attention_pool` returns.

    pooled: one vector per bag and score row; an empty bag has zeros.
    scores: raw scores before the softmax, −1e9 where `exclude` struck and −inf where `mask` is False; None unless asked for.
    """

    pooled: Float[Tensor, "bags rows dim"]
    scores: Float[Tensor, "instances rows"] | None


def gated(
    h: Float[Tensor, "instances dim"],
    gate_weight: Float[Tensor, "gates dim"],
    gate_bias: Float[Tensor, " gates"] | None,
) -> Float[Tensor, "instances hidden"]:
    """``tanh(h Vᵀ + b_V) ⊙ σ(h Uᵀ + b_U)`` with ``gate_weight = [V; U]`` stacked, ``gates = 2·hidden``."""
    value, gate = F.linear(h, gate_weight, gate_bias).chunk(2, dim=-1)
    return torch.tanh(value) * torch.sigmoid(gate)


def pool_rows(
    scores: Float[Tensor, "instances rows"], h: Float[Tensor, "instances dim"], lengths: Sequence[int] | None = None
) -> Float[Tensor, "bags rows dim"]:
    """The definition: softmax of every score row over the instances of its bag, then the weighted sum of ``h``.

    Args:
        lengths: instances of each bag, in order; None means one bag. A bag without instances, or whose scores are all −inf, pools to 0.

    Returns:
        one weighted mean per bag and row.
    """
    if lengths is None:
        return _pool_one(scores, h)[None]
    bags = zip(scores.split(list(lengths)), h.split(list(lengths)), strict=True)
    pooled = [_pool_one(bag_scores, bag_h) for bag_scores, bag_h in bags]
    if not pooled:
        return h.new_zeros(0, scores.shape[1], h.shape[1])
    return torch.stack(pooled)


def _pool_one(scores: Tensor, h: Tensor) -> Tensor:
    if scores.shape[0] == 0:
        return h.new_zeros(scores.shape[1], h.shape[1]) + 0 * (scores.sum() + h.sum())  # zeros that stay in the graph
    weights = row_weights(scores)
    return (weights.to(h.dtype).T @ h).to(weights.dtype)


def row_weights(scores: Float[Tensor, "instances rows"]) -> Float[Tensor, "instances rows"]:
    """Attention of one bag: softmax over the instances, at least in float32; a row whose scores are all −inf gets zeros."""
    dead = scores.amax(dim=0) == -math.inf  # the softmax of such a row would be NaN, in the gradient too
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores.masked_fill(dead, 0.0), dim=0, dtype=wide)
    return weights.masked_fill(dead, 0.0)


def attention_pool(
    x: Float[Tensor, "instances features"],
    score_weight: Float[Tensor, "rows hidden"],
    score_bias: Float[Tensor, " rows"] | None = None,
    *,
    gate_weight: Float[Tensor, "gates dim"] | None = None,
    gate_bias: Float[Tensor, " gates"] | None = None,
    project_weight: Float[Tensor, "dim features"] | None = None,
    segments: Int[Tensor, " instances"] | None = None,
    bags: int | None = None,
    mask: Bool[Tensor, " instances"] | None = None,
    exclude: Exclude | None = None,
    return_scores: bool = True,
    chunk: int | Literal["auto"] | None = "auto",
    backend: Backend = "auto",
) -> Pooled:
    """Pools bags of instances with R attention rows (formula at the top of this file).

    Args:
        x: instances of all bags, one after another; float64, float32, float16 or bfloat16. Half precision is read as it is and
            accumulated in float32, chunk by chunk: no float32 copy of the whole bag is made.
        score_weight: ``Wˢ``; hidden = dim for linear scores, gates / 2 for gated ones.
        score_bias: ``bˢ``.
        gate_weight: ``[V; U]`` stacked along the first axis; None for linear scores.
        gate_bias: ``[b_V; b_U]``.
        project_weight: ``Wᵖ``; None pools x itself.
        segments: bag of each instance, ascending from 0; None means that all instances are one bag.
        bags: number of bags, where trailing ones may be empty; default ``segments.max() + 1``.
        mask: True where an instance counts (padding is False).
        exclude: from the scores ``[instances, rows]``, without gradient, to a boolean of the same shape; where it is True the score
            becomes −1e9 before the softmax (the stochastic top-k masking of ACMIL).
        return_scores: whether to return the scores; they may carry gradients.
        chunk: rows read at once; None keeps everything (plain autograd); "auto" streams what would keep more than `KEPT_BYTES`, and
            without gradients whatever exceeds one chunk of `CHUNK_BYTES`.
        backend: "triton" runs the scores and the sums of a chunk in one CUDA kernel each; "auto" takes it on CUDA for streamed bags.

    Returns:
        `Pooled`; in float64 if any input is, else float32.

    Raises:
        ValueError: shapes that do not fit (both are named), segments that descend or leave ``0..bags-1``.
    """
    _check_shapes(x, score_weight, score_bias, gate_weight, gate_bias, project_weight, segments, mask)
    lengths = None if segments is None else _lengths(segments, bags)
    if segments is None and bags not in (None, 1):
        raise ValueError(f"bags={bags} needs segments: without them all {x.shape[0]} instances are one bag")
    weights = (project_weight, gate_weight, gate_bias, score_weight, score_bias)
    rows = _chunk_rows(x, weights, chunk)
    use_triton = _takes_triton(x, backend, streamed=rows is not None)
    captured = active()
    if rows is None and not use_triton:
        pooled, scores = _pool_plain(x, weights, lengths, mask, exclude)
    else:
        bag_lengths = lengths or [x.shape[0]]
        chunk_rows = rows or max(x.shape[0], 1)
        scored = return_scores or captured
        pooled, scores = StreamedPool.apply(x, *weights, bag_lengths, mask, exclude, chunk_rows, use_triton, scored)
    if captured:
        shape = (1, 1, scores.shape[1], scores.shape[0])
        record("weights", lambda rows, _: _weight_map(scores[:, rows], lengths), shape=shape, device=x.device)
    return Pooled(pooled, scores if return_scores else None)


def _weight_map(scores: Tensor, lengths: list[int] | None) -> Tensor:
    """Attention weights (1, 1, rows, instances), each bag's softmax for itself."""
    bags = scores.split(lengths or [scores.shape[0]])
    weights = [row_weights(bag) if len(bag) else bag for bag in bags]  # an empty bag has nothing to normalise
    return torch.cat(weights).T[None, None]


def _pool_plain(
    x: Tensor, weights: tuple, lengths: list[int] | None, mask: Tensor | None, exclude: Exclude | None
) -> tuple[Tensor, Tensor]:
    cast = working(x, weights)
    h = x.to(cast.score.dtype)
    if cast.project is not None:
        h = torch.relu(F.linear(h, cast.project))
    hidden = h
    if cast.gate is not None:
        hidden = gated(h, cast.gate, cast.gate_bias)
    scores = F.linear(hidden, cast.score, cast.score_bias)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -math.inf)
    if exclude is not None:
        scores = scores.masked_fill(exclude(scores.detach()), EXCLUDED)
    return pool_rows(scores, h, lengths), scores


def _chunk_rows(x: Tensor, weights: tuple, chunk: int | str | None) -> int | None:
    """Rows a chunk, or None for the plain path: the one rule that decides between them."""
    if chunk is None:
        return None
    if isinstance(chunk, int):
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        return chunk
    project_weight, gate_weight, _, score_weight, _ = weights
    dim = x.shape[1] if project_weight is None else project_weight.shape[0]
    # numbers that one instance leaves behind
    width = 3 * score_weight.shape[0]  # scores and their softmax
    if x.dtype.itemsize < 4:
        width += x.shape[1]  # the row of half precision, read as float32
    if project_weight is not None:
        width += 2 * dim  # h
    if gate_weight is not None:
        width += 3 * gate_weight.shape[0]  # gates before and after their activations
    row_bytes = width * max(x.dtype.itemsize, 4)
    device = "cuda" if x.is_cuda else "cpu"
    bound = KEPT_BYTES[device] if torch.is_grad_enabled() else CHUNK_BYTES[device]
    if row_bytes * x.shape[0] <= bound:
        return None
    return max(256, CHUNK_BYTES[device] // row_bytes)


def _takes_triton(x: Tensor, backend: Backend, *, streamed: bool) -> bool:
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'triton', got {backend!r}")
    if backend == "torch" or (backend == "auto" and not (x.is_cuda and streamed)):
        return False
    from core_attention.pooling import triton as kernels

    reason = kernels.unusable(x)
    if reason and backend == "triton":
        raise ValueError(f"backend='triton' cannot run here: {reason}")
    return not reason


def _lengths(segments: Tensor, bags: int | None) -> list[int]:
    """Instances of each bag; checks that the ids ascend from 0 and stay below `bags`."""
    if segments.numel() and (int(segments[0]) < 0 or bool((segments[1:] < segments[:-1]).any())):
        raise ValueError("segments must be bag numbers in ascending order from 0: sort the instances by bag")
    named_bags = int(segments[-1]) + 1 if segments.numel() else 0
    if bags is not None and named_bags > bags:
        raise ValueError(f"segments name bag {named_bags - 1}, but bags={bags}")
    return torch.bincount(segments, minlength=bags or 0).tolist()


def _check_shapes(
    x: Tensor,
    score_weight: Tensor,
    score_bias: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    project_weight: Tensor | None,
    segments: Tensor | None,
    mask: Tensor | None,
) -> None:
    def need(good: bool, what: str, *tensors: Tensor) -> None:
        if not good:
            shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
            raise ValueError(f"{what}: got {shapes}")

    need(x.ndim == 2, "x must be [instances, features] (score_weight beside it)", x, score_weight)
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    dim = x.shape[1]
    if project_weight is not None:
        need(
            project_weight.shape[1] == dim,
            "project_weight must be [dim, features] for x [instances, features]",
            project_weight,
            x,
        )
        dim = project_weight.shape[0]
    if gate_weight is not None:
        need(
            gate_weight.shape[1] == dim,
            f"gate_weight must be [gates, {dim}] for x [instances, features]",
            gate_weight,
            x,
        )
        need(
            gate_weight.shape[0] == 2 * score_weight.shape[1],
            "gate_weight must have 2·hidden rows for score_weight [rows, hidden]",
            gate_weight,
            score_weight,
        )
    else:
        need(
            score_weight.shape[1] == dim,
            f"score_weight must be [rows, {dim}] for x [instances, features]",
            score_weight,
            x,
        )
    if gate_bias is not None:
        if gate_weight is None:
            raise ValueError("gate_bias was given without gate_weight")
        need(
            gate_bias.shape[0] == gate_weight.shape[0],
            "gate_bias must have a value for each row of gate_weight",
            gate_bias,
            gate_weight,
        )
    if score_bias is not None:
        need(
            score_bias.shape[0] == score_weight.shape[0],
            "score_bias must have a value for each row of score_weight",
            score_bias,
            score_weight,
        )
    for name, values in (("segments", segments), ("mask", mask)):
        if values is not None:
            need(values.shape == x.shape[:1], f"{name} must have a value for each instance of x", values, x)
