"""Row and column strips of a feature map: what ELA, coordinate attention and the balanced fusion share.

All of them average a map over its width and over its height, make one gate per row and one per column from the two strips, and multiply:

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

from core_attention.capture.recording import record
from core_attention.parts.transforms import transformed

PIECE = 2**18  # elements: 1 MiB of float32


def strip_means(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h"], Float[Tensor, "b c w"]]:
    """The mean of each row (over the width) and of each column (over the height).

    Returns:
        the means of the rows, and those of the columns.
    """
    return x.mean(3), x.mean(2)


def gated(
    x: Float[Tensor, "b c h w"], rows: Tensor, columns: Tensor, offset: Tensor | None
) -> Float[Tensor, "b c h w"]:
    """``x · (rows ⊗ columns + offset)`` by its definition."""
    gate = rows[..., None] * columns[:, :, None, :]
    if offset is not None:
        gate = gate + offset[..., None, None]
    return x * gate


def strip_gate(
    x: Float[Tensor, "b c h w"],
    rows: Float[Tensor, "b c h"],
    columns: Float[Tensor, "b c w"],
    offset: Float[Tensor, "b c"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """``y[b,c,i,j] = x[b,c,i,j] · (rows[b,c,i] · columns[b,c,j] + offset[b,c])``, in the dtype and memory format of `x`.

    Args:
        x: the feature map.
        rows: one gate per row; cast to the dtype of `x`.
        columns: one gate per column, likewise.
        offset: one summand per channel, likewise; None: 0.

    Returns:
        the gated map, of the shape of `x`.
    """
    rows, columns = rows.to(x.dtype), columns.to(x.dtype)
    if offset is not None:
        offset = offset.to(x.dtype)
    if transformed():
        return gated(x, rows, columns, offset)
    return _StripGate.apply(x, rows, columns, offset)  # pyright: ignore[reportReturnType]


def strip_attention(
    x: Float[Tensor, "b c h w"], gates: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
) -> Float[Tensor, "b c h w"]:
    """Averages to strips, asks `gates` for the gates of the strips, and gates the map; one backward pass serves means and product.

    Offers the gate of each pixel to `core_attention.capture`; channels are its heads, rows of the map its rows.

    Args:
        x: the feature map.
        gates: ``gates(row_means, column_means)`` → the `rows` and `columns` of `strip_gate`, and optionally its `offset`.

    Returns:
        the gated map, of the shape of `x`.
    """
    if torch.is_grad_enabled() and x.requires_grad and not transformed():
        x, *means = _StripMeans.apply(x)  # pyright: ignore[reportGeneralTypeIssues]
    else:
        means = strip_means(x)
    strips = gates(*means)
    b, c, h, w = x.shape
    record("gates", lambda rows, heads: _gates_of(rows, heads, *strips), shape=(b, c, h, w), device=x.device)
    return strip_gate(x, *strips)


def strip_conv(
    z: Float[Tensor, "b c l"], weight: Float[Tensor, "c_out c_in k"], *, groups: int = 1
) -> Float[Tensor, "b c_out l"]:
    """A 1-D convolution along a strip, stride 1, zero padding of half the (odd) kernel, no bias.

    With gradients a depthwise one runs as a 2-D convolution of width 1: on CPUs that backward is two to four times faster.
    """
    half = weight.shape[-1] // 2
    if weight.shape[1] == 1 and torch.is_grad_enabled() and (z.requires_grad or weight.requires_grad):
        return F.conv2d(z[..., None], weight[..., None], padding=(half, 0), groups=groups)[..., 0]
    return F.conv1d(z, weight, padding=half, groups=groups)


def _gate(x: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None) -> Tensor:
    """``rows ⊗ columns + offset`` of strips that `_over_maps` laid out, in the memory format of `x`."""
    if offset is None:
        return rows * columns
    if x.is_contiguous():
        # written out along the width, the offset leaves one broadcast operand in the inner loop: torch then vectorises it
        offset = offset.expand(-1, -1, 1, x.shape[3]).contiguous()
    return torch.addcmul(offset, rows, columns)


def _over_maps(x: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Strips as (b, c, h or 1, w or 1), in the memory format of `x`, so that what they are multiplied to has it too."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    a = rows[..., None].contiguous(memory_format=memory_format)
    b = columns[:, :, None].contiguous(memory_format=memory_format)
    if offset is not None:
        offset = offset[..., None, None].contiguous(memory_format=memory_format)
    return a, b, offset


def _pieces(x: Tensor) -> list[slice]:
    """The batch of `x`, on CPUs in pieces that stay in a core's cache between one pass over them and the next."""
    samples = max(1, len(x))
    if x.device.type == "cpu":
        samples = max(1, PIECE // max(1, x[:1].numel()))
    return [slice(start, start + samples) for start in range(0, len(x), samples)]


def _gates_of(
    row_index: Tensor, channel_index: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None = None
) -> Tensor:
    """The gate of the pixels of some rows and channels, for `capture`."""
    gate = rows[:, channel_index][:, :, row_index, None] * columns[:, channel_index, None]
    if offset is not None:
        gate = gate + offset[:, channel_index, None, None]
    return gate


class _StripGate(torch.autograd.Function):
    """`strip_gate` with two passes over the map forward and, on CPUs, one backward; nothing but its inputs is kept."""

    @staticmethod
    def forward(x: Tensor, rows: Tensor, columns: Tensor, offset: Tensor | None) -> Tensor:
        return _gate(x, *_over_maps(x, rows, columns, offset)).mul_(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *strips = ctx.saved_tensors
        a, b, offset = _over_maps(x, *strips)
        if torch.is_grad_enabled():  # this backward is to be differentiated in its turn
            p = dy * x
            d_offset = None if offset is None else p.sum((2, 3))
            return _gate(x, a, b, offset) * dy, (p * b).sum(3), (p * a).sum(2), d_offset
        batch, channels, height, width = x.shape
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_rows, d_columns = x.new_empty(batch, channels, height), x.new_empty(batch, channels, width)
        d_offset = None if offset is None else x.new_empty(batch, channels)
        for at in _pieces(x):
            p = dy[at] * x[at]
            if d_offset is not None:
                torch.sum(p, (2, 3), out=d_offset[at])
            torch.sum(p * b[at], 3, out=d_rows[at])
            torch.sum(p.mul_(a[at]), 2, out=d_columns[at])  # in place: p is not needed after this
            if dx is not None:
                gate = _gate(x[at], a[at], b[at], None if offset is None else offset[at])
                torch.mul(gate, dy[at], out=dx[at])
        return dx, d_rows, d_columns, d_offset


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
        a, b, _ = _over_maps(dx, rows / width, columns / height, None)
        if torch.is_grad_enabled():
            return dx + a + b
        for at in _pieces(dx):  # in place: `strip_gate` made this gradient, and nothing else sees it
            dx[at].add_(a[at]).add_(b[at])
        return dx
