"""Networks by name, the ResNet peers, and model folders with their preprocessing and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core_attention.checkpoints.folders import load_model, read_config, read_official
from core_runtime.errors import UserError
from remote_sensing.landuse.bands import Preprocessing
from remote_sensing.landuse.eurosat import (
    Attention7LayerCNN,
    Balanced12LayerCNN,
    BalancedConfig,
    Baseline3LayerCNN,
    BaselineConfig,
    CBAMConfig,
    folded,
)
from remote_sensing.landuse.recipes import NETWORKS

_MADE_BY = "'remote-sensing landuse train' makes a model folder"


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of `ResNetPeer`."""

    depth: Literal[18, 50] = 50
    num_classes: int = 10
    in_chans: int = 3


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
        """Loads torchvision's (or timm's) ImageNet weights; the classifier stays new. More or fewer bands take the mean filter.

        Returns:
            The keys that stayed as they were.

        Raises:
            ValueError: not the weights of this network.
        """
        state = {
            k.removeprefix("module."): v for k, v in state.items() if not k.removeprefix("module.").startswith("fc.")
        }
        if "conv1.weight" not in state:
            raise ValueError("no weights of a ResNet: it has no conv1.weight")
        filters = state["conv1.weight"]
        if self.config.in_chans != filters.shape[1]:
            mean = filters.mean(1, keepdim=True) * (filters.shape[1] / self.config.in_chans)
            state["conv1.weight"] = mean.repeat(1, self.config.in_chans, 1, 1)
        try:
            missing, unexpected = self.net.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ValueError(
                f"not the weights of a ResNet-{self.config.depth}: {str(error).splitlines()[-1].strip()}"
            ) from None
        wrong = [k for k in missing if not k.startswith("fc.")] + unexpected
        if wrong:
            raise ValueError(f"not the weights of a ResNet-{self.config.depth}: {', '.join(wrong[:4])} …")
        return missing


FORMS: dict[str, type[nn.Module]] = {
    c.__name__: c for c in (Balanced12LayerCNN, Attention7LayerCNN, Baseline3LayerCNN, ResNetPeer)
}


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
    """A fresh network by its name in `recipes.NETWORKS`.

    Args:
        width: channels of the first stage, instead of the published 64 (balanced) or 32.
        depths: blocks a stage of the balanced network.
        drop: factor on the published rates of dropout and DropBlock, for narrow networks and few tiles.

    Raises:
        UserError: sizes that do not fit.
    """
    sizes: dict[str, Any] = {"num_classes": classes, "in_chans": bands}
    if drop != 1.0 and name in ("balanced", "cbam", "baseline"):
        sizes["dropout"] = drop * {"cbam": CBAMConfig, "baseline": BaselineConfig}.get(name, BalancedConfig).dropout
    if width is not None and not name.startswith("resnet"):
        sizes["width"] = width
    if name not in NETWORKS:
        raise UserError(f"unknown network {name!r}", f"one of {', '.join(NETWORKS)}")
    try:
        if name == "balanced":
            stages = tuple(depths or BalancedConfig.depths)
            sizes |= {"depths": stages, "drop_probs": tuple(drop * 0.05 * (i + 1) for i in range(len(stages)))}
            return Balanced12LayerCNN(BalancedConfig(**sizes))
        if name == "cbam":
            if tile_size < 64:
                raise UserError(f"the CBAM network needs tiles of at least 64 pixels, these have {tile_size}")
            return Attention7LayerCNN(CBAMConfig(**sizes))
        if name == "baseline":
            return Baseline3LayerCNN(BaselineConfig(**sizes, tile_size=tile_size))
        return ResNetPeer(ResNetConfig(depth=50 if name == "resnet50" else 18, **sizes))
    except ValueError as error:
        raise UserError(str(error)) from None


@dataclass(frozen=True)
class LandUseModel:
    """A network ready to predict, with its preprocessing and classes."""

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    tile_size: int
    provenance: Mapping[str, Any]
    path: Path | None = None

    @torch.inference_mode()
    def __call__(self, raw: Any, *, tta: bool = False) -> Tensor:
        """Class probabilities (tiles, classes) of raw tiles (tiles, bands, height, width); `tta` averages over the tile and its two mirror images."""
        device = next(self.network.parameters()).device
        x = self.preprocessing(torch.as_tensor(raw).to(device))
        views = [x, x.flip(3), x.flip(2)] if tta else [x]
        return torch.stack([self.network(v).float().softmax(1) for v in views]).mean(0).cpu()


def load(folder: Path | str, *, device: str = "cpu", fold: bool = True) -> LandUseModel:
    """Loads a model folder, batch norms folded into the convolutions for inference unless `fold` is off.

    Raises:
        UserError: none there, or not one of this group's models.
    """
    try:
        described = read_config(folder)
        form = FORMS.get(str(described.get("class")))
        if form is None:
            raise UserError(f"{folder} holds a {described.get('class')}, which is no land-use network", _MADE_BY)
        network = load_model(folder, form)
        network = folded(network) if fold else network
        told = described["preprocessing"]
        made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told["input"].items()}
        return LandUseModel(
            network.to(device).eval(),
            Preprocessing(**made),
            tuple(told["classes"]),
            int(told["tile_size"]),
            described.get("provenance", {}),
            Path(folder),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(str(error), _MADE_BY) from None


def pretrained(network: ResNetPeer, weights: Path) -> None:
    """Loads ImageNet weights from a local file.

    Raises:
        UserError: not such a file.
    """
    try:
        network.load_pretrained(read_official(weights))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{weights}: {error}", "give torchvision's or timm's file of ImageNet weights") from None
