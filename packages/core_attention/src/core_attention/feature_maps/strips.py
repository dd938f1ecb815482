"""Row and column strips of a feature map: what ELA, coordinate attention and the balanced fusion share.

All of them average a map over its width and over its height, make one gate a row and one a column from the two strips, and multiply:

    y[b,c,i,j] = x[b,c,i,j] · (rows[b,c,i] · columns[b,c,j] + offset[b,c])

Written out, every product and every mean is a pass over the whole map, and autograd keeps each product. Here the gate is made once
and multiplied in place, only `x` and the strips are kept, and one backward pass serves the means and the product together. Under
``torch.compile`` the plain definition is traced and fused by the compiler.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core_attention.capture import record


def strip_means(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h"], Float[Tensor, "b c w"]]:
    """The mean of each row (over the width) and of each column (over the height)."""
    return x.mean(3), x.mean(2)


def gated(
    x: Float[Tensor, "b c h w"], rows: Tensor, columns: Tensor, offset: Tensor | None
) -> Float[Tensor, "b c h w"]:
    """``x · (rows ⊗ columns + offset)`` by its definition."""
    gate = rows[..., None] * columns[:, :, None, :]
    return x * (gate if offset is None else gate + offset[..., None, None])


def strip_gate(
    x: Float[Tensor, "b c h w"],
    rows: Float[Tensor, "b c h"],
    columns: Float[Tensor, "b c w"],
    offset: Float[Tensor, "b c"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """``y[b,c,i,j] = x[b,c,i,j] · (rows[b,c,i] · columns[b,c,j] + offset[b,c])``, in the dtype and memory format of `x`.

    Args:
        x: the feature map.
        rows: one gate a row; cast to the dtype of `x`.
        columns: one gate a column, likewise.
        offset: one summand a channel, likewise; None: 0.
    """
    rows, columns = rows.to(x.dtype), columns.to(x.dtype)
    offset = None if offset is None else offset.to(x.dtype)
    if torch.compiler.is_compiling():
        return gated(x, rows, columns, offset)
    return _StripGate.apply(x, rows, columns, offset)  # pyright: ignore[reportReturnType]


def strip_attention(
    x: Float[Tensor, "b c h w"], gates: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> Float[Tensor, "b c h w"]:
    """Averages to strips, asks `gates` for the gates of the strips, and gates the map; one backward pass serves means and product.

    Offers the gate of each pixel to `core_attention.capture`; channels are its heads, rows of the map its rows.

    Args:
        x: the feature map.
        gates: ``gates(row_means, column_means)`` → the `rows` and `columns` of `strip_gate`, and its `offset` or not.
    """
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        x, *means = _StripMeans.apply(x)  # pyright: ignore[reportGeneralTypeIssues]
    else:
        means = strip_means(x)
    made = gates(*means)
    b, c, h, w = x.shape
    record("gates", lambda rows, heads: _picked(rows, heads, *made), shape=(b, c, h, w), device=x.device)
    return strip_gate(x, *made)


def strip_conv(
    z: Float[Tensor, "b c l"], weight: Float[Tensor, "c_out c_in k"], *, groups: int = 1
) -> Float[Tensor, "b c_out l"]:
    """A 1-D convolution along a strip, stride 1, zero padding of half the (odd) kernel, no bias.

    With gradients it runs as a 2-D convolution of width 1: on CPUs that backward is two to four times faster than the 1-D one for
    depthwise kernels.
    """
    half = weight.shape[-1] // 2
    if torch.is_grad_enabled() and (z.requires_grad or weight.requires_grad):
        return F.conv2d(z[..., None], weight[..., None], padding=(half, 0), groups=groups)[..., 0]
    return F.conv1d(z, weight, padding=half, groups=groups)


def _gate(x: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None) -> Tensor:
    """``rows ⊗ columns + offset`` in the memory format of `x`, each of the three already (b, c, h or 1, w or 1)."""
    if offset is None:
        return rows * columns
    if x.is_contiguous():
        # written out along the width, the offset leaves one broadcast operand in the inner loop: torch then vectorises it
        offset = offset.expand(-1, -1, 1, x.shape[3]).contiguous()
    return torch.addcmul(offset, rows, columns)


def _picked(picked: Tensor, heads: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None = None) -> Tensor:
    """The gate of the pixels of some channels and rows."""
    gate = rows[:, heads][:, :, picked, None] * columns[:, heads, None]
    return gate if offset is None else gate + offset[:, heads, None, None]


def _laid_out(x: Tensor, *strips: Tensor | None) -> list[Tensor | None]:
    """Strips in the memory format of `x`, so that what they are multiplied to has it too."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    form = torch.channels_last if last else torch.contiguous_format
    return [None if s is None else s.contiguous(memory_format=form) for s in strips]


class _StripGate(torch.autograd.Function):
    """`strip_gate` with two passes forward and five backward, and nothing but its inputs kept."""

    @staticmethod
    def forward(x: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None) -> Tensor:
        parts = _laid_out(x, rows[..., None], columns[:, :, None], None if offset is None else offset[..., None, None])
        return _gate(x, *parts).mul_(x)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, rows, columns, offset = ctx.saved_tensors
        a, b, e = _laid_out(
            x, rows[..., None], columns[:, :, None], None if offset is None else offset[..., None, None]
        )
        dx = _gate(x, a, b, e).mul_(dy) if ctx.needs_input_grad[0] else None  # pyright: ignore[reportArgumentType]
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None, None
        p = dy * x
        return dx, (p * b).sum(3), (p * a).sum(2), None if e is None else p.sum((2, 3))


class _StripMeans(torch.autograd.Function):
    """`strip_means` beside the map itself: whatever uses the map afterwards, its gradient arrives here together with the strips'."""

    @staticmethod
    def forward(x: Tensor):
        return x.view_as(x), *strip_means(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.size = inputs[0].shape[2:]

    @staticmethod
    def backward(ctx, dx: Tensor, rows: Tensor, columns: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        height, width = ctx.size
        rows, columns = _laid_out(dx, (rows / width)[..., None], (columns / height)[:, :, None])  # pyright: ignore
        return torch.add(dx, rows).add_(columns)
