"""One dense tile of a larger attention: output and log-sum-exp forward; gradients from the *whole* row's output backward.

Because the backward pass takes the final output and log-sum-exp of each row, it gives each tile's exact share of the
gradient although other tiles hold the row's other keys. On the CPU torch's own fused kernel does both; elsewhere, and
where that kernel hides a not-a-number, plain matrix products.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

SCORES = 1 << 21  # scores that the plain products hold at once


def tile_forward(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one tile.

    Args:
        q: (units, heads, rows, dim).
        k: (units, heads, keys, dim), keys > 0.
        v: (units, heads, keys, value dim).
        seen: boolean, broadcasts to (units, rows, keys); None where all is seen.
        scale: of the scores.

    Returns:
        output (units, heads, rows, value dim), and log-sum-exp (units, heads, rows) in at least float32;
        0 and −inf for a row that sees nothing.
    """
    if q.device.type != "cpu":
        return _plain_forward(q, k, v, seen, scale)
    bias = None if seen is None else _bias(seen, q.dtype)
    dim = max(q.shape[-1], v.shape[-1])
    out, lse = _flash(_widen(q, dim), _widen(k, dim), _widen(v, dim), 0.0, False, attn_mask=bias, scale=scale)
    if seen is not None:
        empty = ~seen.any(-1)[:, None].expand(lse.shape)
        if bool(empty.any()):
            out, lse = out.masked_fill(empty[..., None], 0), lse.masked_fill(empty, -torch.inf)
    out, zero = out[..., : v.shape[-1]], lse == 0
    if bool(zero.any()):  # the kernel answers 0 and 0 for a row of not-a-numbers
        right = _plain_forward(q, k, v, seen, scale)
        out, lse = torch.where(zero[..., None], right[0], out), torch.where(zero, right[1], lse)
    return out, lse


def tile_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    seen: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from one tile, given the final `out` and `lse` of its rows (over all tiles)."""
    nothing = lse == -torch.inf
    if bool(nothing.any()):  # whatever such a row holds, it moves nothing
        lse, q = lse.masked_fill(nothing, 0), q.masked_fill(nothing[..., None], 0)
    if q.device.type != "cpu":
        return _plain_backward(grad, q, k, v, out, lse, seen, scale)
    bias = None if seen is None else _bias(seen, q.dtype)
    dim = max(q.shape[-1], v.shape[-1])
    wide = [_widen(t, dim) for t in (grad, q, k, v, out)]
    dq, dk, dv = _flash_backward(*wide, lse, 0.0, False, attn_mask=bias, scale=scale)
    return dq[..., : q.shape[-1]], dk[..., : q.shape[-1]], dv[..., : v.shape[-1]]


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]


def _widen(x: Tensor, dim: int) -> Tensor:
    if x.shape[-1] != dim:
        return F.pad(x, (0, dim - x.shape[-1]))
    # the kernel reads the last axis as if its elements stood side by side
    return x if x.stride(-1) == 1 else x.contiguous()


def _plain_forward(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    kind = torch.promote_types(q.dtype, torch.float32)
    k, v = k.to(kind), v.to(kind)
    step = max(1, SCORES // (k.shape[0] * k.shape[1] * k.shape[2]))
    outs, lses = [], []
    for start in range(0, q.shape[2], step):
        scores = q[:, :, start : start + step].to(kind) @ k.transpose(2, 3) * scale
        if seen is not None:
            rows = seen[:, None] if seen.shape[1] == 1 else seen[:, None, start : start + step]
            scores = scores.masked_fill(~rows, -torch.inf)
        lse = scores.logsumexp(-1)
        outs.append(((scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp() @ v).to(q.dtype))
        lses.append(lse)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, seen: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    kind = torch.promote_types(q.dtype, torch.float32)
    grad, k, v = grad.to(kind), k.to(kind), v.to(kind)
    step = max(1, SCORES // (k.shape[0] * k.shape[1] * k.shape[2]))
    dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.shape[2], step):
        rows = slice(start, start + step)
        query = q[:, :, rows].to(kind)
        scores = query @ k.transpose(2, 3) * scale
        if seen is not None:
            scores = scores.masked_fill(~(seen[:, None] if seen.shape[1] == 1 else seen[:, None, rows]), -torch.inf)
        p = (scores - lse[:, :, rows, None]).exp()
        dv += p.transpose(2, 3) @ grad[:, :, rows]
        inner = grad[:, :, rows] @ v.transpose(2, 3) - (grad[:, :, rows] * out[:, :, rows].to(kind)).sum(
            -1, keepdim=True
        )
        ds = p * inner * scale
        dq.append((ds @ k).to(q.dtype))
        dk += ds.transpose(2, 3) @ query
    return torch.cat(dq, 2), dk, dv
