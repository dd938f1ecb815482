"""The last stage's attention of BiFormer, and its block: position convolution, attention by `topk`, and an MLP, on (batch, channels, height, width) maps."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.mechanisms.biformer.attention import BiLevelRoutingAttention, depthwise
from core_attention.parts.linear import is_plain, linear
from core_attention.parts.placing import Device, placed
from core_attention.parts.stochastic_depth import stochastic_depth


class AttentionLePE(nn.Module):
    """Full attention on a feature map with LePE beside it: the last stage of BiFormer.

    Args:
        dim: channels.
        num_heads: heads; the published networks have 8 at every width.
        qkv_bias: bias of the joint projection.
        scale: of the scores; default ``(dim / num_heads) ** -0.5``.
        side_dwconv: kernel size of LePE; 0 leaves it out.
        lepe_of: what LePE convolves: the layer's "input" (the published checkpoints) or its "value" (the paper, and the
            refactored networks).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        qkv_bias: bool = False,
        scale: float | None = None,
        side_dwconv: int = 5,
        lepe_of: Literal["input", "value"] = "input",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim}")
        if lepe_of not in ("input", "value"):
            raise ValueError(f"lepe_of is 'input' or 'value', got {lepe_of!r}")
        self.num_heads, self.scale, self.lepe_of = num_heads, scale, lepe_of
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.lepe = depthwise(dim, side_dwconv) if side_dwconv else None

    def forward(self, x: Float[Tensor, "batch height width dim"]) -> Float[Tensor, "batch height width dim"]:
        """y of the shape of `x`."""
        q, k, v = linear(self.qkv, x).chunk(3, -1)
        heads = (t.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = attention(*heads, scale=self.scale).transpose(1, 2).reshape(x.shape)
        if self.lepe is not None:
            image = x if self.lepe_of == "input" else v
            out = out + self.lepe(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return linear(self.proj, out)


class BiFormerBlock(nn.Module):
    """``x += DWConv(x); x += γ₁·attn(LN x); x += γ₂·MLP(LN x)``, the last two in (batch, height, width, channels).

    Args:
        dim: channels.
        topk: which attention: > 0 bi-level routing with so many regions; −2 `AttentionLePE`; −1 full attention; 0 none but
            convolutions (1×1, depthwise 5×5, 1×1).
        mlp_ratio: hidden width of the MLP over `dim`.
        mlp_dwconv: a depthwise 3×3 convolution inside the MLP.
        before_attn_dwconv: kernel size of the position convolution; 0 leaves it out.
        side_dwconv: kernel size of LePE.
        layer_scale: initial γ; None has no layer scale (the released networks).
        pre_norm: else ``x = LN(x + γ·f(x))``.
        drop_path: rate at which a sample skips a branch in training.
        attention: the other options of `BiLevelRoutingAttention` (for topk > 0).
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        topk: int = 4,
        mlp_ratio: float = 4,
        mlp_dwconv: bool = False,
        before_attn_dwconv: int = 3,
        side_dwconv: int = 5,
        layer_scale: float | None = None,
        pre_norm: bool = True,
        drop_path: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **attention: Any,
    ):
        super().__init__()
        self.pos_embed = depthwise(dim, before_attn_dwconv) if before_attn_dwconv else None
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        if topk > 0:
            self.attn = BiLevelRoutingAttention(dim, topk=topk, side_dwconv=side_dwconv, **attention)
        elif topk in (-1, -2):
            self.attn = AttentionLePE(dim, side_dwconv=side_dwconv if topk == -2 else 0)
        elif topk == 0:
            self.attn = OnMap(nn.Conv2d(dim, dim, 1), depthwise(dim, 5), nn.Conv2d(dim, dim, 1))
        else:
            raise ValueError(f"topk is positive, 0, −1 or −2, got {topk}")
        hidden = int(mlp_ratio * dim)
        between = OnMap(depthwise(hidden, 3)) if mlp_dwconv else nn.Identity()
        self.mlp = Mlp(nn.Linear(dim, hidden), between, nn.GELU(), nn.Linear(hidden, dim))
        if layer_scale is not None:
            self.gamma1, self.gamma2 = (nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(2))
        else:
            self.gamma1 = self.gamma2 = None
        self.pre_norm, self.drop_path = pre_norm, drop_path

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """y of the shape of `x`."""
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)
        for norm, branch, gamma in ((self.norm1, self.attn, self.gamma1), (self.norm2, self.mlp, self.gamma2)):
            y = branch(norm(x) if self.pre_norm else x)
            x = x + stochastic_depth(y if gamma is None else gamma * y, self.drop_path, self.training)
            if not self.pre_norm:
                x = norm(x)
        return x.permute(0, 3, 1, 2)


class Mlp(nn.Sequential):
    """Linear, something between or nothing, GELU, linear."""

    def forward(self, input: Tensor) -> Tensor:
        """The sequence; the first two steps in one where nothing stands between them.

        Returns:
            the tokens, of the shape of `input`.
        """
        first, between, activation, last = self
        exact = is_plain(activation, nn.GELU) and activation.approximate == "none"
        if isinstance(first, nn.Linear) and is_plain(between, nn.Identity) and exact:
            hidden = linear(first, input, gelu=True)
        else:
            hidden = activation(between(first(input)))
        return linear(last, hidden) if isinstance(last, nn.Linear) else last(hidden)


class OnMap(nn.Sequential):
    """Convolutions of (batch, channels, height, width), applied to (batch, height, width, channels)."""

    def forward(self, input: Tensor) -> Tensor:
        """The sequence, between two permutations.

        Returns:
            the map, (batch, channels, height, width).
        """
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
