"""Bi-level routing between the projections of a plain vision transformer: patches route over their grid, class tokens see all and
are seen by all."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.mechanisms.biformer.attention import depthwise
from core_attention.mechanisms.biformer.regions import from_regions, route_regions, to_regions
from core_attention.parts.placing import Device, placed
from core_attention.pretrained.convert import Layer
from core_attention.routed.attention import merge_attention, routed_attention
from core_attention.routed.routes import RouteIndex, RouteMask


class RoutedPatches(nn.Module):
    """Between a layer's projections: bi-level routing of the patches, with LePE of their values.

    LePE starts at 0, so with every region chosen a converted layer computes what it did before.

    Args:
        dim: channels of the values over all heads.
        grid: (height, width) of the patches; the rest of the tokens, in front, are class tokens.
        n_win: regions a side; must divide the grid.
        topk: regions that each attends to.
        side_dwconv: kernel size of LePE; 0 leaves it out.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        n_win: int,
        topk: int,
        side_dwconv: int = 5,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if grid[0] % n_win or grid[1] % n_win:
            raise ValueError(f"{n_win} regions a side do not divide a grid of {grid} patches")
        self.grid, self.n_win, self.topk = grid, n_win, topk
        self.lepe = depthwise(dim, side_dwconv) if side_dwconv else None
        if self.lepe is not None:
            nn.init.zeros_(self.lepe.weight)
            nn.init.zeros_(self.lepe.bias)  # type: ignore[arg-type]

    def forward(
        self, q: Float[Tensor, "batch heads tokens dim"], k: Tensor, v: Tensor, *, scale: float
    ) -> Float[Tensor, "batch heads tokens dim"]:
        """Attention of the shape of `q`.

        Raises:
            ValueError: fewer tokens than the grid has patches.
        """
        patches = self.grid[0] * self.grid[1]
        prefix = q.shape[2] - patches
        if prefix < 0:
            raise ValueError(f"a grid of {self.grid} has {patches} patches, the layer got tokens {tuple(q.shape)}")
        size, regions = (self.grid[0] // self.n_win, self.grid[1] // self.n_win), (self.n_win, self.n_win)
        heads = q.shape[1]
        # (batch, regions, tokens of one, heads · dim), as the routing sees them
        inner = [
            to_regions(t[:, :, prefix:].transpose(1, 2).flatten(2).unflatten(1, self.grid), size) for t in (q, k, v)
        ]
        routed = route_regions(inner[0].detach().mean(2), inner[1].detach().mean(2), topk=self.topk, scale=scale).index
        rows, keys, values = (t.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2) for t in inner)
        block = size[0] * size[1]
        parts = [
            routed_attention(
                rows, keys, values, RouteIndex(routed[:, None], block, block), scale=scale, return_lse=True
            )
        ]
        if prefix:
            routes = RouteMask(torch.ones(1, 1, 1, 1, dtype=torch.bool, device=q.device), patches, prefix)
            front = (k[:, :, :prefix], v[:, :, :prefix])
            parts.append(routed_attention(rows, *front, routes, scale=scale, return_lse=True))
        out = merge_attention(parts)[0] if prefix else parts[0][0]
        out = from_regions(out.transpose(1, 2).flatten(2).unflatten(1, (-1, block)), regions, size)
        if self.lepe is not None:
            image = from_regions(inner[2], regions, size)
            out = out + self.lepe(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = out.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
        if not prefix:
            return out
        return torch.cat([attention(q[:, :, :prefix], k, v, scale=scale), out], 2)


def for_layer(
    layer: Layer,
    *,
    n_win: int = 7,
    topk: int = 4,
    side_dwconv: int = 5,
    prefix: int = 1,
    grid: tuple[int, int] | None = None,
) -> RoutedPatches:
    """For `core_attention.pretrained.convert`: `prefix` class tokens in front of a square grid, unless `grid` says otherwise.

    Raises:
        ValueError: the grid is unknown or not square, regions that do not divide it, or grouped keys.
    """
    if layer.num_heads != layer.num_kv_heads:
        raise ValueError(
            f"{layer.name} groups its queries ({layer.num_heads} heads, {layer.num_kv_heads} of keys): no vision transformer"
        )
    if grid is None:
        tokens = layer.tokens()
        side = 0 if tokens is None else math.isqrt(tokens - prefix)
        if tokens is None or side * side != tokens - prefix:
            raise ValueError(
                f"{type(layer.model).__name__} has {tokens} tokens, {prefix} of them class tokens: no square grid; give grid=(height, width)"
            )
        grid = (side, side)
    return RoutedPatches(layer.num_heads * layer.head_dim, grid=grid, n_win=n_win, topk=topk, side_dwconv=side_dwconv)
