"""Dual attention: windows of spatial tokens, and groups of channel tokens that each see the whole image.

Source: Ding, Xiao, Codella, Luo, Wang, Yuan, "DaViT: Dual Attention Vision Transformers", ECCV 2022. Maps are (batch, height, width, channels),
so that windows are views and the depthwise convolutions run on the channels-last layout without a copy.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.attention import attention
from core_attention.capture.recording import record
from core_attention.measuring.example import Example
from core_attention.parts.linear import is_plain, linear
from core_attention.parts.placing import Device, placed
from core_attention.parts.saying import can_say, say_once
from core_attention.parts.stochastic_depth import stochastic_depth

MANY = 512  # tokens from which their products are worth folding together (`ChannelAttention`)


def channel_map(
    left: Float[Tensor, "batch heads tokens d"], right: Float[Tensor, "batch heads tokens d"], scale: float
) -> Float[Tensor, "batch heads d d"]:
    """Which channels mix: ``softmax(scale · leftᵀ right)`` over the last axis.

    The logits are sums over all tokens: half precision is multiplied and summed in float32, where they cannot overflow.
    """
    wide = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return torch.softmax((left.to(wide) * scale).mT @ right.to(wide), -1)


def channel_attention(
    q: Float[Tensor, "batch heads tokens d"],
    k: Float[Tensor, "batch heads tokens d"],
    v: Float[Tensor, "batch heads tokens d"],
    *,
    scaling: str = "channels",
) -> Float[Tensor, "batch heads tokens d"]:
    """Attention between the d channels of a group, linear in the tokens.

    ``channels`` (the published networks): ``M = softmax(d^-½ kᵀ v)``, ``y_n = M q_n`` — the paper's formula, with q, k and v named as
    checkpoints name them.
    ``tokens`` (Florence-2's towers): ``M = softmax(N^-½ qᵀ k)``, ``y_n = M v_n``.

    Raises:
        ValueError: an unknown scaling, or no tokens.
    """
    if q.shape[2] == 0:
        raise ValueError(f"there are no tokens to attend to: q has shape {tuple(q.shape)}")
    if scaling == "channels":
        left, right, scale, mixed = k, v, q.shape[-1] ** -0.5, q
    elif scaling == "tokens":
        left, right, scale, mixed = q, k, q.shape[2] ** -0.5, v
    else:
        raise ValueError(f"unknown scaling {scaling!r}: channels or tokens")
    m = channel_map(left, right, scale)
    _record_map(m)
    return mixed @ m.to(mixed.dtype).mT  # y_n = M x_n for tokens as rows


def _record_map(m: Float[Tensor, "batch heads d d"]) -> None:
    """Offers the map of channels to `core_attention.capture`."""
    b, heads, rows, columns = m.shape
    record("weights", lambda rows, heads: m[:, heads][:, :, rows], shape=(b, heads, rows, columns), device=m.device)


def _computes_in_float32(x: Tensor) -> bool:
    """Whether products of x are computed in float32 or wider."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


def partition(x: Float[Tensor, "batch height width channels"], window: int) -> Float[Tensor, "windows tokens channels"]:
    """Cuts a map into windows of `window`² tokens, row by row; the map is zero-padded right and below where it does not divide."""
    _, h, w, c = x.shape
    if h % window or w % window:
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (batch, rows, window, columns, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def merge(
    windows: Float[Tensor, "windows tokens channels"], window: int, height: int, width: int
) -> Float[Tensor, "batch height width channels"]:
    """Undoes `partition`, for a map of `height` × `width`; padding is cut away."""
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, windows.shape[-1])[:, :height, :width]


def _check(x: Tensor, dim: int) -> None:
    if x.ndim != 4 or x.shape[-1] != dim or 0 in x.shape[1:3]:
        raise ValueError(
            f"expected a map (batch, height, width, {dim}) of at least one pixel, got shape {tuple(x.shape)}"
        )


class WindowAttention(nn.Module):
    """Multi-head softmax attention inside windows; no shift and no position bias.

    Args:
        dim: channels.
        num_heads: heads; divide `dim`.
        window_size: side P of a window.
        qkv_bias: whether the projection has a bias.
        mask_pad: hide padding tokens. The published networks let them be seen (their key and value are the bias).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        qkv_bias: bool = True,
        mask_pad: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(dim, num_heads, window_size) < 1 or dim % num_heads:
            raise ValueError(
                f"num_heads must divide dim and window_size be positive, got dim {dim}, {num_heads} heads, window {window_size}"
            )
        self.num_heads, self.window_size, self.mask_pad = num_heads, window_size, mask_pad
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """The map after attention inside each window, of the shape of `x`."""
        _check(x, self.proj.in_features)
        h, w = x.shape[1:3]
        if can_say() and self.window_size > max(h, w) and not self.mask_pad:
            side = self.window_size
            say_once(f"window attention: windows of {side} × {side} hold a map of {h} × {w} whole; its padding is seen")
        windows = partition(x, self.window_size)
        q, k, v = linear(self.qkv, windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = self._padding_mask(x) if self.mask_pad else None
        y = attention(q, k, v, mask=mask)
        return linear(self.proj, merge(y.transpose(1, 2).flatten(2), self.window_size, h, w))

    def _padding_mask(self, x: Tensor) -> Bool[Tensor, "windows 1 1 tokens"] | None:
        """True at tokens of the map; None where windows need no padding."""
        if x.shape[1] % self.window_size == 0 and x.shape[2] % self.window_size == 0:
            return None
        inside = partition(torch.ones_like(x[:, :, :, :1]), self.window_size)
        return inside[:, None, None, :, 0] > 0


class ChannelAttention(nn.Module):
    """`channel_attention` between projections.

    In float32, maps of at least 512 tokens and four tokens per channel take a form with half the products (`_folded`).

    Args:
        dim: channels.
        num_heads: groups of channels; divide `dim`.
        qkv_bias: whether the projection has a bias.
        scaling: ``channels`` (published) or ``tokens`` (Florence-2).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        scaling: str = "channels",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(dim, num_heads) < 1 or dim % num_heads:
            raise ValueError(f"num_heads must divide dim, got dim {dim} and {num_heads} heads")
        if scaling not in ("channels", "tokens"):
            raise ValueError(f"unknown scaling {scaling!r}: channels or tokens")
        self.num_heads, self.scaling = num_heads, scaling
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """The map after attention between channels, of the shape of `x`."""
        _check(x, self.proj.in_features)
        tokens = x.flatten(1, 2)
        long = tokens.shape[1] >= max(MANY, 4 * tokens.shape[2])
        plain = is_plain(self.qkv, nn.Linear) and is_plain(self.proj, nn.Linear)
        if long and _computes_in_float32(tokens) and plain:
            return self._folded(tokens).view(x.shape)
        q, k, v = linear(self.qkv, tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = channel_attention(q, k, v, scaling=self.scaling)
        return linear(self.proj, y.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])

    def _folded(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """The same with two products over the tokens instead of six, for maps of many more tokens than channels.

        All that the map of channels needs of the tokens is ``G = Σ xᵀ x`` and ``s = Σ x``: ``Σ kᵀ v = W_k G W_vᵀ + …`` with the biases' terms.
        What is mixed is linear in x, so that one matrix per sample, ``W_proj M W_q``, takes x to the output.
        """
        tokens = x.shape[1]
        gram, total = x.mT @ x, x.sum(1)  # G (batch, channels, channels), s (batch, channels)
        weight = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))  # (3, heads, d, channels)
        if self.qkv.bias is None:
            bias = weight.new_zeros(weight.shape[:3])
        else:
            bias = self.qkv.bias.view(weight.shape[:3])
        # places of q, k, v among the three projections, in the roles that they have in `channel_attention`
        if self.scaling == "channels":
            (left, right, mixed), scale = (1, 2, 0), weight.shape[2] ** -0.5
        else:
            (left, right, mixed), scale = (0, 1, 2), tokens**-0.5
        left_x = weight[left] @ gram[:, None] + bias[left][..., None] * total[:, None, None]  # Σ leftᵀ x
        left_sum = torch.einsum("hdc,bc->bhd", weight[left], total) + tokens * bias[left]  # Σ left
        logits = left_x @ weight[right].mT + left_sum[..., None] * bias[right][:, None]  # Σ leftᵀ right
        m = torch.softmax(scale * logits, -1)
        _record_map(m)
        out = self.proj.weight.unflatten(1, (self.num_heads, -1)).transpose(0, 1) @ m  # (batch, heads, channels, d)
        out = out.transpose(1, 2).flatten(2)  # W_proj M of all heads side by side: (batch, channels, heads · d)
        shift = out @ bias[mixed].flatten() + self.proj.bias
        return torch.baddbmm(shift[:, None], x, (out @ weight[mixed].flatten(0, 1)).mT)


class ConvPosEnc(nn.Module):
    """Convolutional position encoding: ``x + DWConv3×3(x)``, with a GELU on the convolution if `act`."""

    @placed
    def __init__(self, dim: int, *, act: bool = False, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.act = act

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """The map and its convolved self, added."""
        image = x.permute(0, 3, 1, 2)
        if not self.act and _computes_in_float32(x) and is_plain(self.proj, nn.Conv2d):
            # x + DWConv(x) is one convolution whose centre is larger by 1: a pass over the map less
            weight = self.proj.weight + F.pad(x.new_ones(1, 1, 1, 1), (1, 1, 1, 1))
            y = F.conv2d(image, weight, self.proj.bias, padding=1, groups=self.proj.groups)
            return y.permute(0, 2, 3, 1)
        y = self.proj(image).permute(0, 2, 3, 1)
        if self.act:
            y = F.gelu(y)
        return x + y


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    @placed
    def __init__(self, dim: int, hidden: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*lead channels"]) -> Float[Tensor, "*lead channels"]:
        """The tokens after both linear layers."""
        return linear(self.fc2, linear(self.fc1, x, gelu=True))


class _Block(nn.Module):
    """``x = CPE(x); x += DP(Attn(LN(x))); x = CPE(x); x += DP(MLP(LN(x)))``; without `ffn` the last term is left out, the second CPE stays."""

    def __init__(
        self, dim: int, mixer: nn.Module, *, mlp_ratio: float, ffn: bool, cpe_act: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_path, self.dim = drop_path, dim
        self.cpe = nn.ModuleList([ConvPosEnc(dim, act=cpe_act), ConvPosEnc(dim, act=cpe_act)])
        self.norm1 = nn.LayerNorm(dim)
        self.attn = mixer
        if ffn:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ffn = ffn

    def forward(self, x: Float[Tensor, "batch height width channels"]) -> Float[Tensor, "batch height width channels"]:
        """Mixes a map.

        Raises:
            ValueError: another rank or number of channels, or an empty map.
        """
        _check(x, self.dim)
        x = self.cpe[0](x)
        x = x + stochastic_depth(self.attn(self.norm1(x)), self.drop_path, self.training)
        x = self.cpe[1](x)
        if self.ffn:
            x = x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training)
        return x


class SpatialBlock(_Block):
    """A block whose attention is inside windows.

    Args:
        dim, num_heads, window_size, qkv_bias, mask_pad: of `WindowAttention`.
        mlp_ratio: hidden width of the MLP over `dim`.
        ffn: whether there is an MLP.
        cpe_act: a GELU in the position encodings.
        drop_path: rate of stochastic depth.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        mask_pad: bool = False,
        ffn: bool = True,
        cpe_act: bool = False,
        drop_path: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        mixer = WindowAttention(dim, num_heads, window_size=window_size, qkv_bias=qkv_bias, mask_pad=mask_pad)
        super().__init__(dim, mixer, mlp_ratio=mlp_ratio, ffn=ffn, cpe_act=cpe_act, drop_path=drop_path)


class ChannelBlock(_Block):
    """A block whose attention is between channels.

    Args:
        dim, num_heads, qkv_bias, scaling: of `ChannelAttention`.
        mlp_ratio: hidden width of the MLP over `dim`.
        ffn: whether there is an MLP.
        cpe_act: a GELU in the position encodings.
        drop_path: rate of stochastic depth.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        scaling: str = "channels",
        ffn: bool = True,
        cpe_act: bool = False,
        drop_path: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        mixer = ChannelAttention(dim, num_heads, qkv_bias=qkv_bias, scaling=scaling)
        super().__init__(dim, mixer, mlp_ratio=mlp_ratio, ffn=ffn, cpe_act=cpe_act, drop_path=drop_path)


def example(tokens: int) -> Example:
    """A dual block of the tiny model's first stage, for `core_attention.registry.catalogue`."""
    side = max(1, round(tokens**0.5))
    block = nn.Sequential(SpatialBlock(96, 3), ChannelBlock(96, 3))
    return Example(block, (torch.randn(1, side, side, 96),), tokens=side * side, softmax=(96, 3))
