"""Attention in pieces by torch's CPU kernel, forward and backward: nothing larger than a piece's mask exists.

`sdpa` calls it as a function of autograd, `Pieces`; `traced` as one operator of a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core_attention.backends import reference
from core_attention.backends.dropout import Dropout, factors
from core_attention.backends.pieces import Piece, hidden_keys, masked, part_of, plan, seeing, written
from core_attention.masks import Mask, Run, Size, Where, learnable, parts, tensors_of
from core_attention.parts.first_order import first_order


class Call(NamedTuple):
    """What an attention in pieces is given besides queries, keys and values; `learned`: a bias wants its gradient."""

    mask: Mask | None
    scale: float
    dropout: Dropout | None
    learned: bool

    @property
    def by_definition(self) -> bool:
        """Whether the kernel cannot compute the backward pass: it gives no gradient of a bias and drops no weights."""
        return self.learned or self.dropout is not None


class _Cut(NamedTuple):
    """The tensors of one piece: `added` is its written-out mask as the kernel takes it."""

    piece: Piece
    q: Tensor
    k: Tensor
    v: Tensor
    added: Tensor | None


def _cuts(q: Tensor, k: Tensor, v: Tensor, call: Call, size: Size) -> Iterator[_Cut]:
    """The pieces of an attention one after the other."""
    definition = call.by_definition
    pieces = plan(
        call.mask,
        size,
        q.element_size(),
        q.device,
        values=True,
        triangle=call.scale > 0 and not definition,
        scores=definition,
    )
    for piece in pieces:
        rows = place(q, piece.batch, piece.rows)
        keys, values = (place(t, piece.batch, piece.keys) for t in (k, v))
        hidden = hidden_keys(piece, size, q.device)
        if hidden is not None:  # 0 · NaN is NaN: what is not to be read is overwritten
            keys, values = (t.masked_fill(hidden[:, None, :, None], 0.0) for t in (keys, values))
        added = None
        if masked(piece):
            # a bias is not rounded to half precision: the kernel adds it in float32
            added = written(piece, size, q, torch.promote_types(q.dtype, torch.float32)).expand(
                -1, -1, rows.shape[2], keys.shape[2]
            )
        yield _Cut(piece, rows, keys, values, added)


def _evened(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one width, zeros behind, whose rows lie in one place: the kernel takes both for granted."""
    wide = max(t.shape[-1] for t in tensors)
    evened = []
    for tensor in tensors:
        if tensor.shape[-1] < wide:
            tensor = F.pad(tensor, (0, wide - tensor.shape[-1]))
        if tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        evened.append(tensor)
    return evened


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of an attention in pieces."""
    size, width = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2]), v.shape[-1]
    q, k, v = _evened(q, k, v)
    out = q.new_zeros(*q.shape[:3], width)
    lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
    for piece, qp, kp, vp, added in _cuts(q, k, v, call, size):
        if call.dropout is None:
            rows, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                qp, kp, vp, 0.0, piece.causal, attn_mask=added, scale=call.scale
            )
            if added is not None and bool((sums == 0).any()):  # the kernel's sum of a row that sees nothing
                sums = sums.masked_fill(~seeing(added), float("-inf"))
            rows = _with_nan(rows, qp, added)
        else:
            p, sums = reference.softmax(_scores(qp, kp, added, call.scale))
            p = p * factors(call.dropout, size, part_of(piece), q.device).to(p.dtype)
            rows = reference.weighted(p, vp).to(q.dtype)
        put(out, piece.batch, piece.rows, rows[..., :width])
        put(lse, piece.batch, piece.rows, sums)
    return out, lse


def _with_nan(out: Tensor, q: Tensor, added: Tensor | None) -> Tensor:
    """NaN for a query that holds NaN and sees a key: torch's CPU kernel takes its row for a hidden one and answers 0."""
    if not bool(q.sum().isnan()):  # one pass; only where it finds something is it looked for
        return out
    lost = q.isnan().any(-1, keepdim=True)
    if added is not None:
        lost = lost & seeing(added)[..., None]
    return out.masked_fill(lost, float("nan"))


def backward(
    grad: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor]]:
    """Gradients of queries, keys and values, and of the mask's tensors where they are learned."""
    size, dtype, widths = (
        Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2]),
        q.dtype,
        (q.shape[-1], k.shape[-1], v.shape[-1]),
    )
    lse = lse.masked_fill(lse == float("-inf"), 0.0)
    if grad_lse is not None and not call.by_definition:
        # The kernel's score gradient is P·(grad·v - Σ grad·out). A column with v = 0, out = 1 and grad = -grad_lse brings grad_lse into it.
        wide = max(widths)
        q, k, v, out, grad = (F.pad(t, (0, wide + 1 - t.shape[-1])) for t in (q, k, v, out, grad))
        out[..., -1], grad[..., -1] = 1, -grad_lse
    q, k, v, out, grad = _evened(q, k, v, out, grad)
    exact = torch.promote_types(dtype, torch.float32)
    totals = [torch.zeros_like(t, dtype=exact) for t in (q, k, v)]  # pieces share keys: their sum is kept in float32
    biases = _Biases(call.mask if call.learned else None, exact)
    for piece, qp, kp, vp, added in _cuts(q, k, v, call, size):
        given, had, sums = (place(t, piece.batch, piece.rows) for t in (grad, out, lse))
        if call.by_definition:
            less = (given.to(exact) * had.to(exact)).sum(-1)
            if grad_lse is not None:
                less = less - place(grad_lse, piece.batch, piece.rows)
            *gradients, scores = _by_definition(_Cut(piece, qp, kp, vp, added), given, less, sums, call, size)
            biases.add(piece, scores, size)
        else:
            gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                given, qp, kp, vp, had, sums, 0.0, piece.causal, attn_mask=added, scale=call.scale
            )
        for total, one, where in zip(totals, gradients, (piece.rows, piece.keys, piece.keys), strict=True):
            put(total, piece.batch, where, one, add=True)
    grads = [total[..., :width].to(dtype).contiguous() for total, width in zip(totals, widths, strict=True)]
    return (grads[0], grads[1], grads[2]), biases.of_tensors()


def _scores(q: Tensor, k: Tensor, added: Tensor | None, scale: float) -> Tensor:
    scores = reference.scores(q, k, mask=None, scale=scale)
    return scores if added is None else scores + added


def _by_definition(
    cut: _Cut, grad: Tensor, less: Tensor, sums: Tensor, call: Call, size: Size
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a piece's queries, keys, values and scores: ``dS = P · (M · grad vᵀ - Σ grad·out)``, M the factors of dropout."""
    piece, q, k, v, added = cut
    exact, heads = less.dtype, k.shape[1]
    p = (_scores(q, k, added, call.scale) - sums[..., None]).exp()
    q, k, v, grad = (t.to(exact) for t in (q, k, v, grad))
    grouped = grad.unflatten(1, (heads, -1))  # query heads that share a key head
    of_weights = torch.einsum("bgrqe,bgke->bgrqk", grouped, v).flatten(1, 2)
    used = p
    if call.dropout is not None:
        weights = factors(call.dropout, size, part_of(piece), q.device).to(exact)
        of_weights, used = of_weights * weights, p * weights
    scores = p * (of_weights - less[..., None])
    of_values = torch.einsum("bgrqk,bgrqe->bgke", used.unflatten(1, (heads, -1)), grouped)
    by_group = scores.unflatten(1, (heads, -1)) * call.scale
    of_queries = torch.einsum("bgrqk,bgkd->bgrqd", by_group, k).flatten(1, 2)
    of_keys = torch.einsum("bgrqk,bgrqd->bgkd", by_group, q.unflatten(1, (heads, -1)))
    return of_queries, of_keys, of_values, scores


class _Biases:
    """The gradients of the biases of a mask, added up piece by piece."""

    def __init__(self, mask: Mask | None, dtype: torch.dtype):
        self.masks = parts(mask)
        self.tensors = [learnable(tensors_of(part)) for part in self.masks]
        self.totals = []
        for own in self.tensors:
            self.totals.append([torch.zeros_like(t, dtype=dtype).contiguous() for t in own])

    def add(self, piece: Piece, scores: Tensor, size: Size) -> None:
        for mask, totals in zip(self.masks, self.totals, strict=True):
            if totals:
                mask.gradients(size, part_of(piece), scores, totals)

    def of_tensors(self) -> list[Tensor]:
        gradients = []
        for tensors, totals in zip(self.tensors, self.totals, strict=True):
            for tensor, total in zip(tensors, totals, strict=True):
                gradients.append(total.to(tensor.device, tensor.dtype))
        return gradients


class Pieces(torch.autograd.Function):
    """Pieces forward and backward; keeps the outputs and sums, and writes each mask again when it needs it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: Call, *learned: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out, lse = forward(q, k, v, call)
        ctx.save_for_backward(q, k, v, out, lse, *learned)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse, *_ = ctx.saved_tensors
        grads, biases = backward(torch.zeros_like(out) if grad is None else grad, grad_lse, q, k, v, out, lse, ctx.call)
        return *grads, None, *biases


def place(tensor: Tensor, batch: Run | None, where: Where) -> Tensor:
    """`tensor` at some samples and some positions: a view where these are a run."""
    if batch is not None:
        tensor = tensor[batch.start : batch.stop]
    if isinstance(where, Tensor):
        return tensor.index_select(2, where)
    return tensor if where is None or where == (0, tensor.shape[2]) else tensor[:, :, where.start : where.stop]


def put(total: Tensor, batch: Run | None, where: Where, part: Tensor, *, add: bool = False) -> None:
    """Writes `part`, or adds it, where `place` takes it from."""
    if batch is not None:
        total = total[batch.start : batch.stop]
    if isinstance(where, Tensor):
        write = total.index_add_ if add else total.index_copy_
        write(2, where, part.to(total.dtype))
        return
    positions = place(total, None, where)
    if add:
        positions.add_(part)
    else:
        positions.copy_(part)
