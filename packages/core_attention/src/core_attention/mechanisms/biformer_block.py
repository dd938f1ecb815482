"""The block of BiFormer: position convolution, attention by `topk`, and an MLP, on (batch, channels, height, width) maps."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.biformer import AttentionLePE, BiLevelRoutingAttention, depthwise
from core_attention.stochastic_depth import stochastic_depth


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
    """

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
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), between, nn.GELU(), nn.Linear(hidden, dim))
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


class OnMap(nn.Sequential):
    """Convolutions of (batch, channels, height, width), applied to (batch, height, width, channels)."""

    def forward(self, input: Tensor) -> Tensor:
        """The sequence, between two permutations."""
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
