"""MambaOut (Yu and Wang, CVPR 2025): a pyramid of gated convolutions, a Mamba block without its state-space mixer."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.parts.linear import linear
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import Pyramid, drop_path_rates

Act = Literal["gelu", "silu"]
_ACTS = {"gelu": F.gelu, "silu": F.silu}


class GatedCNNBlock(nn.Module):
    """``x + W₂ (act(g) ⊙ [i, DWConv(v)])`` with ``[g, i, v] = W₁ LN(x)``, on (batch, height, width, channels).

    Args:
        dim: channels C.
        expansion_ratio: hidden width over C, cut to an integer.
        kernel_size: of the depthwise convolution.
        conv_ratio: share of C that the convolution sees; at most all of the hidden width.
        act: of the gate.
        layer_scale: initial factor per channel after the second projection; None: none.
        drop_path: rate of stochastic depth.

    Raises:
        ValueError: the convolution would need more channels than there are.
    """

    def __init__(
        self,
        dim: int,
        *,
        expansion_ratio: float = 8 / 3,
        kernel_size: int = 7,
        conv_ratio: float = 1.0,
        act: Act = "gelu",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden, convolved = int(expansion_ratio * dim), int(conv_ratio * dim)
        if not 0 < convolved <= hidden:
            raise ValueError(
                f"the convolution gets {convolved} of {hidden} channels: conv_ratio {conv_ratio} is too large or 0"
            )
        if act not in _ACTS:
            raise ValueError(f"act is 'gelu' or 'silu', got {act!r}")
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.conv = nn.Conv2d(convolved, convolved, kernel_size, padding=kernel_size // 2, groups=convolved)
        self.fc2 = nn.Linear(hidden, dim)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.split = (hidden, hidden - convolved, convolved)
        self.act, self.drop_path = _ACTS[act], drop_path

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`, (batch, height, width, channels)."""
        gate, identity, convolved = linear(self.fc1, self.norm(x)).split(self.split, -1)
        # a channels-last view: nothing is copied around the convolution
        convolved = self.conv(convolved.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if torch.is_grad_enabled():
            product = self.act(gate) * torch.cat([identity, convolved], -1)
        else:  # in place, part by part: nothing is laid side by side
            product = self.act(gate)
            product[..., : self.split[1]].mul_(identity)
            product[..., self.split[1] :].mul_(convolved)
        y = linear(self.fc2, product)
        if self.gamma is not None:
            y = y * self.gamma
        return x + stochastic_depth(y, self.drop_path, self.training)


class Stem(nn.Module):
    """Two 3×3 convolutions of stride 2, each with a norm (the first optionally none); returns (batch, height, width, channels)."""

    def __init__(self, in_chans: int, dim: int, *, mid_norm: bool, act: Act) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim // 2, eps=1e-6) if mid_norm else None
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.act = _ACTS[act]

    def forward(self, x: Tensor) -> Tensor:
        """The map at a quarter of the picture's size."""
        x = self.conv1(x)
        if self.norm1 is not None:
            x = self.norm1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm2(self.conv2(self.act(x)).permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """A 3×3 convolution of stride 2 with a norm after it, or before it; maps are (batch, height, width, channels)."""

    def __init__(self, before: int, dim: int, *, norm_first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(before if norm_first else dim, eps=1e-6)
        self.norm_first = norm_first

    def forward(self, x: Tensor) -> Tensor:
        """The map at half its size, rounded up."""
        if self.norm_first:
            x = self.norm(x)
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x if self.norm_first else self.norm(x)


class Head(nn.Module):
    """The mean's classifier: linear, GELU, norm (optionally none), dropout, linear."""

    def __init__(self, dim: int, num_classes: int, *, norm: bool, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.norm = nn.LayerNorm(4 * dim, eps=1e-6) if norm else None
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(4 * dim, num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores of the classes, or what the last layer would get."""
        x = F.gelu(self.fc1(x))
        if self.norm is not None:
            x = self.norm(x)
        x = self.drop(x)
        return x if pre_logits else self.fc2(x)


class MambaOut(Pyramid):
    """Four stages of gated convolution blocks.

    Args:
        depths: blocks of each stage.
        dims: channels of each stage.
        expansion_ratio, kernel_size, conv_ratio, act, layer_scale: of the blocks, see `GatedCNNBlock`; `act` is the stem's too.
        stem_mid_norm: a norm between the two convolutions of the stem.
        downsample: where the norm of the convolutions between stages stands, "norm_last" or "norm_first".
        head: "default", or "norm_mlp" (timm's "rw" networks), which has no norm inside.
        in_chans, num_classes, global_pool: see `Pyramid`.
        drop_rate: dropout in the head.
        drop_path_rate: stochastic depth in the last block.
    """

    per_stage = ("downsample_layers", "stages")
    channels_last = True

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 576),
        expansion_ratio: float = 8 / 3,
        kernel_size: int = 7,
        conv_ratio: float = 1.0,
        act: Act = "gelu",
        layer_scale: float | None = None,
        stem_mid_norm: bool = True,
        downsample: Literal["norm_last", "norm_first"] = "norm_last",
        head: Literal["default", "norm_mlp"] = "default",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(dims, in_chans=in_chans, num_classes=num_classes, global_pool=global_pool, drop_rate=0.0)
        rates = drop_path_rates(drop_path_rate, depths)
        self.downsample_layers = nn.ModuleList([Stem(in_chans, dims[0], mid_norm=stem_mid_norm, act=act)])
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            if i > 0:
                self.downsample_layers.append(Downsample(dims[i - 1], dim, norm_first=downsample == "norm_first"))
            blocks = []
            for rate in rates[i]:
                block = GatedCNNBlock(
                    dim,
                    expansion_ratio=expansion_ratio,
                    kernel_size=kernel_size,
                    conv_ratio=conv_ratio,
                    act=act,
                    layer_scale=layer_scale,
                    drop_path=rate,
                )
                blocks.append(block)
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = Head(dims[-1], num_classes, norm=head == "default", drop_rate=drop_rate)
        self.apply(_init)

    @property
    def head_hidden_size(self) -> int:
        return 4 * self.num_features if isinstance(self.head, Head) else self.num_features

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        blocks: Any = self.stages[index]
        return self.run_blocks(blocks, self.downsample_layers[index](x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.global_pool:
            return x
        x = self.norm(self.pool(x))
        return self.head(x, pre_logits=pre_logits) if isinstance(self.head, Head) else x

    def get_classifier(self) -> nn.Module:
        return self.head.fc2 if isinstance(self.head, Head) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        if reset_other:  # for features alone nothing of the head is left
            self.norm, self.head = nn.Identity(), nn.Identity()
            return
        assert isinstance(self.head, Head)
        like = self.head.fc1.weight
        self.head.fc2 = nn.Linear(len(like), num_classes) if num_classes > 0 else nn.Identity()
        self.head.fc2.to(like).apply(_init)

    def remove_norm(self) -> None:
        self.norm = nn.Identity()


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sequence_ratio(tokens: int, width: int) -> float:
    """``r = L / 6D``: what attention's products over all pairs cost, over what its projections and the MLP cost (paper, section 3.3).

    A task has long sequences where r is above 1.
    """
    return tokens / (6 * width)
