"""DHVT: attention with head tokens, and a convolutional MLP that re-weights the class token (Lu, Xie, Liu, Zhang 2022).

Both layers take tokens (batch, 1 + pixels, channels), the class token first.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.measuring.example import Example
from core_attention.parts.placing import Device, placed


class HeadInteractedAttention(nn.Module):
    """HI-MHSA: each head sends one token of its own through the same softmax attention, and the class token collects them.

    Head h's token is ``GELU(LN(T_h)) + E_h``, where the T of all heads come from one linear map of the head's mean over all tokens
    (class token included), normalised a head width at a time. Queries and keys are all tokens and all head tokens together; afterwards
    the class token gains the mean of the head tokens' outputs, which are then dropped (the paper's eq. 4-7).

    Args:
        dim: channels C.
        num_heads: heads; must divide the channels.
        qkv_bias: biases of the joint projection.
        scale: of the scores; default ``(dim / num_heads) ** -0.5``.
        attn_drop: dropout of the attention weights in training.
        proj_drop: dropout of the output in training.
        use_head_tokens: False: ordinary multi-head attention (the head tokens' parameters stay unused).
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    @placed
    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_head_tokens: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(f"heads must divide the channels: {dim} channels, {num_heads} heads")
        self.dim, self.num_heads, self.attn_drop, self.use_head_tokens = dim, num_heads, attn_drop, use_head_tokens
        self.scale = scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.ht_proj = nn.Linear(dim // num_heads, dim)
        self.ht_norm = nn.LayerNorm(dim // num_heads)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, num_heads, dim), std=0.02))

    def head_tokens(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads c"]:
        """One token per head, made from the mean of that head's channels over all tokens."""
        means = x.mean(1).unflatten(1, (self.num_heads, -1))  # (b, heads, head width)
        # each head's token has all C channels; the norm takes them a head width at a time
        tokens = self.ht_proj(means).unflatten(2, (self.num_heads, -1))
        return F.gelu(self.ht_norm(tokens)).flatten(2) + self.pos_embed

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The tokens after attention.

        Args:
            x: class token and patch tokens.

        Returns:
            the tokens, of the shape of `x`.

        Raises:
            ValueError: not (batch, tokens, `dim`) with at least one token.
        """
        _check(x, self.dim, "HeadInteractedAttention", 1)
        n = x.shape[1]
        if self.use_head_tokens:
            x = torch.cat([x, self.head_tokens(x)], 1)
        # (b, n + heads, 3 · c) → three of (b, heads, n + heads, head width)
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        drop = self.attn_drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.scale)
        y = self.proj(y.transpose(1, 2).flatten(2))
        if self.use_head_tokens:
            # written as a sum over all tokens: only the class token, the first, gains
            gain = y[:, n:].mean(1, keepdim=True)
            y = y[:, :n] + F.pad(gain, (0, 0, 0, n - 1))
        return self.proj_drop(y)


class DAFF(nn.Module):
    """Dynamic aggregation feed-forward: a convolutional MLP over the patches, whose pooled result re-weights the class token.

    Over the patch map ``y = GELU(BN(Conv₁ₓ₁ x))``, ``y = y + GELU(BN(DWConv(y)))``, ``z = BN(Conv₁ₓ₁ y)``; the class token is
    multiplied by ``W₂ GELU(W₁ mean(z))`` (no sigmoid in the published code) and goes through no MLP.

    Args:
        dim: channels C.
        hidden: channels of the MLP; None: 4C.
        kernel_size: of the depthwise convolution, odd.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: a size below 1 or an even kernel.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        kernel_size: int = 3,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        if min(dim, hidden, kernel_size) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"DAFF needs positive sizes and an odd kernel, got dim {dim}, hidden {hidden}, kernel_size {kernel_size}"
            )
        self.dim = dim
        self.conv1 = nn.Conv2d(dim, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, dim, 1)
        self.bn3 = nn.BatchNorm2d(dim)
        self.compress = nn.Linear(dim, max(1, dim // 4))
        self.excitation = nn.Linear(max(1, dim // 4), dim)

    def forward(self, x: Float[Tensor, "b n c"], grid_size: tuple[int, int] | None = None) -> Float[Tensor, "b n c"]:
        """The tokens after the feed-forward.

        Args:
            x: class token and patch tokens, row by row of their grid.
            grid_size: height and width of the grid; None: it is square.

        Returns:
            the tokens, of the shape of `x`.

        Raises:
            ValueError: not (batch, 1 + height · width, `dim`), or no `grid_size` and a number of patches that is not a square.
        """
        _check(x, self.dim, "DAFF", 2)
        patches = x.shape[1] - 1
        if grid_size:
            height, width = grid_size
            hint = ""
        else:
            height = width = math.isqrt(patches)
            hint = ": not a square grid, pass grid_size=(height, width)"
        if height * width != patches:
            raise ValueError(f"DAFF needs the class token and {height}·{width} patches, got {tuple(x.shape)}{hint}")
        # 1×1 convolutions as linear maps of the tokens, depthwise ones on a channels-last view: nothing is transposed
        pixels = _linear(x[:, 1:], self.conv1).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        y = F.gelu(self.bn1(pixels))
        y = y + F.gelu(self.bn2(self.conv2(y)))
        z = _linear(y.permute(0, 2, 3, 1).flatten(1, 2), self.conv3)
        pixels = z.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # batch norms want (b, c, height, width)
        z = self.bn3(pixels).permute(0, 2, 3, 1).flatten(1, 2)
        weight = self.excitation(F.gelu(self.compress(z.mean(1))))
        return torch.cat([x[:, :1] * weight[:, None], z], 1)


def _linear(tokens: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1×1 convolution of tokens."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


def _check(x: Tensor, dim: int, what: str, least: int) -> None:
    if x.ndim != 3 or x.shape[2] != dim or x.shape[1] < least:
        raise ValueError(f"{what} needs tokens (batch, at least {least}, {dim}), got {tuple(x.shape)}")


def definition(layer: HeadInteractedAttention | DAFF, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Either layer step by step, in evaluation: with every weight written out, and with maps instead of tokens (square grids)."""
    if isinstance(layer, DAFF):
        side = math.isqrt(x.shape[1] - 1)
        pixels = x[:, 1:].mT.reshape(-1, layer.dim, side, side)
        y = F.gelu(layer.bn1(layer.conv1(pixels)))
        y = y + F.gelu(layer.bn2(layer.conv2(y)))
        z = layer.bn3(layer.conv3(y))
        weight = layer.excitation(F.gelu(layer.compress(z.mean((2, 3)))))
        return torch.cat([x[:, :1] * weight[:, None], z.flatten(2).mT], 1)
    n, h, d = x.shape[1], layer.num_heads, layer.dim // layer.num_heads
    means = torch.stack([part.mean(1) for part in x.split(d, 2)], 1)
    head_tokens = layer.ht_norm(layer.ht_proj(means).reshape(-1, h, h, d))
    head_tokens = F.gelu(head_tokens).reshape(-1, h, h * d) + layer.pos_embed
    tokens = torch.cat([x, head_tokens], 1)
    q, k, v = layer.qkv(tokens).reshape(*tokens.shape[:2], 3, h, d).permute(2, 0, 3, 1, 4)
    scale = d**-0.5 if layer.scale is None else layer.scale
    y = torch.softmax(q @ k.mT * scale, -1) @ v
    y = layer.proj(y.transpose(1, 2).reshape(tokens.shape))
    return torch.cat([y[:, :1] + y[:, n:].mean(1, keepdim=True), y[:, 1:n]], 1)


def _example(layer: HeadInteractedAttention | DAFF, tokens: int) -> Example:
    side = max(1, round(tokens**0.5))
    x = torch.randn(1, 1 + side * side, layer.dim)
    return Example(layer, (x,), tokens=side * side, reference=partial(definition, layer), softmax=(192, 4))


def attention_example(tokens: int) -> Example:
    """The attention of the tiny CIFAR network, for `core_attention.registry.catalogue`."""
    return _example(HeadInteractedAttention(192, 4), tokens)


def feed_forward_example(tokens: int) -> Example:
    """The feed-forward of the tiny CIFAR network, for `core_attention.registry.catalogue`."""
    return _example(DAFF(192), tokens)
