"""The three published EuroSAT networks: a plain CNN, one with CBAM, and the residual one with balanced multi-task attention (Vir 2025).

Keys of the state dicts are the published ones. Each takes any number of bands; the balanced network takes tiles of any size from 8 pixels, the CBAM
network from 64, the baseline only the size that it was made for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM
from remote_sensing.landuse.model.dropblock import DropBlock2D


@dataclass(frozen=True)
class BaselineConfig:
    """Sizes of `Baseline3LayerCNN`."""

    num_classes: int = 10
    in_chans: int = 3
    width: int = 32
    tile_size: int = 64
    dropout: float = 0.5

    def __post_init__(self) -> None:
        _check_sizes(self, self.num_classes, self.in_chans, self.width)


@dataclass(frozen=True)
class CBAMConfig:
    """Sizes of `Attention7LayerCNN`."""

    num_classes: int = 10
    in_chans: int = 3
    width: int = 32
    dropout: float = 0.4
    reduction: int = 16

    def __post_init__(self) -> None:
        _check_sizes(self, self.num_classes, self.in_chans, self.width, self.reduction)


@dataclass(frozen=True)
class BalancedConfig:
    """Sizes of `Balanced12LayerCNN`; `depths` and `drop_probs` have one entry per stage, and every stage but the first halves the map."""

    num_classes: int = 10
    in_chans: int = 3
    width: int = 64
    depths: tuple[int, ...] = (3, 3, 3, 2)
    drop_probs: tuple[float, ...] = (0.05, 0.10, 0.15, 0.20)
    block_size: int = 7
    dropout: float = 0.5
    coord_reduction: int = 8
    se_reduction: int = 16

    def __post_init__(self) -> None:
        sizes = (self.block_size, self.coord_reduction, self.se_reduction, *self.depths)
        _check_sizes(self, self.num_classes, self.in_chans, self.width, *sizes)


def _check_sizes(config: BaselineConfig | CBAMConfig | BalancedConfig, *sizes: int) -> None:
    if min(sizes) < 1:
        raise ValueError(f"sizes are positive; got {config}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout lies in [0, 1); got {config.dropout}")


class Baseline3LayerCNN(nn.Module):
    """Three {convolution, batch norm, ReLU, max pooling}, two linear layers without a ReLU between them (4,293,642 parameters)."""

    def __init__(self, config: BaselineConfig = BaselineConfig()) -> None:
        super().__init__()
        self.config = config
        if config.tile_size < 8 or config.tile_size % 8:
            raise ValueError(f"Baseline3LayerCNN needs a tile_size divisible by 8, got {config.tile_size}")
        channels = [config.in_chans, config.width, 2 * config.width, 4 * config.width]
        for i in (1, 2, 3):
            setattr(self, f"conv{i}", nn.Conv2d(channels[i - 1], channels[i], 3, padding=1))
            setattr(self, f"bn{i}", nn.BatchNorm2d(channels[i]))
        self.fc1 = nn.Linear(channels[3] * (config.tile_size // 8) ** 2, 512)
        self.dropout = nn.Dropout(config.dropout)
        self.fc2 = nn.Linear(512, config.num_classes)
        initialise(self)

    def forward(self, x: Float[Tensor, "b bands h w"]) -> Float[Tensor, "b classes"]:
        """Class logits.

        Raises:
            ValueError: tiles of another size or with another number of bands.
        """
        side = self.config.tile_size
        _check(x, self.config.in_chans, "Baseline3LayerCNN")
        if tuple(x.shape[2:]) != (side, side):
            raise ValueError(
                f"Baseline3LayerCNN needs tiles of (batch, {self.config.in_chans}, {side}, {side}), got {tuple(x.shape)}"
            )
        for i in (1, 2, 3):
            x = F.max_pool2d(F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))), 2)
        return self.fc2(self.dropout(self.fc1(x.flatten(1))))


class CBAMBlock(nn.Module):
    """{convolution, batch norm, ReLU} twice, CBAM if requested, max pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, reduction: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if reduction is not None:
            self.attention = CBAM(out_channels, reduction=reduction)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        if hasattr(self, "attention"):
            x = self.attention(x)
        return F.max_pool2d(x, 2)


class Attention7LayerCNN(nn.Module):
    """Six blocks of two convolutions with CBAM from the second on, a 1×1 convolution, two linear layers (9,912,212 parameters)."""

    def __init__(self, config: CBAMConfig = CBAMConfig()) -> None:
        super().__init__()
        self.config = config
        channels = [config.in_chans]
        for i in range(5):
            channels.append(config.width * 2**i)
        for i in range(1, 6):
            reduction = config.reduction if i > 1 else None  # the first block has no attention
            setattr(self, f"block{i}", CBAMBlock(channels[i - 1], channels[i], reduction=reduction))
        top = channels[-1]
        self.conv6_1 = nn.Conv2d(top, top, 3, padding=1)
        self.bn6_1 = nn.BatchNorm2d(top)
        self.conv6_2 = nn.Conv2d(top, top, 3, padding=1)
        self.bn6_2 = nn.BatchNorm2d(top)
        self.attention6 = CBAM(top, reduction=config.reduction)
        self.conv7 = nn.Conv2d(top, top, 1)
        self.bn7 = nn.BatchNorm2d(top)
        self.fc1 = nn.Linear(top, 256)
        self.dropout = nn.Dropout(config.dropout)
        self.fc2 = nn.Linear(256, config.num_classes)
        initialise(self)

    def forward(self, x: Float[Tensor, "b bands h w"]) -> Float[Tensor, "b classes"]:
        """Class logits.

        Raises:
            ValueError: tiles below 64 pixels, or another number of bands.
        """
        _check(x, self.config.in_chans, "Attention7LayerCNN", least=64)
        for i in range(1, 6):
            x = getattr(self, f"block{i}")(x)
        x = F.relu(self.bn6_1(self.conv6_1(x)))
        x = F.relu(self.bn6_2(self.conv6_2(x)))
        x = F.max_pool2d(self.attention6(x), 2)
        x = F.relu(self.bn7(self.conv7(x))).mean((2, 3))
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class BalancedResidualBlock(nn.Module):
    """``ReLU(shortcut(x) + BMTA(BN(conv(DropBlock(ReLU(BN(conv(x))))))))``; the shortcut is a 1×1 convolution with BN where the shape changes.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        stride: of the first convolution.
        drop_prob: of DropBlock.
        block_size: of DropBlock.
        coord_reduction: of the coordinate attention.
        se_reduction: of the squeeze-excitation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        drop_prob: float = 0.1,
        block_size: int = 7,
        coord_reduction: int = 8,
        se_reduction: int = 16,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.attention = BalancedMultiTaskAttention(
            out_channels, coord_reduction=coord_reduction, se_reduction=se_reduction
        )
        self.dropblock = DropBlock2D(drop_prob, block_size=block_size)
        self.shortcut = nn.Sequential()  # the identity
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(
        self, x: Float[Tensor, "b c h w"], uniform: Float[Tensor, "b 1 h2 w2"] | None = None
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """The block; `uniform` is DropBlock's noise, drawn if it is not given."""
        y = self.dropblock(F.relu(self.bn1(self.conv1(x))), uniform)
        return F.relu(self.attention(self.bn2(self.conv2(y))) + self.shortcut(x))


class Balanced12LayerCNN(nn.Module):
    """A stem and eleven residual blocks, each with balanced multi-task attention, global average pooling (13,115,813 parameters)."""

    def __init__(self, config: BalancedConfig = BalancedConfig()) -> None:
        super().__init__()
        self.config = config
        if len(config.depths) != len(config.drop_probs) or min(config.depths, default=0) < 1:
            raise ValueError(
                f"Balanced12LayerCNN needs one drop_prob per stage and at least one block in each, got depths {config.depths} and {config.drop_probs}"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_chans, config.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        width = config.width
        for stage, (depth, drop_prob) in enumerate(zip(config.depths, config.drop_probs, strict=True)):
            out = config.width * 2**stage
            blocks = []
            for i in range(depth):
                # only the first block of a stage changes the width, and halves the map in all stages but the first
                block = BalancedResidualBlock(
                    width if i == 0 else out,
                    out,
                    stride=2 if stage and i == 0 else 1,
                    drop_prob=drop_prob,
                    block_size=config.block_size,
                    coord_reduction=config.coord_reduction,
                    se_reduction=config.se_reduction,
                )
                blocks.append(block)
            setattr(self, f"stage{stage + 1}", nn.Sequential(*blocks))
            width = out
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(width, config.num_classes)
        initialise(self)

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages in order."""
        return [getattr(self, f"stage{i + 1}") for i in range(len(self.config.depths))]

    def attention_weights(self) -> list[float]:
        """α of every block in order: the weight of the spatial branch, in (0, 1)."""
        weights = []
        for module in self.modules():
            if isinstance(module, BalancedMultiTaskAttention):
                weights.append(float(module.balance.detach()))
        return weights

    def forward(self, x: Float[Tensor, "b bands h w"]) -> Float[Tensor, "b classes"]:
        """Class logits.

        Raises:
            ValueError: tiles below 8 pixels, or another number of bands.
        """
        _check(x, self.config.in_chans, "Balanced12LayerCNN", least=8)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.dropout(x.mean((2, 3))))


def initialise(network: nn.Module) -> None:
    """The published initialisation: convolutions Kaiming normal (fan out), linear layers N(0, 0.01), biases 0, norms 1 and 0, a = 0.5."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


def folded(network: nn.Module) -> nn.Module:
    """A copy for inference in which each batch norm is folded into the convolution before it; equal up to rounding."""
    import copy

    network = copy.deepcopy(network).eval()
    for module in network.modules():
        parts = dict(module.named_children())  # a copy: the loop replaces children
        # named_children gives the order of definition, in which each norm here follows its convolution
        before: tuple[str, nn.Module] | None = None
        for name, part in parts.items():
            if isinstance(part, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
                fused = torch.nn.utils.fusion.fuse_conv_bn_eval(before[1], part)
                setattr(module, before[0], fused)
                setattr(module, name, nn.Identity())
            before = (name, part)
    return network


def _check(x: Tensor, bands: int, what: str, least: int = 1) -> None:
    if x.ndim != 4 or x.shape[1] != bands or min(x.shape[2:]) < least:
        raise ValueError(
            f"{what} needs tiles of (batch, {bands}, height, width), sides of at least {least}, got {tuple(x.shape)}"
        )
