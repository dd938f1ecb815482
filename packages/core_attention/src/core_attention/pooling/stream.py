"""`attention_pool` in chunks: online softmax forward, recomputation chunk by chunk backward.

Kept between the two passes: the inputs, the scores ``[N, R]`` and one maximum and sum per bag and row; never ``h`` or the gates.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core_attention.parts.first_order import first_order
from core_attention.pooling.weights import Weights

# the score of an excluded instance: finite, so that a row with every instance excluded is uniform and never NaN
EXCLUDED = -1e9


class Online:
    """Running maximum, sum and weighted sum of every bag and row."""

    def __init__(self, bags: int, rows: int, dim: int, like: Tensor) -> None:
        self.top = like.new_full((bags, rows), -math.inf)
        self.total = like.new_zeros(bags, rows)
        self.acc = like.new_zeros(bags, rows, dim)

    def merge(self, bag: int, top: Tensor, total: Tensor, acc: Tensor) -> None:
        """Adds a part of a bag given by its own maximum [R], sum [R] and weighted sum [R, L]."""
        new = torch.maximum(self.top[bag], top)
        base = new.masked_fill(new == -math.inf, 0.0)  # −∞ − −∞ would be NaN
        old_share, share = torch.exp(self.top[bag] - base), torch.exp(top - base)
        self.total[bag] = self.total[bag] * old_share + total * share
        self.acc[bag] = self.acc[bag] * old_share[:, None] + acc * share[:, None]
        self.top[bag] = new

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled vectors (0 for an empty bag), and the maximum and sum that turn a score into a weight: exp(s − top) / total.

        The two are not folded into one log-sum-exp: beside a maximum of −1e9 (all excluded) a float32 would lose log N.
        """
        empty = self.total == 0
        top, total = self.top.masked_fill(empty, 0.0), self.total.masked_fill(empty, 1.0)
        return self.acc / total[..., None], top, total


def part(scores: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, sum and weighted sum of one stretch of instances."""
    top = scores.amax(dim=0)
    weights = torch.exp(scores - top.masked_fill(top == -math.inf, 0.0))
    return top, weights.sum(dim=0), weights.T @ h


def stretches(lengths: list[int], chunk: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Chunks of the packed instances, each with the (bag, slice within the chunk) pairs that it holds."""
    bags: list[tuple[int, int, int]] = []  # (bag, begin, end) of those that hold something
    total = 0
    for bag, length in enumerate(lengths):
        if length:
            bags.append((bag, total, total + length))
        total += length
    first = 0  # the first bag that reaches into the chunk: both go forward only
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        while bags[first][2] <= start:
            first += 1
        inside = []
        for bag, begin, end in bags[first:]:
            if begin >= stop:
                break
            inside.append((bag, slice(max(begin, start) - start, min(end, stop) - start)))
        yield slice(start, stop), inside


def project(x: Tensor, weights: Weights) -> Tensor:
    """One chunk of ``h`` in the working dtype."""
    x = x.to(weights.score.dtype)
    if weights.project is None:
        return x
    return F.linear(x, weights.project).relu_()


def activations(h: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """``tanh(h Vᵀ + b_V)`` and ``σ(h Uᵀ + b_U)`` of one chunk."""
    assert weights.gate is not None
    value, gate = F.linear(h, weights.gate, weights.gate_bias).chunk(2, dim=-1)
    return value.tanh_(), gate.sigmoid_()


def score(h: Tensor, weights: Weights) -> Tensor:
    """Raw scores of one chunk."""
    if weights.gate is not None:
        value, gate = activations(h, weights)
        h = value.mul_(gate)
    return F.linear(h, weights.score, weights.score_bias)


class StreamedPool(torch.autograd.Function):
    """(pooled [bags, rows, dim], scores [instances, rows] or an empty tensor); see `core_attention.pooling.attention.attention_pool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        parameters, (lengths, mask, exclude, chunk, use_triton, scored) = rest[:5], rest[5:]
        with torch.autocast(x.device.type, enabled=False):
            weights = working(x, parameters)
            keep_scores = scored or exclude is not None or any(ctx.needs_input_grad)
            pooled, top, total, scores = _forward(x, weights, lengths, mask, exclude, chunk, use_triton, keep_scores)
        ctx.save_for_backward(x, pooled, top, total, scores, *parameters)
        ctx.lengths, ctx.chunk = lengths, chunk
        if not scored:
            ctx.mark_non_differentiable(scores)
        ctx.set_materialize_grads(False)
        return pooled, scores

    @staticmethod
    @first_order
    def backward(ctx: Any, d_pooled: Tensor | None, d_scores: Tensor | None) -> tuple[Tensor | None, ...]:
        x, pooled, top, total, scores, *parameters = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grads = _backward(
                x,
                working(x, parameters),
                ctx.lengths,
                ctx.chunk,
                (pooled, top, total, scores),
                (d_pooled, d_scores),
                ctx.needs_input_grad,
            )
        # back to the dtypes of the inputs; the last six arguments of `forward` have no gradient
        results: list[Tensor | None] = []
        for grad, tensor in zip(grads, (x, *parameters), strict=True):
            results.append(None if grad is None else grad.to(tensor.dtype))
        return *results, *[None] * 6


def working(x: Tensor, parameters: Sequence[Tensor | None]) -> Weights:
    """Weights in the dtype that products run in: float64 if anything is, else float32."""
    work = torch.promote_types(x.dtype, torch.float32)
    for parameter in parameters:
        if parameter is not None:
            work = torch.promote_types(work, parameter.dtype)
    cast = [None if parameter is None else parameter.to(work) for parameter in parameters]
    return Weights(*cast)  # pyright: ignore[reportArgumentType]  (score is never None)


def _forward(
    x: Tensor,
    weights: Weights,
    lengths: list[int],
    mask: Tensor | None,
    exclude: Any,
    chunk: int,
    use_triton: bool,
    keep_scores: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if use_triton:
        from core_attention.pooling import triton as kernels

        score_chunk, part_of = kernels.score, kernels.part
    else:
        score_chunk, part_of = score, part
    rows = weights.score.shape[0]
    dim = x.shape[1] if weights.project is None else weights.project.shape[0]
    wide = weights.score.new_zeros(0, dtype=torch.promote_types(weights.score.dtype, torch.float32))
    state = Online(len(lengths), rows, dim, wide)
    scores = wide.new_empty(x.shape[0] if keep_scores else 0, rows)
    last_h = None
    for at, inside in stretches(lengths, chunk):
        h = project(x[at], weights)
        s = score_chunk(h, weights).to(wide.dtype)
        if mask is not None:
            s = s.masked_fill(~mask[at, None], -math.inf)
        if keep_scores:
            scores[at] = s
        if exclude is None:
            for bag, where in inside:
                state.merge(bag, *part_of(s[where], h[where]))
        last_h = h
    if exclude is not None:
        # which scores to strike is known only once all are: a second reading, free where the bag was one chunk
        scores.masked_fill_(exclude(scores), EXCLUDED)
        for at, inside in stretches(lengths, chunk):
            if last_h is not None and chunk >= x.shape[0]:
                h = last_h
            else:
                h = project(x[at], weights)
            s = scores[at]
            for bag, where in inside:
                state.merge(bag, *part_of(s[where], h[where]))
    return *state.result(), scores


def _backward(
    x: Tensor,
    weights: Weights,
    lengths: list[int],
    chunk: int,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    upstream: tuple[Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> list[Tensor | None]:
    pooled, top, total, scores = results
    d_pooled, d_scores = upstream
    d_pooled = torch.zeros_like(pooled) if d_pooled is None else d_pooled.to(pooled.dtype)
    # the softmax's gradient subtracts Σ weight · d weight, which over a whole bag is this: (bags, rows)
    delta = (d_pooled * pooled).sum(-1)
    work = weights.score.dtype
    # in the dtype of the result (float32 at least), because they are summed over all chunks
    grads: list[Tensor | None] = []
    for weight, need in zip(weights, needs[1:6], strict=True):
        if weight is None or not need:
            grads.append(None)
        else:
            grads.append(torch.zeros_like(weight, dtype=pooled.dtype))
    d_project, d_gate, d_gate_bias, d_score, d_score_bias = grads
    d_x = torch.empty_like(x) if needs[0] else None
    for at, inside in stretches(lengths, chunk):
        h, s = project(x[at], weights), scores[at]
        d_s, d_h = torch.empty_like(s), torch.empty_like(h)
        for bag, where in inside:
            weight = torch.exp(s[where] - top[bag]) / total[bag]
            d_s[where] = weight * ((h[where] @ d_pooled[bag].T.to(work)).to(s.dtype) - delta[bag])
            torch.mm(weight.to(work), d_pooled[bag].to(work), out=d_h[where])
        if d_scores is not None:
            d_s += d_scores[at]
        d_s = d_s.masked_fill_(s <= EXCLUDED, 0.0).to(work)  # set by `exclude` or `mask`: constants
        if d_score_bias is not None:
            d_score_bias += d_s.sum(0)
        if weights.gate is None:
            if d_score is not None:
                d_score += d_s.T @ h
            d_h.addmm_(d_s, weights.score)
        else:
            value, gate = activations(h, weights)
            if d_score is not None:
                d_score += d_s.T @ (value * gate)
            d_hidden = d_s @ weights.score
            d_value = d_hidden * gate * (1 - value * value)  # through tanh
            d_gate_in = d_hidden * value * gate * (1 - gate)  # through σ
            d_gates = torch.cat([d_value, d_gate_in], dim=-1)
            if d_gate is not None:
                d_gate += d_gates.T @ h
            if d_gate_bias is not None:
                d_gate_bias += d_gates.sum(0)
            d_h.addmm_(d_gates, weights.gate)
        if weights.project is not None:
            d_h.mul_(h > 0)  # through ReLU
            if d_project is not None:
                d_project += d_h.T @ x[at].to(work)
            if d_x is not None:
                d_h = d_h @ weights.project
        if d_x is not None:
            d_x[at] = d_h.to(d_x.dtype)
    return [d_x, *grads]
