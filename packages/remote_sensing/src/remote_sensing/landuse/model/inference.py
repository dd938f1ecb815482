"""A network with its preprocessing and classes: raw tiles in, probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core_runtime.terminal import track
from remote_sensing.landuse.scenes.bands import Preprocessing
from remote_sensing.landuse.scenes.tiles import LandUseTiles


@dataclass(frozen=True)
class LandUseModel:
    """A network ready to predict, with its preprocessing and classes.

    Attributes:
        tile_size: pixels of a tile's side.
        pixel_size: metres of a pixel's side in training; None where that is not known.
        provenance: how its weights came to be.
    """

    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    tile_size: int
    pixel_size: float | None
    provenance: Mapping[str, Any]
    path: Path | None = None

    @property
    def notice(self) -> str:
        """What must be said of every picture of this model; "" if nothing."""
        notice = self.provenance.get("notice", "")
        return notice if isinstance(notice, str) else ""

    @torch.inference_mode()
    def __call__(self, raw: Any, *, tta: bool = False) -> Tensor:
        """Class probabilities (tiles, classes) of raw tiles (tiles, bands, height, width); `tta` averages over the tile and its two mirror images."""
        device = next(self.network.parameters()).device
        x = self.preprocessing(torch.as_tensor(raw).to(device))
        views = [x, x.flip(3), x.flip(2)] if tta else [x]
        return torch.stack([self.network(v).float().softmax(1) for v in views]).mean(0).cpu()


def predict_tiles(
    model: LandUseModel, tiles: LandUseTiles, *, batch: int = 128, tta: bool = False, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Probabilities (tiles, classes) and labels (tiles,) of all tiles, in order."""
    loader = DataLoader(tiles, batch, num_workers=workers)
    probabilities, labels = [], []
    for part in track(loader, "Predicting", len(loader)):
        probabilities.append(model(part["image"], tta=tta))
        labels.append(part["label"])
    return torch.cat(probabilities), torch.cat(labels)
