"""Networks by name, and the ResNet peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from core_attention.checkpoints.folders import read_official
from core_runtime.errors import UserError
from remote_sensing.landuse.model.eurosat import (
    Attention7LayerCNN,
    Balanced12LayerCNN,
    BalancedConfig,
    Baseline3LayerCNN,
    BaselineConfig,
    CBAMConfig,
)
from remote_sensing.landuse.model.sizes import NETWORKS


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of `ResNetPeer`."""

    depth: Literal[18, 50] = 50
    num_classes: int = 10
    in_chans: int = 3

    def __post_init__(self) -> None:
        if min(self.num_classes, self.in_chans) < 1:
            raise ValueError(f"sizes are positive; got {self}")


class ResNetPeer(nn.Module):
    """torchvision's ResNet-18 or ResNet-50 with another first convolution and classifier: the reference of fine-tuning (98.57 %, Helber 2019)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        from torchvision import models

        self.config = config
        self.net = {18: models.resnet18, 50: models.resnet50}[config.depth](weights=None)
        if config.in_chans != 3:
            self.net.conv1 = nn.Conv2d(config.in_chans, 64, 7, 2, 3, bias=False)
        self.net.fc = nn.Linear(self.net.fc.in_features, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def load_pretrained(self, state: Mapping[str, Tensor]) -> list[str]:
        """Loads torchvision's (or timm's) ImageNet weights; the classifier stays new. For another number of bands, each takes the mean filter.

        Returns:
            The keys that were not loaded.

        Raises:
            ValueError: not the weights of this network.
        """
        plain = {key.removeprefix("module."): value for key, value in state.items()}  # "module.": from DataParallel
        state = {key: value for key, value in plain.items() if not key.startswith("fc.")}
        if "conv1.weight" not in state:
            raise ValueError("not the weights of a ResNet: there is no conv1.weight")
        filters = state["conv1.weight"]
        if self.config.in_chans != filters.shape[1]:
            # scaled, so that the sum over bands, and with it the size of the activations, stays the same
            mean = filters.mean(1, keepdim=True) * (filters.shape[1] / self.config.in_chans)
            state["conv1.weight"] = mean.repeat(1, self.config.in_chans, 1, 1)
        try:
            missing, unexpected = self.net.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ValueError(
                f"not the weights of a ResNet-{self.config.depth}: {str(error).splitlines()[-1].strip()}"
            ) from None
        wrong = [key for key in missing if not key.startswith("fc.")] + unexpected
        if wrong:
            raise ValueError(f"not the weights of a ResNet-{self.config.depth}: {', '.join(wrong[:4])} …")
        return missing


def build_network(
    name: str,
    *,
    classes: int,
    bands: int,
    tile_size: int = 64,
    width: int | None = None,
    depths: Sequence[int] | None = None,
    drop: float = 1.0,
) -> nn.Module:
    """A fresh network by its name in `sizes.NETWORKS`.

    Args:
        width: channels of the first stage, instead of the published 64 (balanced) or 32.
        depths: blocks per stage of the balanced network.
        drop: factor on the published rates of dropout and DropBlock, for narrow networks and few tiles.

    Raises:
        UserError: sizes that do not fit.
    """
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}", f"one of {', '.join(NETWORKS)}")
    sizes: dict[str, Any] = {"num_classes": classes, "in_chans": bands}
    published = {"balanced": BalancedConfig, "cbam": CBAMConfig, "baseline": BaselineConfig}.get(name)
    if published is not None:
        sizes["dropout"] = drop * published.dropout
        sizes["width"] = published.width
        if width is not None:
            sizes["width"] = width
    try:
        if name == "balanced":
            stages = tuple(depths or BalancedConfig.depths)
            rates = [drop * 0.05 * (number + 1) for number in range(len(stages))]  # as published: 0.05, 0.10, …
            sizes |= {"depths": stages, "drop_probs": tuple(rates)}
            return Balanced12LayerCNN(BalancedConfig(**sizes))
        if name == "cbam":
            if tile_size < 64:
                raise UserError(f"the CBAM network needs tiles of at least 64 pixels, these have {tile_size}")
            return Attention7LayerCNN(CBAMConfig(**sizes))
        if name == "baseline":
            return Baseline3LayerCNN(BaselineConfig(**sizes, tile_size=tile_size))
        depth = 50 if name == "resnet50" else 18
        return ResNetPeer(ResNetConfig(depth=depth, **sizes))
    except ValueError as error:
        raise UserError(str(error)) from None


def load_pretrained(network: nn.Module, weights: Path) -> None:
    """Loads ImageNet weights from a local file.

    Raises:
        UserError: not such a file, or not a ResNet.
    """
    if not isinstance(network, ResNetPeer):
        raise UserError("--weights is for the ResNets; the published networks are trained from scratch")
    try:
        network.load_pretrained(read_official(weights))
    except (OSError, ValueError, KeyError) as error:
        hint = "give torchvision's or timm's file of ImageNet weights"
        raise UserError(f"{weights}: {error}", hint) from None
