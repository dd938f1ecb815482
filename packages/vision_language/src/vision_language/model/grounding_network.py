"""The network of sentence attention blocks (Khoshsirat and Kambhamettu, ICCV 2023): an image and a sentence → the pixels that are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.sentence_attention.attention import SentenceAttention

# EfficientNets by their channels at strides 2, 4, 8, 16, 32; the published code's table is wrong for the first three
BACKBONES = {
    "b0": (16, 24, 40, 112, 320),
    "b1": (16, 24, 40, 112, 320),
    "b2": (16, 24, 48, 120, 352),
    "b3": (24, 32, 48, 136, 384),
    "b4": (24, 32, 56, 160, 448),
    "b5": (24, 40, 64, 176, 512),
    "b6": (32, 40, 72, 200, 576),
    "b7": (32, 48, 80, 224, 640),
}


@dataclass(frozen=True)
class GroundingConfig:
    """Sizes of the network.

    Attributes:
        backbone: "b0" … "b7" (timm's tf_efficientnet), "small" (five plain convolutions, for small pictures), or None: feature maps
            are given.
        channels: of the feature maps, finest first; empty: the backbone's.
        sentence_dim: size of the sentence embedding.
        classes: channels of the logits.
        dropout: before the classifier.
        use_image, rescale: see `SentenceAttention`; both are off in the published code.
    """

    backbone: str | None = "b7"
    channels: tuple[int, ...] = ()
    sentence_dim: int = 384
    classes: int = 1
    dropout: float = 0.5
    use_image: bool = False
    rescale: bool = False


class SmallBackbone(nn.Sequential):
    """Five strided 3×3 convolutions with batch norm: a backbone that learns from nothing on a CPU."""

    def __init__(self, channels: Sequence[int]):
        stages = []
        before = 3
        for width in channels:
            convolution = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            before = width
        super().__init__(*stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for stage in self:
            image = stage(image)
            features.append(image)
        return features


class MergeBlock(nn.Module):
    """A coarse map into the next finer one: ``ReLU(resize(BN(conv₁ₓ₁(coarse))) + fine)``."""

    def __init__(self, fine: int, coarse: int):
        super().__init__()
        self.low_res_conv = nn.Sequential(nn.Conv2d(coarse, fine, 1, bias=False), nn.BatchNorm2d(fine))

    def forward(self, fine: Tensor, gate: Tensor, coarse: Tensor) -> Tensor:
        """`fine` is given before its gate: gating and adding are one pass over the map."""
        up = self.low_res_conv(coarse)
        up = F.interpolate(up, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.addcmul(up, fine, gate[:, :, None, None]).relu()


class GroundingNetwork(nn.Module):
    """Every level of a pyramid gated by the sentence, merged from coarse to fine, one logit map per class.

    Pixels go in as they are, 0…1 or 0…255 as in training: an instance norm with running statistics comes first, which in evaluation
    acts as a learned mean and deviation.

    Raises:
        ValueError: an unknown backbone, or channels that do not fit it.
    """

    config: GroundingConfig

    def __init__(self, config: GroundingConfig):
        super().__init__()
        channels = tuple(config.channels) or BACKBONES.get(config.backbone or "", ())
        if not channels:
            raise ValueError(
                f"{config.backbone!r} needs channels; with channels of their own come {', '.join(BACKBONES)}"
            )
        self.config, self.channels = config, channels
        self.init_norm = nn.InstanceNorm2d(3, affine=False, track_running_stats=True)
        if config.backbone == "small":
            self.backbone: nn.Module | None = SmallBackbone(channels)
        elif config.backbone is None:
            self.backbone = None
        elif config.backbone in BACKBONES:
            self.backbone = efficientnet(config.backbone)
        else:
            raise ValueError(f"unknown backbone {config.backbone!r}: one of {', '.join([*BACKBONES, 'small'])}")
        blocks = []
        for width in channels:
            blocks.append(
                SentenceAttention(config.sentence_dim, width, use_image=config.use_image, rescale=config.rescale)
            )
        self.sentence_attentions = nn.ModuleList(blocks)
        merges = [MergeBlock(fine, coarse) for fine, coarse in pairwise(channels)]
        self.merge_blocks = nn.ModuleList(merges)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(channels[0], config.classes, 1)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], sentence: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Logits at the size of the image."""
        if self.backbone is None:
            raise ValueError("this network has no backbone: give its feature maps to `decode`")
        return self.decode(self.backbone(self.init_norm(image)), sentence, image.shape[-2:])

    def decode(self, features: Sequence[Tensor], sentence: Float[Tensor, "batch dim"], size: Sequence[int]) -> Tensor:
        """Logits from the backbone's maps, finest first.

        Args:
            features: one map per level.
            sentence: embeddings.
            size: (height, width) of the logits.
        """
        if len(features) != len(self.channels):
            raise ValueError(f"expected {len(self.channels)} feature maps, got {len(features)}")
        gates = []
        for block, feature in zip(self.sentence_attentions, features, strict=True):
            gates.append(block.gate(sentence, feature))  # pyright: ignore[reportCallIssue]
        x = features[-1] * gates[-1][:, :, None, None]
        for level in range(len(features) - 2, -1, -1):
            x = self.merge_blocks[level](features[level], gates[level], x)
        logits = self.classifier(self.dropout(x))
        return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def efficientnet(name: str) -> nn.Module:
    """timm's EfficientNet with TensorFlow's padding, which the published code's backbone is; random weights."""
    import timm

    return timm.create_model(f"tf_efficientnet_{name}", features_only=True, pretrained=False)
