"""Sentinel-2 bands as EuroSAT orders them, their statistics, and how tiles become what a network takes. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The order in the 13-band files of EuroSAT: B8A is last.
FILE_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
RGB_BANDS = ("B04", "B03", "B02")
RGB = ("R", "G", "B")
RGB_LIMIT = 2750.0  # the reflectance (× 10,000) that EuroSAT's pictures show as white

# Mean and standard deviation of the 13-band tiles, as torchgeo's data module uses them.
STATISTICS = {
    "B01": (1354.41, 245.72),
    "B02": (1118.24, 333.01),
    "B03": (1042.93, 395.09),
    "B04": (947.63, 593.75),
    "B05": (1199.47, 566.42),
    "B06": (1999.79, 861.18),
    "B07": (2369.22, 1086.63),
    "B08": (2296.83, 1117.98),
    "B09": (732.08, 404.92),
    "B10": (12.11, 4.78),
    "B11": (1819.01, 1002.59),
    "B12": (1118.92, 761.30),
    "B8A": (2594.14, 1231.59),
}
# ImageNet's, of RGB in [0, 1].
RGB_STATISTICS = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))


@dataclass(frozen=True)
class Preprocessing:
    """``(x · scale − mean) / std`` for each of `bands`.

    Attributes:
        bands: names in the order that the network takes; ("R", "G", "B") for 8-bit pictures.
        scale: 1/255 for pictures, 1 for reflectances.
    """

    bands: tuple[str, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_rgb(self) -> bool:
        return self.bands == RGB

    def __call__(self, tiles: Any) -> Any:
        """Tiles (…, bands, height, width) of any dtype as a float32 tensor."""
        import torch

        x = torch.as_tensor(tiles).float() * self.scale
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return (x - mean) / std

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def preprocessing(bands: Sequence[str]) -> Preprocessing:
    """The published preprocessing of pictures, or torchgeo's of reflectances.

    Raises:
        ValueError: an unknown band.
    """
    names = tuple(bands)
    if names == RGB:
        mean, std = zip(*RGB_STATISTICS, strict=True)
        return Preprocessing(RGB, 1 / 255, mean, std)
    unknown = [b for b in names if b not in STATISTICS]
    if unknown or not names:
        raise ValueError(f"unknown bands {', '.join(unknown) or '(none)'}: known are {', '.join(FILE_ORDER)}")
    mean, std = zip(*(STATISTICS[b] for b in names), strict=True)
    return Preprocessing(names, 1.0, mean, std)


def picture(reflectance: Any) -> Any:
    """Bands 4, 3, 2 as EuroSAT's 8-bit picture: 0 … 2750 becomes 1 … 255, clipped.

    Args:
        reflectance: array (…, 3, height, width), reflectance × 10,000.
    """
    import numpy as np

    scaled = 1 + np.asarray(reflectance, np.float32) * (254 / RGB_LIMIT)
    return np.clip(np.rint(scaled), 1, 255).astype(np.uint8)


def natural_colours(raw: NDArray, bands: Sequence[str]) -> NDArray:
    """A raw tile or scene window (bands, height, width) as an 8-bit picture (height, width, 3)."""
    names = list(bands)
    if tuple(names) == RGB:
        return raw.astype("uint8").transpose(1, 2, 0)
    order = [names.index(band) for band in RGB_BANDS if band in names]
    if len(order) < 3:
        order = [0, 0, 0]
    return picture(raw[order]).transpose(1, 2, 0)


_IN_A_NAME = re.compile(r"(?<![A-Za-z0-9])(B(?:0[1-9]|1[0-2]|8A))(?![A-Za-z0-9])", re.IGNORECASE)


def band_of(text: str, *, in_a_name: bool = False) -> str | None:
    """The Sentinel-2 band that a description or a file's name speaks of, or None."""
    match = _IN_A_NAME.search(text.replace("_", " "))
    return match[1].upper() if match else None
