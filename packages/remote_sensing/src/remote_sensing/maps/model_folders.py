"""A trained MapSAM with what it needs to be used on a sheet: classes, the size of a tile in sheet pixels, channel order, temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core_attention.checkpoints.folders import load_model, read_config, save_model
from core_runtime.errors import UserError
from remote_sensing.maps.mapsam import MapSAM

MADE_BY = "'remote-sensing maps train' makes a model folder, 'remote-sensing maps models convert' one of SAM's and an adapter's files"
# Colours of the classes 1, 2, … on pictures and in colour tables.
COLOURS = (
    (220, 40, 40),
    (40, 110, 230),
    (30, 160, 80),
    (230, 150, 20),
    (150, 60, 190),
    (20, 170, 180),
    (200, 90, 130),
    (110, 110, 20),
)


@dataclass(frozen=True)
class SheetModel:
    """A network ready for sheets.

    Attributes:
        classes: names of the foreground classes.
        side: pixels of a sheet that one tile of the network shows (224 as published, enlarged to 512).
        channel_order: "bgr" for networks of the official code, which reads pictures so.
        temperature: logits are divided by it, as fitted on validation tiles.
    """

    network: MapSAM
    classes: tuple[str, ...]
    side: int
    channel_order: Literal["rgb", "bgr"] = "rgb"
    temperature: float = 1.0
    provenance: Mapping[str, Any] | None = None
    precision: str = "32-true"

    def prepared(self, rgb: Tensor) -> Tensor:
        """8-bit RGB tiles (b, 3, h, w) as the network takes them (b, 3, S, S)."""
        return prepared(rgb, self.network.config.image_size, self.channel_order)

    @torch.inference_mode()
    def logits(self, rgb: Tensor) -> Tensor:
        """Calibrated mask logits (b, K, h, w) of 8-bit RGB tiles (b, 3, h, w), h and w as given."""
        device = next(self.network.parameters()).device
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            made = self.network(self.prepared(rgb.to(device)))
        full = F.interpolate(made.logits.float(), tuple(rgb.shape[2:]), mode="bilinear", align_corners=False)
        return (full / self.temperature).cpu()


def prepared(rgb: Tensor, size: int, channel_order: str) -> Tensor:
    """8-bit tiles as [0, 1], in the channel order of the network, resized once."""
    x = rgb.float() / 255
    x = x.flip(1) if channel_order == "bgr" else x
    return x if x.shape[2:] == (size, size) else F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def save(model: SheetModel, folder: Path, provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder."""
    told = {
        "classes": list(model.classes),
        "side": model.side,
        "channel_order": model.channel_order,
        "temperature": model.temperature,
    }
    return save_model(model.network, folder, preprocessing=told, provenance=dict(provenance))


def load(folder: Path | str, *, device: str = "cpu", precision: str = "32-true", merge: bool = True) -> SheetModel:
    """Loads a model folder, adapters merged for inference.

    Raises:
        UserError: none there, or another kind of model.
    """
    try:
        told = read_config(folder)
        network = load_model(folder, MapSAM)
        about = told["preprocessing"]
        model = SheetModel(
            network,
            tuple(about["classes"]),
            int(about["side"]),
            about["channel_order"],
            float(about["temperature"]),
            told.get("provenance", {}),
            precision,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(str(error), MADE_BY) from None
    if merge:
        network.merged()
    network.to(device).eval()
    return replace(model, network=network)


def chosen(model: str | None) -> Path:
    """The model folder asked for.

    Raises:
        UserError: none was; says which exist and how to get one.
    """
    if model is None:
        near = sorted(str(p.parent) for p in Path().glob("*/model/config.json"))
        raise UserError("no --model was given", f"here are: {', '.join(near)}" if near else MADE_BY)
    return Path(model)
