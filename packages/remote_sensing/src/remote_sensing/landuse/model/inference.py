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
        pixel_size: metres of a pixel's side in training; None if it is not known.
        provenance: how its weights were made.
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
        """The notice that every picture of this model must carry; "" if there is none."""
        notice = self.provenance.get("notice", "")
        if not isinstance(notice, str):
            return ""
        return notice

    @torch.inference_mode()
    def __call__(self, raw: Any, *, tta: bool = False) -> Tensor:
        """Class probabilities (tiles, classes) of raw tiles (tiles, bands, height, width); `tta` averages over the tile and its two mirror images."""
        device = next(self.network.parameters()).device
        tiles = self.preprocessing(torch.as_tensor(raw).to(device))
        views = [tiles]
        if tta:
            views += [tiles.flip(3), tiles.flip(2)]
        probabilities = [self.network(view).float().softmax(1) for view in views]
        return torch.stack(probabilities).mean(0).cpu()


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
