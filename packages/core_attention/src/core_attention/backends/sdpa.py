"""Attention by torch's `scaled_dot_product_attention`, with what its kernels lack: masks without a matrix, and the log-sum-exp.

What torch's call takes as it is goes straight to it. On the CPU masks are cut into `pieces`, which run through its kernel one by one,
forward and backward, so that nothing larger than a piece's mask exists; traced or transformed, they are one operator (`traced`). On
other devices a piece is one call of torch's function, recomputed in the backward pass. A factorised bias that needs a gradient becomes
extra columns of queries and keys, a value of another width is filled up with zeros: the kernel takes neither.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core_attention.backends import reference
from core_attention.backends.cpu import Call, Pieces, place, put
from core_attention.backends.dropout import Dropout
from core_attention.backends.pieces import Piece, masked, plan, seeing, written
from core_attention.backends.problem import Problem
from core_attention.masks import (
    Additive,
    Causal,
    Dense,
    Factorised,
    Mask,
    Part,
    Run,
    Size,
    learnable,
    parts,
    tensors_of,
    together,
    transformed,
)
from core_attention.parts.transforms import differentiated

NAME = "sdpa"


def why_not(problem: Problem) -> str | None:
    """Never: what torch's call does not take is prepared for it."""
    return None


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    scale: float,
    return_lse: bool,
    dropout: Dropout | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `core_attention.attention`."""
    cpu = q.device.type == "cpu"
    causal = isinstance(mask, Causal) and mask.offset == 0
    # torch's triangle multiplies −inf with the scale; its CPU kernel takes values of the queries' width only
    taken = (mask is None or (causal and scale > 0)) and not return_lse and dropout is None
    if taken and not (cpu and q.shape[-1] != v.shape[-1]):
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal, enable_gqa=gqa), None
    if any(_learned(m) for m in parts(mask) if isinstance(m, Factorised)):
        # without a gradient a sum written out piece by piece is faster than the wider product
        q, k, mask = with_factors(q, k, mask, scale)
    if differentiated():
        return reference.run(q, k, v, mask=mask, scale=scale, return_lse=return_lse, dropout=dropout)
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if torch.is_grad_enabled():
        mask = _with_learned_written_out(mask, size, q.device)
    if not cpu:
        return _by_autograd(q, k, v, mask, scale, size, return_lse, dropout)
    call = Call(mask, scale, dropout, any(_learned(m) for m in parts(mask)))
    if torch.compiler.is_compiling() or transformed(q):
        from core_attention.backends import traced

        out, lse = traced.run(q, k, v, mask=mask, scale=scale, dropout=dropout, learned=call.learned, sums=return_lse)
    else:
        out, lse = Pieces.apply(q, k, v, call, *(learnable(tensors_of(mask)) if call.learned else ()))
    return out, lse if return_lse else None


def _with_learned_written_out(mask: Mask | None, size: Size, device: torch.device) -> Mask | None:
    """`mask` with a learned bias of a user's own class as `Additive`: of how to differentiate it we know nothing."""
    masks: list[Mask] = []
    for part in parts(mask):
        own = type(part).bias is not Mask.bias and type(part).gradients is Mask.gradients
        bias = part.bias(size, Part(), device) if own else None
        if bias is None or not bias.requires_grad:
            masks.append(part)
            continue
        allowed = part.allowed(size, Part(), device)
        masks.append(Additive(bias))
        if allowed is not None:
            masks.append(Dense(allowed))
    return together(masks)


def _learned(mask: Mask) -> bool:
    """Whether a gradient of a bias is wanted."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors_of(mask))


def with_factors(q: Tensor, k: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor, Mask | None]:
    """Queries and keys whose product holds the factorised biases of `mask`, and the mask without them.

    ``scale · [q, rows/scale, columns/scale] · [k, one-hot row, one-hot column] = scale · q · k + rows[y] + columns[x]``.
    """
    factorised = [m for m in parts(mask) if isinstance(m, Factorised)]
    if not factorised or scale == 0:
        return q, k, mask
    b, h, n, _ = q.shape
    place = torch.arange(k.shape[2], device=k.device)
    extra_q, extra_k = [q], [k]
    for bias in factorised:
        height, width = bias.rows.shape[-1], bias.columns.shape[-1]
        exact = torch.promote_types(q.dtype, torch.float32)
        extra_q += [(t.to(q.device, exact) / scale).to(q.dtype).expand(b, h, n, -1) for t in (bias.rows, bias.columns)]
        hot = [F.one_hot(place // width, height), F.one_hot(place % width, width)]
        extra_k += [t.to(k.dtype).expand(k.shape[0], k.shape[1], -1, -1) for t in hot]
    return (
        torch.cat(extra_q, -1),
        torch.cat(extra_k, -1),
        together(m for m in parts(mask) if not isinstance(m, Factorised)),
    )


# --- pieces by torch's function, on other devices -----------------------------------------------------------------


def _by_autograd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None,
    scale: float,
    size: Size,
    return_lse: bool,
    dropout: Dropout | None,
) -> tuple[Tensor, Tensor | None]:
    """The pieces one after the other, each computed again in the backward pass; a graph has one, whatever the length."""
    if torch.compiler.is_compiling() or transformed(q) or return_lse:
        others = tuple(parts(mask))
        pieces = [Piece(None, Run(0, size.queries), Run(0, size.keys), masks=others)]
    else:
        pieces = plan(mask, size, q.element_size(), q.device, values=False, triangle=scale > 0)
    if len(pieces) == 1 and pieces[0].batch is None and pieces[0].rows == (0, size.queries):
        return _one(q, k, v, pieces[0], scale, size, return_lse, dropout)
    out = q.new_zeros(*q.shape[:3], v.shape[3])
    for piece in pieces:
        answer, _ = checkpoint(_one, q, k, v, piece, scale, size, False, dropout, use_reentrant=False)  # type: ignore[misc]
        put(out, piece.batch, piece.rows, answer)
    return out, None


def _one(
    q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float, size: Size, return_lse: bool, dropout: Dropout | None
) -> tuple[Tensor, Tensor | None]:
    """One piece by torch's own call, or, where its log-sum-exp is wanted, by the definition; a row that sees nothing gives 0."""
    q, k, v = place(q, piece.batch, piece.rows), *(place(t, piece.batch, piece.keys) for t in (k, v))
    added = written(piece, size, q) if masked(piece) else None
    if return_lse:
        mask = None
        if piece.causal:
            mask = Causal()
        elif added is not None:
            mask = Additive(added)
        return reference.run(q, k, v, mask=mask, scale=scale, return_lse=True, dropout=dropout)
    given = added
    if added is not None:  # some kernels divide by the empty sum
        given = added.masked_fill(~seeing(added)[..., None], 0.0).expand(-1, -1, q.shape[2], k.shape[2])
    share = 0.0 if dropout is None else dropout.share
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=given, dropout_p=share, scale=scale, is_causal=piece.causal, enable_gqa=grouped
    )
    if added is not None:
        out = out.masked_fill(~seeing(added)[..., None], 0.0)
    return out, None
