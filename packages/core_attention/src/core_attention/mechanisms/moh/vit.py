"""Mixture of heads in TransNeXt (MoH-ViT): cosine attention with continuous position bias, over all tokens or aggregated."""

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.capture.recording import active, record
from core_attention.masks import Additive
from core_attention.mechanisms.moh.attention import GateScale, HeadRouter
from core_attention.parts.placing import Device, placed

Grid = tuple[int, int]


class Coordinates(NamedTuple):
    """Relative coordinates of all pairs of a query grid and a key grid, without repetition."""

    index: Int[Tensor, " pairs"]  # row of `table` for each (query, key), row-major
    table: Float[Tensor, "rows 2"]


def relative_coordinates(queries: Grid, keys: Grid, pretrain: Grid | None = None) -> Coordinates:
    """Log-spaced relative coordinates: ``c = 8 (query − key) / (pretrain − 1)`` per axis, then ``sign(c) log2(|c| + 1) / 3``.

    A smaller key grid stands at the adaptive averages of the query positions.

    Args:
        pretrain: the grid that the bias was trained on; defaults to `queries`.
    """
    pretrain = queries if pretrain is None else pretrain
    # distinct rows are counted, which needs values: also where the layer is built on "meta", or exported
    with torch.device("cpu"), torch.inference_mode(False), unset_fake_temporarily():
        return _coordinates(queries, keys, pretrain)


@lru_cache(maxsize=32)  # the layers of a stage share theirs
def _coordinates(queries: Grid, keys: Grid, pretrain: Grid) -> Coordinates:
    height, width = queries
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, height, width)
    pooled = F.adaptive_avg_pool2d(places, keys)
    relative = places.flatten(1).T[:, None] - pooled.flatten(1).T  # (queries, keys, 2)
    extent = torch.tensor([max(pretrain[0] - 1, 1), max(pretrain[1] - 1, 1)], dtype=torch.float64)
    scaled = 8 * relative / extent
    logs = scaled.sign() * (scaled.abs() + 1).log2() / 3
    # equal up to rounding is equal: without this, rounding would split rows of the table
    table, index = (logs.flatten(0, 1) * 2**24).round().unique(dim=0, return_inverse=True)
    return Coordinates(index, (table / 2**24).float())


class _CosineAttention(nn.Module):
    """What both attentions of TransNeXt share: temperature, query embedding, position bias, router."""

    coordinate_index: Tensor
    coordinate_table: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        queries: Grid,
        keys: Grid,
        *,
        shared: int,
        routed: int,
        pretrain: Grid | None,
        gate_scale: GateScale,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        self.num_heads, self.head_dim, self.grid, self.key_grid = num_heads, dim // num_heads, queries, keys
        self.pretrain = queries if pretrain is None else pretrain
        self.router = HeadRouter(dim, num_heads, shared=shared, routed=routed, gate_scale=gate_scale)
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), math.log(math.expm1(1 / 0.24))))
        self.query_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads, 1, self.head_dim), std=0.02))
        self.cpb_fc1, self.cpb_fc2 = nn.Linear(2, 512), nn.Linear(512, num_heads)
        self.proj = nn.Linear(dim, dim)
        self._cached_bias: tuple[tuple, Tensor] | None = None  # what it was computed from, and the bias
        self._place_on(queries)

    def key_grid_of(self, grid: Grid) -> Grid:
        """The grid of keys that belongs to a grid of queries."""
        return grid

    def _place_on(self, grid: Grid) -> None:
        """Makes the tables of a grid of queries."""
        self.grid, self.key_grid = grid, self.key_grid_of(grid)
        coordinates = relative_coordinates(self.grid, self.key_grid, self.pretrain)
        index, table = (t.to(self.proj.weight.device) for t in coordinates)
        self.register_buffer("coordinate_index", index, persistent=False)
        self.register_buffer("coordinate_table", table, persistent=False)

    def at_grid(self, grid: Grid) -> "_CosineAttention":
        """The same layer, with the same parameters, for another grid of tokens: only the tables of coordinates differ.

        Coordinates stay relative to the grid that the layer was made for, or to `pretrain`.
        """
        if grid == self.grid:
            return self
        view = copy.copy(self)
        view._buffers, view._cached_bias = dict(self._buffers), None
        view._place_on(grid)
        return view

    def position_bias(self, coordinates: Coordinates | None = None) -> Float[Tensor, "heads queries keys"]:
        """The bias of every pair; in inference it is computed once for the same parameters."""
        if coordinates is None:
            coordinates = Coordinates(self.coordinate_index, self.coordinate_table)
        parameters = (self.cpb_fc1.weight, self.cpb_fc1.bias, self.cpb_fc2.weight, self.cpb_fc2.bias)
        cacheable = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        key = ()
        if cacheable:
            # a tensor changed in place has another version, one that was replaced another address
            key = tuple((id(p), p.data_ptr(), p._version, p.dtype) for p in (*parameters, *coordinates))
            if self._cached_bias is not None and self._cached_bias[0] == key:
                return self._cached_bias[1]
        # the small network sees each distinct pair of coordinates once
        table = coordinates.table.to(self.cpb_fc1.weight.dtype)
        by_row = self.cpb_fc2(F.relu(self.cpb_fc1(table)))
        bias = by_row.T[:, coordinates.index].unflatten(-1, (math.prod(self.grid), -1))
        self._cached_bias = (key, bias) if cacheable else None
        return bias

    def check(self, x: Tensor) -> None:
        width, tokens = self.proj.in_features, math.prod(self.grid)
        if x.ndim != 3 or x.shape[1:] != (tokens, width):
            raise ValueError(f"expected (batch, {tokens}, {width}) for a grid of {self.grid}, got {tuple(x.shape)}")

    def gated(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Projects gated head outputs (batch, heads, tokens, dim); returns the balance loss too."""
        routing = self.router(x)
        if active():
            shape = (x.shape[0], 1, x.shape[1], self.num_heads)
            record("gates", lambda rows, _: routing.gates[:, None, rows], shape=shape, device=x.device)
        gates = routing.gates[..., None].to(out.dtype)
        return self.proj((out.transpose(1, 2) * gates).flatten(2)), routing.balance_loss().to(x.dtype)


class MoHCosineAttention(_CosineAttention):
    """Cosine attention over all tokens of a grid (stage 4 of MoH-ViT).

    ``logits = (q/|q| + e) softplus(τ) log(H W) · k/|k| + bias``. All heads are computed and gated: the position bias of every head is a matrix anyway.

    Args:
        dim: channels.
        num_heads: all heads.
        grid: height and width in tokens.
        shared, routed, gate_scale: see `HeadRouter`.
        bias: whether the projection to q, k and v has one.
        pretrain: the grid of pretraining, where it differs.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        shared: int,
        routed: int,
        bias: bool = True,
        pretrain: Grid | None = None,
        gate_scale: GateScale = "code",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            dim, num_heads, grid, grid, shared=shared, routed=routed, pretrain=pretrain, gate_scale=gate_scale
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], *, coordinates: Coordinates | None = None
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """The output, and the balance loss. `coordinates` replace those of the grid.

        Returns:
            the tokens after attention, and the balance loss, a scalar.
        """
        self.check(x)
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.num_heads, self.head_dim)).transpose(1, 2).chunk(3, dim=1)
        scale = F.softplus(self.temperature) * math.log(x.shape[1])
        q = (F.normalize(q, dim=-1) + self.query_embedding) * scale
        q, k = q.to(v.dtype), F.normalize(k, dim=-1).to(v.dtype)  # under autocast the norms are computed wider
        out = attention(q, k, v, bias=Additive(self.position_bias(coordinates).to(v.dtype)), scale=1.0)
        return self.gated(out, x)


class MoHAggregatedAttention(_CosineAttention):
    """Aggregated attention (stages 1 to 3 of MoH-ViT): each token looks at its neighbours and at a pooled map of the whole grid, in one softmax.

    The neighbours' part is summed over shifts of the key map, which are views; the published code unfolds keys and values into `window²` copies. To its
    softmax weights a query-dependent term ``q/|q| · learnable_tokens + learnable_bias`` is added. All heads are computed and gated.

    Args:
        dim: channels.
        num_heads: all heads.
        grid: height and width in tokens.
        shared, routed, gate_scale: see `HeadRouter`.
        window: side of the neighbourhood, odd.
        pool: the pooled map is ``grid // pool``.
        bias: whether the projections to q, k and v have one.
        pretrain: the grid of pretraining, where it differs.
        device, dtype: of parameters and buffers.
    """

    local_valid: Tensor
    length_scale: Tensor

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        shared: int,
        routed: int,
        window: int = 3,
        pool: int = 1,
        bias: bool = True,
        pretrain: Grid | None = None,
        gate_scale: GateScale = "code",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if window % 2 == 0 or window < 1:
            raise ValueError(f"window must be odd, got {window}")
        if pool < 1 or min(grid) < pool:
            raise ValueError(f"a grid of {grid} cannot be pooled by {pool}")
        pooled = (grid[0] // pool, grid[1] // pool)
        # before the tables are made: their sizes follow from them
        self.window, self.pool_size = window, pool
        super().__init__(
            dim, num_heads, grid, pooled, shared=shared, routed=routed, pretrain=pretrain, gate_scale=gate_scale
        )
        places = window**2
        self.q, self.kv = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, 2 * dim, bias=bias)
        self.sr, self.norm = nn.Conv2d(dim, dim, 1), nn.LayerNorm(dim)
        self.relative_pos_bias_local = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads, places), std=0.0004))
        self.learnable_tokens = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(num_heads, self.head_dim, places), std=0.02)
        )
        self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, places))

    def key_grid_of(self, grid: Grid) -> Grid:
        """The pooled grid, of at least one token a side."""
        return max(1, grid[0] // self.pool_size), max(1, grid[1] // self.pool_size)

    def _place_on(self, grid: Grid) -> None:
        super()._place_on(grid)
        device = self.proj.weight.device
        inside = F.pad(torch.ones(1, 1, *grid, device=device), [self.window // 2] * 4)
        valid = F.unfold(inside, self.window)[0].T > 0
        self.register_buffer("local_valid", valid, persistent=False)
        scale = (valid.sum(-1, keepdim=True) + math.prod(self.key_grid)).double().log().float()
        self.register_buffer("length_scale", scale, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], *, coordinates: Coordinates | None = None
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """The output, and the balance loss. `coordinates` replace those of the grid.

        Returns:
            the tokens after attention, and the balance loss, a scalar.
        """
        self.check(x)
        q = F.normalize(self._heads(self.q(x), 1)[0], dim=-1)
        length_scale = self.length_scale.to(q.dtype)
        scaled = (q + self.query_embedding) * (F.softplus(self.temperature) * length_scale)
        k, v = self._heads(self.kv(x), 2)
        near_k, near_v = self._neighbours(F.normalize(k, dim=-1)), self._neighbours(v)
        local = torch.stack([(scaled * key).sum(-1) for key in near_k], dim=-1)  # (batch, heads, tokens, window²)
        local = local + self.relative_pos_bias_local[:, None]
        local = local.masked_fill(~self.local_valid, -torch.inf)

        # `sr` is a 1×1 convolution: a linear map of the tokens, which need no transposition then
        pooled = F.gelu(F.linear(x, self.sr.weight.flatten(1), self.sr.bias))
        pooled = F.adaptive_avg_pool2d(pooled.transpose(1, 2).unflatten(-1, self.grid), self.key_grid)
        pooled = self.norm(pooled.flatten(2).transpose(1, 2))
        pool_k, pool_v = self._heads(self.kv(pooled), 2)
        far = scaled @ F.normalize(pool_k, dim=-1).mT + self.position_bias(coordinates)

        weights = torch.cat([local, far], dim=-1).softmax(-1)
        if active():
            shape = (x.shape[0], self.num_heads, x.shape[1], weights.shape[-1])
            record("weights", lambda rows, heads: weights[:, heads][:, :, rows], shape=shape, device=x.device)
        near_weights, far_weights = weights.split([self.window**2, pool_v.shape[2]], dim=-1)
        # after the softmax, as published: the local weights of a row need not sum to anything
        near_weights = near_weights + (q @ self.learnable_tokens + self.learnable_bias)
        out = far_weights @ pool_v
        for weight, value in zip(near_weights.unbind(-1), near_v, strict=True):
            out = out + weight[..., None] * value
        return self.gated(out, x)

    def _heads(self, x: Tensor, count: int) -> Sequence[Tensor]:
        return x.unflatten(-1, (count * self.num_heads, self.head_dim)).transpose(1, 2).chunk(count, dim=1)

    def _neighbours(self, x: Tensor) -> list[Tensor]:
        """The map shifted by every step of the window, row-major; 0 outside."""
        height, width = self.grid
        reach = self.window // 2
        padded = F.pad(x.unflatten(2, self.grid), (0, 0, reach, reach, reach, reach))
        shifts = product(range(self.window), range(self.window))
        return [padded[:, :, i : i + height, j : j + width].flatten(2, 3) for i, j in shifts]
