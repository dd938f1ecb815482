"""Bi-level routing attention (BiFormer): regions choose regions by their means, tokens attend inside the chosen ones.

Source: Zhu, Wang, Ke, Zhang, Lau, "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023.

1. ``A_r = s · Q_r K_rᵀ`` on region means over the full width, ``I_r = topk(A_r)``: one choice for all heads, no gradient;
2. ``o = softmax(s · q_h K_gᵀ) V_g`` a head, over the tokens of the k chosen regions;
3. ``y = W_o (o + LePE(v)) + b_o``, LePE a depthwise convolution on the image grid.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.capture.recording import active, record
from core_attention.measuring.example import Example
from core_attention.mechanisms.biformer.regions import Pool, Routing, from_regions, key_pool, route_regions, to_regions
from core_attention.parts.linear import linear, product
from core_attention.parts.placing import Device, placed
from core_attention.parts.saying import can_say, say_once
from core_attention.routed.attention import Backend, merge_attention, routed_attention
from core_attention.routed.routes import RouteIndex

PadMode = Literal["masked", "legacy", "nchw", "refuse"]


def bi_level_routing_attention(
    q: Float[Tensor, "batch regions queries qk_dim"],
    k: Float[Tensor, "batch regions keys qk_dim"],
    v: Float[Tensor, "batch regions keys dim"],
    index: Int[Tensor, "batch regions topk"],
    *,
    num_heads: int,
    scale: float,
    weight: Float[Tensor, "batch regions topk"] | None = None,
    real: Bool[Tensor, "batch regions keys"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "batch regions queries dim"]:
    """Attention of each region's tokens to the tokens of the regions it chose (paper, eq. 5–6), without gathering them.

    Args:
        q: queries by region.
        k: keys by region; their number may differ from the queries' (pooled keys).
        v: values by region.
        index: chosen regions.
        num_heads: heads that share the choice.
        scale: of the scores.
        weight: soft routing: the keys *and* values of a chosen region are multiplied by its weight, differentiably.
        real: True for keys that are not padding.
        backend: see `routed_attention`.

    Returns:
        the output by region; a padded query's row has no meaning.
    """
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        # an ONNX graph can hold no operator of ours: the definition, with its copies
        return bi_level_routing_attention_reference(
            q, k, v, index, num_heads=num_heads, scale=scale, weight=weight, real=real
        )
    queries, keys = q.shape[2], k.shape[2]
    q, k, v = (t.flatten(1, 2).unflatten(2, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    key_mask = None if real is None else real.flatten(1)

    def attend(query: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        route = RouteIndex(chosen[:, None], queries, keys)
        return routed_attention(query, k, v, route, key_mask=key_mask, scale=scale, backend=backend, return_lse=True)

    if weight is None:
        out = attend(q, index)[0]
    else:
        # q · (w k) = (w q) · k and Σ p (w v) = w Σ p v: one part a choice, merged by their log-sum-exp
        parts = []
        for slot in range(index.shape[2]):
            factor = weight[:, :, slot].repeat_interleave(queries, 1)[:, None, :, None].to(q.dtype)
            o, lse = attend(q * factor, index[:, :, slot : slot + 1])
            parts.append((o * factor, lse))
        out = merge_attention(parts)[0]
    return out.transpose(1, 2).flatten(2).unflatten(1, (-1, queries))


def bi_level_routing_attention_reference(
    q: Float[Tensor, "batch regions queries qk_dim"],
    k: Float[Tensor, "batch regions keys qk_dim"],
    v: Float[Tensor, "batch regions keys dim"],
    index: Int[Tensor, "batch regions topk"],
    *,
    num_heads: int,
    scale: float,
    weight: Float[Tensor, "batch regions topk"] | None = None,
    real: Bool[Tensor, "batch regions keys"] | None = None,
) -> Float[Tensor, "batch regions queries dim"]:
    """The gather form, as the equations read: topk copies of the keys and values, one dense softmax."""

    def gathered(t: Tensor) -> Tensor:
        table = t[:, None].expand(-1, index.shape[1], -1, -1, -1)
        return table.gather(2, index[..., None, None].expand(-1, -1, -1, *t.shape[2:]))

    def by_head(t: Tensor) -> Tensor:  # (b, r, n, c) → (b, r, heads, n, c / heads)
        return t.unflatten(-1, (num_heads, -1)).transpose(2, 3)

    chosen_k, chosen_v = gathered(k), gathered(v)
    if weight is not None:
        chosen_k, chosen_v = (t * weight[..., None, None] for t in (chosen_k, chosen_v))
    scores = by_head(q) * scale @ by_head(chosen_k.flatten(2, 3)).transpose(-2, -1)
    if real is not None:
        real_keys = gathered(real[..., None])[..., 0].flatten(2)
        scores = scores.masked_fill(~real_keys[:, :, None, None], -torch.inf)
    return (scores.softmax(-1) @ by_head(chosen_v.flatten(2, 3))).transpose(2, 3).flatten(3)


class BiLevelRoutingAttention(nn.Module):
    """Bi-level routing attention on a feature map.

    Args:
        dim: channels.
        num_heads: heads; divides `dim` and `qk_dim`.
        n_win: regions a side, S. `topk` and S need not fit the map: k is clamped to the number of regions.
        topk: regions that each region attends to.
        qk_dim: channels of queries and keys; default `dim`.
        scale: of scores and affinities; default ``qk_dim ** -0.5``, the full width, which the published weights depend on;
            ``(qk_dim / num_heads) ** -0.5`` is the paper's.
        side_dwconv: kernel size of LePE; 0 leaves it out.
        pad_mode: what happens where the height or width is not a multiple of `n_win`:
            "masked": padding takes part in nothing;
            "legacy": zero-padded *before* the projection; the bias vectors there count as tokens, in means too;
            "nchw": regions of ``floor(size / n_win)``, so possibly more than `n_win` a side; zero-padded *after* the
            projection; zero keys count in the softmax but not in the means;
            "refuse": `ValueError`.
        kv_downsample_mode: keys and values of each region pooled: adaptively to ``kv_per_win × kv_per_win``, or by
            `kv_downsample_ratio`. Region means always see all of them. Not with padding that is masked.
        kv_per_win: see there.
        kv_downsample_ratio: see there.
        param_routing: a Linear on both region means before their product; needs `diff_routing`.
        diff_routing: gradient through the affinities; needs `soft_routing` (a hard choice has none).
        soft_routing: keys and values of a chosen region times the softmax over the chosen affinities.
        output: a Linear after it; without it the sum is returned.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: options that exclude one another.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        n_win: int = 7,
        topk: int = 4,
        qk_dim: int | None = None,
        scale: float | None = None,
        side_dwconv: int = 3,
        pad_mode: PadMode = "masked",
        kv_downsample_mode: Pool = "identity",
        kv_per_win: int = 4,
        kv_downsample_ratio: int = 4,
        param_routing: bool = False,
        diff_routing: bool = False,
        soft_routing: bool = False,
        output: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        qk_dim = qk_dim or dim
        if dim % num_heads or qk_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim} and qk_dim {qk_dim}")
        if param_routing and not diff_routing:
            raise ValueError("param_routing without diff_routing: its weights would get no gradient")
        if diff_routing and not soft_routing:
            raise ValueError("diff_routing without soft_routing: a hard choice has no gradient")
        if min(n_win, topk) < 1:
            raise ValueError(f"n_win and topk must be positive, got {n_win} and {topk}")
        if pad_mode not in ("masked", "legacy", "nchw", "refuse"):
            raise ValueError(f"unknown pad_mode {pad_mode!r}: one of masked, legacy, nchw, refuse")
        self.dim, self.qk_dim, self.num_heads, self.n_win, self.topk = dim, qk_dim, num_heads, n_win, topk
        self.scale = qk_dim**-0.5 if scale is None else scale
        self.pad_mode, self.diff_routing, self.soft_routing = pad_mode, diff_routing, soft_routing
        self.qkv = nn.Linear(dim, 2 * qk_dim + dim)
        self.wo = nn.Linear(dim, dim) if output else nn.Identity()
        self.lepe = depthwise(dim, side_dwconv) if side_dwconv else None
        self.router = nn.Linear(qk_dim, qk_dim) if param_routing else nn.Identity()
        self.pool = key_pool(kv_downsample_mode, kv_per_win, kv_downsample_ratio)

    def forward(
        self, x: Float[Tensor, "batch height width dim"], *, return_routing: bool = False, backend: Backend = "auto"
    ) -> Tensor | tuple[Tensor, Routing]:
        """y of the shape of `x`; with `return_routing` also what each region chose. For `backend` see `routed_attention`.

        Returns:
            y, (batch, height, width, dim); with `return_routing` the pair (y, `Routing`).

        Raises:
            ValueError: the width is not `dim`, the map is empty, `pad_mode` refuses its size, or its regions are thinner than what
                `kv_downsample_ratio` pools.
        """
        size, grid = self._regions(x)
        height, width = x.shape[1:3]
        pad = (0, 0, 0, grid[1] * size[1] - width, 0, grid[0] * size[0] - height)
        # one graph serves maps that fill their regions and maps that do not: it always pads, possibly by nothing
        in_graph = torch.compiler.is_compiling() and self.pool is None
        padded = in_graph or pad[3] > 0 or pad[5] > 0
        real = None
        if padded and self.pad_mode != "legacy":
            if self.pad_mode == "masked" and self.pool is not None:
                raise ValueError(
                    f"pooled keys cannot leave out the padding of a {height} × {width} map: choose another pad_mode"
                )
            real = to_regions(F.pad(x.new_ones(1, height, width, 1), pad), size)
        regions = to_regions(F.pad(x, pad) if padded else x, size)
        out, positions, routing = self._attend(regions, real, grid, size, (height, width), backend)
        out = from_regions(out, grid, size)[:, :height, :width]
        if positions is not None:
            out = positions.add_(out)
        out = linear(self.wo, out) if isinstance(self.wo, nn.Linear) else self.wo(out)
        return (out, routing) if return_routing else out

    def _attend(
        self,
        x: Tensor,
        real: Tensor | None,
        grid: tuple[int, int],
        size: tuple[int, int],
        crop: tuple[int, int],
        backend: Backend,
    ) -> tuple[Tensor, Tensor | None, Routing]:
        """Attention by region, LePE on the map, and what was chosen; queries, keys and values end with this call."""
        q, k, v = self._project(x)
        if real is not None and self.pad_mode == "nchw":
            q, k, v = (t * real.to(t.dtype) for t in (q, k, v))
        routing = self._route(q, k, real)
        positions = self._positions(v, grid, size, crop)
        real_tokens = None
        if real is not None and self.pad_mode == "masked":
            real_tokens = (real[..., 0] > 0).expand(q.shape[0], -1, -1)
        key, value = self._pooled(k, size), self._pooled(v, size)
        weight = routing.affinity.softmax(-1) if self.soft_routing else None
        if active():
            self._record(q, key, routing, weight, real_tokens, grid, size, crop)
        options = {
            "num_heads": self.num_heads,
            "scale": self.scale,
            "weight": weight,
            "real": real_tokens,
            "backend": backend,
        }
        return bi_level_routing_attention(q, key, value, routing.index, **options), positions, routing

    def _regions(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Tokens of a region (height, width), and the grid of regions."""
        if x.ndim != 4 or x.shape[3] != self.dim or not x.shape[1] * x.shape[2]:
            raise ValueError(
                f"expected (batch, height, width, {self.dim}) with at least one token, got {tuple(x.shape)}"
            )
        height, width = x.shape[1:3]
        if self.pad_mode == "refuse" and (height % self.n_win or width % self.n_win):
            raise ValueError(f"{tuple(x.shape)}: height and width must be multiples of n_win = {self.n_win}")
        if can_say() and self.n_win > max(height, width):
            say_once(
                f"bi-level routing: n_win = {self.n_win} regions per side of a map of {height} × {width}: a token is a region"
            )
        if self.pad_mode == "nchw":
            size = max(1, height // self.n_win), max(1, width // self.n_win)
        else:
            size = -(-height // self.n_win), -(-width // self.n_win)
        if self.pad_mode == "legacy":
            return size, (self.n_win, self.n_win)
        return size, (-(-height // size[0]), -(-width // size[1]))

    def _project(self, x: Tensor) -> list[Tensor]:
        """q, k, v; three products instead of one, so that nothing of three times the width is ever alive."""
        widths = [self.qk_dim, self.qk_dim, self.dim]
        parts = zip(self.qkv.weight.split(widths), self.qkv.bias.split(widths), strict=True)
        return [product(x, weight, bias) for weight, bias in parts]

    def _route(self, q: Tensor, k: Tensor, real: Tensor | None) -> Routing:
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        if real is None:
            q, k = q.mean(2), k.mean(2)
        else:
            q, k = ((t * real).sum(2) / real.sum(2) for t in (q, k))
        return route_regions(self.router(q), self.router(k), topk=self.topk, scale=self.scale)

    def _positions(
        self, v: Tensor, grid: tuple[int, int], size: tuple[int, int], crop: tuple[int, int]
    ) -> Tensor | None:
        if self.lepe is None:
            return None
        image = from_regions(v, grid, size)
        if self.pad_mode != "legacy":
            image = image[:, : crop[0], : crop[1]]
        return self.lepe(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, : crop[0], : crop[1]]

    def _pooled(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Keys or values of each region, pooled on the region's own small image."""
        if self.pool is None:
            return x
        if isinstance(self.pool, nn.AvgPool2d | nn.MaxPool2d):
            ratio = self.pool.kernel_size
            assert isinstance(ratio, int)
            if min(size) < ratio:
                raise ValueError(
                    f"kv_downsample_ratio {ratio} leaves nothing of regions of {size[0]} × {size[1]} tokens: choose a lower ratio, "
                    "fewer regions (n_win), or an adaptive kv_downsample_mode"
                )
        batch, regions, _, dim = x.shape
        image = x.reshape(batch * regions, *size, dim).permute(0, 3, 1, 2)
        return self.pool(image).flatten(2).transpose(1, 2).reshape(batch, regions, -1, dim)

    def _record(
        self,
        q: Tensor,
        k: Tensor,
        routing: Routing,
        weight: Tensor | None,
        real: Tensor | None,
        grid: tuple[int, int],
        size: tuple[int, int],
        crop: tuple[int, int],
    ) -> None:
        """Offers "blocks", the regions that each query's region chose, and "weights", over the map (or the pooled keys)."""
        batch, regions, keys, _ = k.shape
        place = torch.arange(crop[0] * crop[1], device=q.device)
        y, x = place // crop[1], place % crop[1]
        region, token = y // size[0] * grid[1] + x // size[1], y % size[0] * size[1] + x % size[1]
        share = torch.ones_like(routing.affinity) if weight is None else weight
        shares = share.new_zeros(batch, regions, regions).scatter(2, routing.index, share)
        visible = torch.zeros_like(shares, dtype=torch.bool).scatter(2, routing.index, True)

        def weights(rows: Tensor, heads: Tensor) -> Tensor:
            query = q[:, region[rows], token[rows]].unflatten(2, (self.num_heads, -1))[:, :, heads]
            key = k.unflatten(3, (self.num_heads, -1))[:, :, :, heads]
            scores = torch.einsum("bnhd,brthd->bhnrt", query.float(), key.float()) * self.scale
            scores = scores * shares[:, None, region[rows], :, None]
            visible_keys = visible[:, None, region[rows], :, None]
            if real is not None:
                visible_keys = visible_keys & real[:, None, None]
            maps = scores.masked_fill(~visible_keys, -torch.inf).flatten(3).softmax(3)
            return maps if self.pool is not None else maps[..., region * keys + token]

        columns = regions * keys if self.pool is not None else len(place)
        record("weights", weights, shape=(batch, self.num_heads, len(place), columns), device=q.device)
        blocks = (batch, 1, len(place), regions)
        record("blocks", lambda rows, heads: visible[:, None, region[rows]], shape=blocks, device=q.device)


def depthwise(dim: int, kernel: int) -> nn.Conv2d:
    """A depthwise convolution that keeps the size of the map."""
    return nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)


def example(tokens: int) -> Example:
    """The second stage of BiFormer-T, with its 7 × 7 regions, for `core_attention.registry.catalogue`."""
    side = max(1, round(tokens**0.5))
    layer = BiLevelRoutingAttention(64, num_heads=2, n_win=7, topk=4, side_dwconv=5)
    x = torch.randn(1, side, side, 64)
    return Example(layer, (x,), side * side, reference=lambda x: layer(x, backend="reference"), softmax=(64, 2))
