"""Attention by torch's `scaled_dot_product_attention`, with what its kernels lack: masks without a matrix, and the log-sum-exp.

Masks are cut into `pieces`. One piece is one call of torch's function; several run through its CPU kernel one by one, forward and
backward, so that nothing larger than a piece's mask exists (on other devices through checkpoints). A factorised bias that needs a
gradient becomes extra columns of queries and keys, a value of another width is filled up with zeros: the kernel takes neither.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from core_attention.backends import reference
from core_attention.backends.pieces import Piece, masked, plan, seeing, written
from core_attention.backends.problem import Problem
from core_attention.masks import Additive, Causal, Factorised, Mask, Run, Size, parts, together

NAME = "sdpa"


def why_not(problem: Problem) -> str | None:
    """Never: what torch's call does not take is prepared for it."""
    return None


def run(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """See `core_attention.attention`."""
    if _needs_bias_grad(mask)[
        1
    ]:  # without a gradient a sum written out piece by piece is faster than the wider product
        q, k, mask = with_factors(q, k, mask, scale)
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    by_kernel = q.device.type == "cpu" and not torch.compiler.is_compiling()
    pieces = plan(mask, size, q.element_size(), q.device, values=by_kernel)
    if any(_needs_bias_grad(mask)) or not by_kernel:
        return _by_autograd(q, k, v, pieces, scale, size, return_lse)
    width = v.shape[-1]
    wide = max(q.shape[-1], width)
    q, k, v = (F.pad(t, (0, wide - t.shape[-1])) if t.shape[-1] < wide else t for t in (q, k, v))
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))  # the kernel takes it for granted
    if return_lse or len(pieces) != 1 or not _whole(pieces[0], size):
        out, lse = _Pieces.apply(q, k, v, pieces, scale, size)
        return out[..., :width], lse if return_lse else None
    return _run_torch(*_cut_out(q, k, v, pieces[0]), pieces[0], scale, size)[..., :width], None


def _needs_bias_grad(mask: Mask | None) -> tuple[bool, bool]:
    """Whether a gradient of an additive bias is asked for, and of a factorised one."""
    on = torch.is_grad_enabled()
    additive = any(m.values.requires_grad for m in parts(mask) if isinstance(m, Additive))
    factorised = any(m.rows.requires_grad or m.columns.requires_grad for m in parts(mask) if isinstance(m, Factorised))
    return on and additive, on and factorised


def with_factors(q: Tensor, k: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor, Mask | None]:
    """Queries and keys whose product holds the factorised biases of `mask`, and the mask without them.

    ``scale · [q, rows/scale, columns/scale] · [k, one-hot row, one-hot column] = scale · q · k + rows[y] + columns[x]``.
    """
    factorised = [m for m in parts(mask) if isinstance(m, Factorised)]
    if not factorised or scale == 0:
        return q, k, mask
    b, h, n, _ = q.shape
    key = torch.arange(k.shape[2], device=k.device)
    extra_q, extra_k = [q], [k]
    for bias in factorised:
        height, width = bias.rows.shape[-1], bias.columns.shape[-1]
        exact = torch.promote_types(q.dtype, torch.float32)
        extra_q += [(t.to(q.device, exact) / scale).to(q.dtype).expand(b, h, n, -1) for t in (bias.rows, bias.columns)]
        hot = [F.one_hot(key // width, height), F.one_hot(key % width, width)]
        extra_k += [t.to(k.dtype).expand(k.shape[0], k.shape[1], -1, -1) for t in hot]
    rest = together(m for m in parts(mask) if not isinstance(m, Factorised))
    return torch.cat(extra_q, -1), torch.cat(extra_k, -1), rest


def _whole(piece: Piece, size: Size) -> bool:
    return piece.batch is None and piece.rows == (0, size.queries)


def _cut_out(q: Tensor, k: Tensor, v: Tensor, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
    k, v = (_view(t, piece.batch, piece.keys) for t in (k, v))
    return _view(q, piece.batch, piece.rows), k, v


def _view(tensor: Tensor, batch: Run | None, run: Run) -> Tensor:
    """The view of `tensor` at some samples and a run of positions."""
    if batch is not None:
        tensor = tensor[batch.start : batch.stop]
    return tensor if run == (0, tensor.shape[2]) else tensor[:, :, run.start : run.stop]


def _run_torch(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float, size: Size) -> Tensor:
    """One piece by torch's own call; a row that sees nothing gives 0 on every device, and a NaN in a query stays one."""
    cpu, gqa = q.device.type == "cpu", q.shape[1] != k.shape[1]
    added = written(piece, size, q) if masked(piece) else None
    attn_mask = added
    if attn_mask is not None:
        if not cpu:  # some kernels divide by the empty sum
            attn_mask = attn_mask.masked_fill(~seeing(attn_mask)[..., None], 0.0)
        attn_mask = attn_mask.expand(-1, -1, q.shape[2], k.shape[2])
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=attn_mask, scale=scale, is_causal=piece.causal, enable_gqa=gqa
    )
    if cpu:
        return _with_nan(out, q, added)
    return out if added is None else out.masked_fill(~seeing(added)[..., None], 0.0)


def _with_nan(out: Tensor, q: Tensor, added: Tensor | None) -> Tensor:
    """NaN for a query that holds NaN or inf and sees a key: torch's CPU kernel takes its row for a hidden one and answers 0."""
    # 0 for a finite row, NaN for one that holds NaN or inf
    lost = q.detach().sum(-1, keepdim=True, dtype=torch.promote_types(q.dtype, torch.float32)) * 0
    if not torch.compiler.is_compiling() and not bool(lost.isnan().any()):
        return out
    if added is not None:
        lost = lost.masked_fill(~seeing(added)[..., None], 0.0)
    return out + lost.to(out.dtype)


def _run_piece(
    q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float, size: Size, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """One piece by torch's own call, or, where its log-sum-exp is asked for, by the definition."""
    if not return_lse:
        return _run_torch(q, k, v, piece, scale, size), None
    mask: Mask | None = Causal() if piece.causal else None
    if masked(piece):
        mask = Additive(written(piece, size, q))
    return reference.run(q, k, v, mask=mask, scale=scale, return_lse=True)


def _run_checkpointed(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    out, lse = checkpoint(_run_piece, *arguments, use_reentrant=False)  # type: ignore[misc]
    return out, lse


def _by_autograd(
    q: Tensor, k: Tensor, v: Tensor, pieces: list[Piece], scale: float, size: Size, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """The pieces one after the other, each computed again in the backward pass if there are several."""

    if len(pieces) == 1 and _whole(pieces[0], size):
        return _run_piece(*_cut_out(q, k, v, pieces[0]), pieces[0], scale, size, return_lse)
    exact = torch.promote_types(q.dtype, torch.float32)
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    lse = q.new_full(q.shape[:3], float("-inf"), dtype=exact) if return_lse else None
    for piece in pieces:
        arguments = *_cut_out(q, k, v, piece), piece, scale, size, return_lse
        if torch.compiler.is_compiling():  # the graph keeps what it needs; its own recomputation decides what
            piece_out, piece_lse = _run_piece(*arguments)
        else:
            piece_out, piece_lse = _run_checkpointed(*arguments)
        _view(out, piece.batch, piece.rows).copy_(piece_out)
        if lse is not None and piece_lse is not None:
            _view(lse, piece.batch, piece.rows).copy_(piece_lse)
    return out, lse


class _Pieces(torch.autograd.Function):
    """Pieces by torch's CPU kernel, forward and backward; keeps the outputs and sums, and writes each mask again when it needs it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, pieces: list[Piece], scale: float, size: Size
    ) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(q)
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
        for piece in pieces:
            qp, kp, vp = _cut_out(q, k, v, piece)
            added = _added(piece, qp, kp, size)
            piece_out, piece_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                qp, kp, vp, 0.0, piece.causal, attn_mask=added, scale=scale
            )
            if added is not None and bool((piece_lse == 0).any()):  # the kernel's sum of a row that sees nothing
                piece_lse = piece_lse.masked_fill(~seeing(added), float("-inf"))
            _view(out, piece.batch, piece.rows).copy_(_with_nan(piece_out, qp, added))
            _view(lse, piece.batch, piece.rows).copy_(piece_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.pieces, ctx.scale, ctx.size = pieces, scale, size
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        lse = lse.masked_fill(lse == float("-inf"), 0.0)
        if grad is None:
            grad = torch.zeros_like(out)
        if grad_lse is not None:
            # The kernel's score gradient is P·(grad·v - Σ grad·out). A column with v = 0, out = 1 and grad = -grad_lse brings grad_lse into it.
            q, k, v, out, grad = (F.pad(t, (0, 1)) for t in (q, k, v, out, grad))
            out[..., -1], grad[..., -1] = 1, -grad_lse
        exact = torch.promote_types(q.dtype, torch.float32)
        grads = [torch.zeros_like(t, dtype=exact) for t in (q, k, v)]  # pieces share keys: their sum is kept in float32
        for piece in ctx.pieces:
            qp, kp, vp = _cut_out(q, k, v, piece)
            added = _added(piece, qp, kp, ctx.size)
            grad_p, out_p, lse_p = (_view(t, piece.batch, piece.rows) for t in (grad, out, lse))
            piece_grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_p, qp, kp, vp, out_p, lse_p, 0.0, piece.causal, attn_mask=added, scale=ctx.scale
            )
            for total, piece_grad, run in zip(grads, piece_grads, (piece.rows, piece.keys, piece.keys), strict=True):
                _view(total, piece.batch, run).add_(piece_grad)
        width = q.shape[-1] if grad_lse is None else q.shape[-1] - 1
        return (*(t[..., :width].to(q.dtype) for t in grads), None, None, None)


def _added(piece: Piece, q: Tensor, k: Tensor, size: Size) -> Tensor | None:
    """The written-out mask of a piece as the kernel takes it."""
    return written(piece, size, q).expand(-1, -1, q.shape[2], k.shape[2]) if masked(piece) else None
