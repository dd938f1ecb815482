"""The multi-scale self-guided network (Sinha and Dolz 2020) in two, two and a half, or three dimensions.

A backbone gives four feature maps; each is reduced to 64 channels and resized to the finest (`down`). Their fusion F meets each of them
in two stages of attention; an autoencoder per stage guides the attention (`GuidedStage`). The answer is the mean of the four second-stage logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medical_segmentation.organs.model.backbones import SCALES, Backbone
from medical_segmentation.organs.model.layers import (
    MultiConv,
    SemanticModule,
    attention_layer,
    convolution,
    normalisation,
    resize,
)

MULTIPLE = 16  # of the sides: four times the stride of the finest map, for the two poolings of the semantic module


@dataclass(frozen=True)
class GuidedConfig:
    """Sizes of `GuidedAttentionNet`; the defaults are the published ones.

    Attributes:
        n_classes: classes, background included.
        in_channels: channels of one slice or volume.
        slices: neighbouring slices that enter as further channels, an odd number (2.5-D); 1: the slice alone.
        backbone: name in timm.
        width: channels of the reduced maps.
        dims: 2 for slices, 3 for volumes.
        share_semantic: one semantic module for all scales of a stage, as the published code has it (the paper draws one per scale).
        unused_layers: also build the layers that the published checkpoints hold and the published forward never runs.
    """

    n_classes: int = 5
    in_channels: int = 1
    slices: int = 1
    backbone: str = "resnext101_32x8d"
    width: int = 64
    dims: int = 2
    share_semantic: bool = True
    unused_layers: bool = False

    def __post_init__(self) -> None:
        if min(self.n_classes, self.in_channels, self.slices, self.width) < 1 or self.slices % 2 == 0:
            raise ValueError(f"sizes are positive and slices odd; got {self}")
        if self.dims not in (2, 3) or (self.dims == 3 and self.slices > 1):
            raise ValueError(f"dims is 2 or 3, and neighbouring slices belong to 2; got {self}")


class Supervised(NamedTuple):
    """What the network gives in training, by scale, finest first.

    Attributes:
        first, second: logits of the two stages at the size of the input.
        codes: (e¹, e²) of the semantic modules.
        inputs: (I, J), what the semantic modules reconstruct.
        reconstructions: (r¹, r²).
    """

    first: Sequence[Tensor]
    second: Sequence[Tensor]
    codes: Sequence[tuple[Tensor, Tensor]]
    inputs: Sequence[tuple[Tensor, Tensor]]
    reconstructions: Sequence[tuple[Tensor, Tensor]]

    @property
    def logits(self) -> Tensor:
        """Mean of the second stage: what the network answers in evaluation."""
        return torch.stack(list(self.second)).mean(0)


class GuidedStage(nn.Module):
    """One stage of attention: ``a = Conv1( (CAM(I) + PAM(I)) ⊙ Conv3(r) )`` at every scale, r the reconstruction of I.

    Args:
        width: channels of the maps; I has twice as many.
        scales: number of maps.
        dims: 2 or 3.
        share_semantic: one semantic module for all scales.
    """

    def __init__(self, width: int, scales: int, *, dims: int = 2, share_semantic: bool = True) -> None:
        super().__init__()
        modules = 1 if share_semantic else scales
        self.semantic = nn.ModuleList([SemanticModule(2 * width, dims=dims) for _ in range(modules)])
        self.position = nn.ModuleList([attention_layer(dims, width, use_pam=True) for _ in range(scales)])
        self.channel = nn.ModuleList([attention_layer(dims, width, use_pam=False) for _ in range(scales)])
        self.guide = nn.ModuleList([convolution(dims, 2 * width, width, 3) for _ in range(scales)])
        self.project = nn.ModuleList([convolution(dims, width, width, 1) for _ in range(scales)])

    def forward(self, x: Float[Tensor, "b c2 *space"], scale: int) -> tuple[Tensor, Tensor, Tensor]:
        """The attended map, the code and the reconstruction of one scale (0 is the finest)."""
        code, reconstruction = self.semantic[min(scale, len(self.semantic) - 1)](x)
        attention = self.channel[scale](x) + self.position[scale](x)
        return self.project[scale](attention * self.guide[scale](reconstruction)), code, reconstruction


class GuidedAttentionNet(nn.Module):
    """Images of any size to class scores.

    In evaluation ``forward`` gives logits ``[B, K, *space]``; in training a `Supervised`. Sides that are not multiples of 16 are padded by
    repeating the border, and the answer is cropped.

    Args:
        config: sizes.
        pretrained: start from timm's weights of the backbone.
    """

    def __init__(self, config: GuidedConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        dims, width = config.dims, config.width
        self.backbone = Backbone(config.backbone, config.in_channels * config.slices, dims=dims, pretrained=pretrained)
        channels = self.backbone.channels
        self.down = nn.ModuleList([_reduction(dims, each, width) for each in channels])
        self.first_heads = nn.ModuleList([convolution(dims, width, config.n_classes, 1) for _ in channels])
        self.second_heads = nn.ModuleList([convolution(dims, width, config.n_classes, 1) for _ in channels])
        self.fuse = MultiConv(len(channels) * width, width, dims=dims)
        stages = []
        for _ in range(2):
            stages.append(GuidedStage(width, len(channels), dims=dims, share_semantic=config.share_semantic))
        self.stages = nn.ModuleList(stages)
        if config.unused_layers:
            self.unused = unused_layers(width)

    def forward(self, x: Float[Tensor, "b i *space"]) -> Tensor | Supervised:
        """Logits at the size of the input; in training with all that the losses need.

        Raises:
            ValueError: another rank or number of channels.
        """
        config = self.config
        channels = config.in_channels * config.slices
        if x.ndim != config.dims + 2 or x.shape[1] != channels:
            raise ValueError(f"expected (batch, {channels}, {config.dims} sides), got {tuple(x.shape)}")
        size = tuple(x.shape[2:])
        # of a thin volume the coarsest map would vanish in the backbone's pooling: 3-D pads to that stride
        x = pad_to_multiple(x, MULTIPLE if config.dims == 2 else 2 * MULTIPLE)
        maps = []
        for reduce, features in zip(self.down, self.backbone(x), strict=True):
            maps.append(reduce(features))
        finest = tuple(side // (MULTIPLE // 4) for side in x.shape[2:])
        maps = [resize(each, finest) for each in maps]
        # the published order: the coarsest map first
        fused = self.fuse(torch.cat(maps[::-1], 1))
        padded = tuple(x.shape[2:])
        if self.training:
            return self._supervised(maps, fused, padded, size)
        total = None
        for scale, each in enumerate(maps):
            attended, _, _ = self.stages[0](torch.cat([each, fused], 1), scale)
            attended, _, _ = self.stages[1](torch.cat([each, attended * fused], 1), scale)
            logits = self.second_heads[scale](attended)
            total = logits if total is None else total + logits
        assert total is not None
        # resizing is linear: the mean of the four resized maps is the resized mean
        return crop(resize(total / len(maps), padded), size)

    def _supervised(
        self,
        maps: list[Tensor],
        fused: Tensor,
        padded: tuple[int, ...],
        size: tuple[int, ...],
    ) -> Supervised:
        first = []
        for head, each in zip(self.first_heads, maps, strict=True):
            first.append(crop(resize(head(each), padded), size))
        second, codes, inputs, reconstructions = [], [], [], []
        for scale, each in enumerate(maps):
            before = torch.cat([each, fused], 1)
            attended, code1, reconstruction1 = self.stages[0](before, scale)
            after = torch.cat([each, attended * fused], 1)
            attended, code2, reconstruction2 = self.stages[1](after, scale)
            second.append(crop(resize(self.second_heads[scale](attended), padded), size))
            codes.append((code1, code2))
            inputs.append((before, after))
            reconstructions.append((reconstruction1, reconstruction2))
        return Supervised(first, second, codes, inputs, reconstructions)


def _reduction(dims: int, channels: int, width: int) -> nn.Module:
    return nn.Sequential(convolution(dims, channels, width, 1), normalisation(dims, width), nn.PReLU())


def pad_to_multiple(x: Float[Tensor, "b i *space"], multiple: int = MULTIPLE) -> Float[Tensor, "b i *padded"]:
    """The border repeated at the far ends until every side is a multiple."""
    missing = [-side % multiple for side in x.shape[2:]]
    if not any(missing):
        return x
    amounts: list[int] = []
    for amount in reversed(missing):  # F.pad counts from the last axis
        amounts += [0, amount]
    return F.pad(x, amounts, mode="replicate")


def crop(x: Float[Tensor, "b k *padded"], size: tuple[int, ...]) -> Float[Tensor, "b k *size"]:
    """The near corner of that size: the inverse of `pad_to_multiple`."""
    return x[(slice(None), slice(None), *(slice(side) for side in size))]


def unused_layers(width: int) -> nn.ModuleDict:
    """Layers of the published class that its forward never runs; they carry 955,408 parameters of its checkpoints at the published width."""
    layers: dict[str, nn.Module] = {}
    for scale in range(1, SCALES + 1):
        layers[f"conv6_{scale}"] = nn.Sequential(nn.Dropout2d(0.1, False), nn.Conv2d(width, width, 1))
        layers[f"conv7_{scale}"] = nn.Sequential(nn.Dropout2d(0.1, False), nn.Conv2d(width, width, 1))
        layers[f"attention{scale}"] = MultiConv(2 * width, width, attention=True)
        layers[f"refine{scale}"] = MultiConv(2 * width, width)
    return nn.ModuleDict(layers)


def initialise(network: nn.Module) -> None:
    """The published start: Xavier-normal convolutions, batch-norm weights of mean 1 and deviation 0.02, biases of batch norm 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
