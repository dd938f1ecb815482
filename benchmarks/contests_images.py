"""Contests of attention over images: RALA's softmax stage, DaViT's dual block, balanced multi-task attention."""

from __future__ import annotations

from functools import partial

import torch
from core_routed import Contest, Growth
from torch import Tensor, nn

from core_attention.mechanisms.davit.attention import ChannelAttention, ChannelBlock, SpatialBlock
from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention, definition
from core_attention.mechanisms.rala.attention import (
    GateLinearAttentionNoSilu,
    VanillaSelfAttention,
    rotary_table,
    rotate,
)


class Written(VanillaSelfAttention):
    """RALA's softmax stage with its N×N weights written out, and its rotary table made at every call, as published."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        weights = torch.softmax(self.scale * (rotate(q, sin, cos).mT @ rotate(k, sin, cos)), -1)
        return (weights @ v.mT).mT


def rala_softmax(height: int, width: int, small: bool):
    """RAVLT-S's third stage: 320 channels, 5 heads."""
    torch.manual_seed(0)
    ours, plain = VanillaSelfAttention(320, 5), Written(320, 5)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(1, 320, *((4, 4) if small else (height, width)))
    with torch.no_grad():
        probe = torch.randn(1, 320, 6, 7)
        torch.testing.assert_close(ours(probe), plain(probe), rtol=1e-4, atol=1e-5)
    return {"ours": (ours, (x,)), "N×N form": (plain, (x,))}


def rala_softmax_alone(height: int, width: int, small: bool):
    """The same without the projections and the convolution, which both share."""
    torch.manual_seed(0)
    height, width = (4, 4) if small else (height, width)
    q, k, v = (torch.randn(1, 5, 64, height * width) for _ in range(3))
    given = q, k, v, *rotary_table(height, width, 64)
    return {"ours": (VanillaSelfAttention(320, 5).mix, given), "N×N form": (Written(320, 5).mix, given)}


def davit(batch: int, small: bool):
    """A dual block of the tiny model's first stage, 56×56 × 96 channels; timm's takes channels first."""
    from timm.models import davit as timm

    torch.manual_seed(0)
    theirs = nn.Sequential(
        timm.SpatialBlock(96, num_heads=3, qkv_bias=True), timm.ChannelBlock(96, num_heads=3, qkv_bias=True)
    )
    ours = nn.Sequential(SpatialBlock(96, 3), ChannelBlock(96, 3))
    named = {k.replace("cpe1.", "cpe.0.").replace("cpe2.", "cpe.1."): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(named)
    x = torch.randn(batch, 7, 7, 96) if small else torch.randn(batch, 56, 56, 96)
    first, last = x.permute(0, 3, 1, 2).contiguous(), x.permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).permute(0, 3, 1, 2), theirs(first), rtol=1e-3, atol=1e-4)
    return {"ours": (ours, (x,)), "timm": (theirs, (first,)), "timm, channels last": (theirs, (last,))}


STAGES = ((64, 64, 3), (128, 32, 3), (256, 16, 3), (512, 8, 2))  # channels, side of the map, blocks


class Plain(nn.Module):
    """The definition as a module, with the weights of ours."""

    def __init__(self, ours: BalancedMultiTaskAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        return definition(self.ours, x)


class Stages(nn.Module):
    """All eleven attention modules of the balanced network, each on its own map."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.stack([layer(x).sum() for layer, x in zip(self.layers, maps, strict=True)])


def balanced(channels: int, side: int, batch: int, small: bool):
    """One module at one stage of the network that reads EuroSAT's 64×64 pixels."""
    torch.manual_seed(0)
    layer = BalancedMultiTaskAttention(channels)
    x = torch.randn(2 if small else batch, channels, side, side)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), definition(layer, x), rtol=1e-4, atol=1e-5)
    layer.train()
    return {"ours": (layer, (x,)), "three steps": (Plain(layer), (x,))}


def balanced_network(batch: int, small: bool):
    """The eleven modules of the network."""
    torch.manual_seed(0)
    made = [(BalancedMultiTaskAttention(c), side) for c, side, count in STAGES for _ in range(count)]
    maps = tuple(torch.randn(2 if small else batch, layer.channels, side, side) for layer, side in made)
    ours, plain = Stages([layer for layer, _ in made]), Stages([Plain(layer) for layer, _ in made])
    return {"ours": (ours, maps), "three steps": (plain, maps)}


CONTESTS = {
    "rala-softmax-50x84": Contest(partial(rala_softmax, 50, 84), "≥ 3× faster than the N×N form", rounds=5),
    "rala-softmax-alone-50x84": Contest(partial(rala_softmax_alone, 50, 84), "≥ 3× faster than the N×N form", rounds=5),
    "davit-56": Contest(partial(davit, 1), "≥ 1.2× faster than timm's", rounds=15),
    "davit-56-batch4": Contest(partial(davit, 4), "≥ 1.2× faster than timm's"),
    "balanced-64x64-batch64": Contest(partial(balanced, 64, 64, 64), "≥ 3× faster than the three steps"),
    "balanced-network-batch8": Contest(partial(balanced_network, 8), "≥ 3× faster than the three steps", rounds=15),
    "balanced-network-batch64": Contest(partial(balanced_network, 64), "≥ 3× faster than the three steps"),
}


def square(tokens: int, channels: int, last: bool) -> Tensor:
    side = max(1, round(tokens**0.5))
    return torch.randn(1, side, side, channels) if last else torch.randn(1, channels, side, side)


def rala_linear(tokens: int):
    return GateLinearAttentionNoSilu(64, 1), (square(tokens, 64, False),)


def rala_quadratic(tokens: int):
    return VanillaSelfAttention(64, 1), (square(tokens, 64, False),)


def davit_channel(tokens: int):
    return ChannelAttention(96, 3), (square(tokens, 96, True),)


def davit_dual(tokens: int):
    return nn.Sequential(SpatialBlock(96, 3), ChannelBlock(96, 3)), (square(tokens, 96, True),)


def davit_channels(channels: int):
    return ChannelBlock(channels, channels // 32), (square(3136, channels, True),)


def balanced_tokens(tokens: int):
    return BalancedMultiTaskAttention(64), (square(tokens, 64, False),)


TOKENS = (1024, 4096, 16384, 65536)
GROWTH = {
    "rala linear, tokens (64 channels)": Growth(rala_linear, lengths=TOKENS),
    "rala softmax, tokens (64 channels)": Growth(rala_quadratic, lengths=(1024, 2048, 4096, 8192)),
    "davit channel attention, tokens (96 channels)": Growth(davit_channel, lengths=TOKENS),
    "davit dual block, tokens (96 channels)": Growth(davit_dual, lengths=(1024, 4096, 16384)),
    "davit channel block, channels (3136 tokens)": Growth(davit_channels, lengths=(64, 128, 256, 512)),
    "balanced, pixels (64 channels)": Growth(balanced_tokens, lengths=TOKENS),
}
