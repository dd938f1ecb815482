"""A trained MapSAM with everything needed to use it on a sheet: classes, the size of a tile in sheet pixels, channel order, temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core_attention.checkpoints.folders import find_folder, load_model, read_config, save_model
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from remote_sensing.maps.model.mapsam import MapSAM

ADVICE = (
    "'remote-sensing maps train' makes a model folder, "
    "'remote-sensing maps models convert' one of SAM's and an adapter's files"
)


@dataclass(frozen=True)
class SheetModel:
    """A network ready for sheets.

    Attributes:
        classes: names of the foreground classes.
        side: pixels of a sheet that one tile of the network shows (224 as published, enlarged to 512).
        channel_order: "bgr" for networks of the official code, which reads pictures in this order.
        temperature: logits are divided by it, as fitted on validation tiles.
        provenance: what it was made from.
    """

    network: MapSAM
    classes: tuple[str, ...]
    side: int
    channel_order: Literal["rgb", "bgr"] = "rgb"
    temperature: float = 1.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "32-true"

    @property
    def notice(self) -> str:
        """The notice that its pictures must carry, such as "trained on drawings only"; "" if there is none."""
        notice = self.provenance.get("notice")
        if not isinstance(notice, str):
            return ""
        return notice

    @property
    def known_tiles(self) -> set[str]:
        """Digests of the tiles that it was trained on, or selected by."""
        known: set[str] = set()
        for part in ("trained_on", "validated_on"):
            described = self.provenance.get(part)
            digests = None
            if isinstance(described, Mapping):
                digests = described.get("digests")
            if isinstance(digests, list):
                known.update(map(str, digests))
        return known

    @torch.inference_mode()
    def logits(self, rgb: Tensor) -> Tensor:
        """Calibrated mask logits (b, K, h, w) of 8-bit RGB tiles (b, 3, h, w), h and w as given."""
        device = next(self.network.parameters()).device
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
            output = self.network(prepare(rgb.to(device), self.network.config.image_size, self.channel_order))
        # back to the tile's own pixels before the temperature: the sheet is assembled from logits
        full = F.interpolate(output.logits.float(), tuple(rgb.shape[2:]), mode="bilinear", align_corners=False)
        return (full / self.temperature).cpu()


def prepare(rgb: Tensor, size: int, channel_order: str) -> Tensor:
    """8-bit RGB tiles (b, 3, h, w) as the network's input (b, 3, size, size): in [0, 1], in its channel order, resized once."""
    x = rgb.float() / 255
    if channel_order == "bgr":
        x = x.flip(1)
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def save(model: SheetModel, folder: Path) -> Path:
    """Writes a model folder."""
    preprocessing = {
        "classes": list(model.classes),
        "side": model.side,
        "channel_order": model.channel_order,
        "temperature": model.temperature,
    }
    return seal(save_model(model.network, folder, preprocessing=preprocessing, provenance=dict(model.provenance)))


def find_model(model: str | None) -> Path:
    """The folder of ``--model``: a folder here, or one from the hub.

    Raises:
        UserError: none was given, or it does not exist.
    """
    name = choose_model(model, advice=ADVICE)
    try:
        return find_folder(name)
    except (OSError, ValueError) as error:
        raise UserError(shorten(str(error)), ADVICE) from None


def load(model: Path | str | None, *, device: str = "cpu", precision: str = "32-true") -> SheetModel:
    """Loads the model of ``--model``, with the adapters merged for inference.

    Raises:
        UserError: none was given, it does not exist, or it is another kind of model.
    """
    if model is not None:
        model = str(model)
    folder = find_model(model)
    where = folder / "config.json"
    try:
        config = read_config(folder)
        network = load_model(folder, MapSAM)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(shorten(str(error)), ADVICE) from None
    check_names(config, "preprocessing", ("classes", "side", "channel_order", "temperature"), where=where, hint=ADVICE)
    channel_order = read_field(config, "preprocessing.channel_order", str, where=where, hint=ADVICE)
    if channel_order not in ("rgb", "bgr"):
        raise UserError(f"{where}: preprocessing.channel_order is {channel_order!r}, expected rgb or bgr", ADVICE)
    classes = tuple(read_names(config, "preprocessing.classes", where=where, hint=ADVICE))
    if len(classes) != network.config.num_classes:
        raise UserError(
            f"{where}: preprocessing.classes names {len(classes)} classes, the network has {network.config.num_classes}",
            ADVICE,
        )
    loaded = SheetModel(
        network.merged().to(device).eval(),
        classes,
        read_field(config, "preprocessing.side", int, where=where, low=8, high=65536, hint=ADVICE),
        channel_order,
        read_field(config, "preprocessing.temperature", float, where=where, low=1e-3, high=1e3, hint=ADVICE),
        read_field(config, "provenance", dict, where=where, hint=ADVICE),
        precision,
    )
    warn_if_changed(config, folder)
    return loaded
