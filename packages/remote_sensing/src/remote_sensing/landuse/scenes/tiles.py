"""Labelled tiles one by one, in torchgeo's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from remote_sensing.landuse.scenes.bands import RGB, RGB_BANDS
from remote_sensing.landuse.scenes.layouts import TileSet


class LandUseTiles(Dataset):
    """Tiles in torchgeo's form: ``{"image": float32 (bands, height, width), "label": int64}``, pixel values as in the files.

    Args:
        store: memory map (tiles, bands, height, width).
        tiles: their files and labels.
        numbers: a selection of them, in order; default: all.
        bands: a subset by name, in the requested order (of 13-band tiles).
    """

    def __init__(
        self,
        store: NDArray,
        tiles: TileSet,
        numbers: Sequence[int] | None = None,
        *,
        bands: Sequence[str] | None = None,
    ) -> None:
        self.store, self.tiles = store, tiles
        self.numbers = list(range(len(tiles.files)) if numbers is None else numbers)
        self.bands = tuple(bands or tiles.bands)
        unknown = [band for band in self.bands if band not in tiles.bands]
        if unknown:
            raise ValueError(f"the tiles have the bands {', '.join(tiles.bands)}, not {', '.join(unknown)}")
        self.channels: list[int] | None = None  # all of them, in the file's order
        if self.bands != tiles.bands:
            self.channels = [tiles.bands.index(band) for band in self.bands]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self.numbers[index]
        raw = self.store[number]
        if self.channels is not None:
            raw = raw[self.channels]
        image = torch.from_numpy(raw.astype("float32"))
        return {"image": image, "label": torch.tensor(self.tiles.labels[number])}

    def plot(self, sample: dict[str, Any], title: str = "") -> Any:
        """A matplotlib figure of a sample in natural colours (reflectances from 0 to 3000, as torchgeo shows them)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3, 3.2), layout="constrained")
        axes = figure.subplots()
        image = sample["image"]
        if self.bands == RGB:
            colours = image / 255
        else:
            order = [self.bands.index(band) for band in RGB_BANDS if band in self.bands] or [0, 0, 0]  # else grey
            colours = (image[order] / 3000).clamp(0, 1)
        axes.imshow(colours.permute(1, 2, 0).numpy())
        axes.set_axis_off()
        axes.set_title(title or self.tiles.classes[int(sample["label"])], fontsize=9)
        return figure
