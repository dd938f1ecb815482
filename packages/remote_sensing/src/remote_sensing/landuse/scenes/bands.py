"""Sentinel-2 bands as EuroSAT orders them, their statistics, and how tiles become a network's input. Imports nothing heavy."""

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
RGB_LIMIT = 2750.0  # the reflectance (× 10,000) that is white in EuroSAT's pictures

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
    unknown = [band for band in names if band not in STATISTICS]
    if unknown or not names:
        raise ValueError(f"unknown bands {', '.join(unknown) or '(none)'}: known are {', '.join(FILE_ORDER)}")
    mean, std = zip(*(STATISTICS[band] for band in names), strict=True)
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
    if len(order) < 3:  # without the three colours: the first band in grey
        order = [0, 0, 0]
    return picture(raw[order]).transpose(1, 2, 0)


# B4, B04, b8a, Band 4, S2_B4, "B4, central wavelength 665 nm"
_NUMBERED = re.compile(r"(?<![A-Za-z0-9])b(?:and)?[ .-]?(0?[1-9]a?|1[0-2])(?![A-Za-z0-9])", re.IGNORECASE)
# Landsat's and other sensors' names: their B4 is another band.
_OTHER_SENSORS = re.compile(r"(?<![A-Za-z0-9])(?:sr|st|sur refl|l[cetmo]0?\d) b|^l[cetmo]0\d ", re.IGNORECASE)
# Names without numbers: STAC's common names, and those of products and textbooks.
_COMMON_NAMES = {
    "coastal": "B01",
    "coastalaerosol": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge071": "B05",
    "vegetationrededge1": "B05",
    "rededge2": "B06",
    "rededge075": "B06",
    "vegetationrededge2": "B06",
    "rededge3": "B07",
    "rededge078": "B07",
    "vegetationrededge3": "B07",
    "nir": "B08",
    "nearinfrared": "B08",
    "rededge4": "B8A",
    "nir08": "B8A",
    "nirnarrow": "B8A",
    "narrownir": "B8A",
    "nir09": "B09",
    "watervapour": "B09",
    "watervapor": "B09",
    "cirrus": "B10",
    "swircirrus": "B10",
    "swir1": "B11",
    "swir16": "B11",
    "swir2": "B12",
    "swir22": "B12",
}


def band_of(text: str) -> str | None:
    """The Sentinel-2 band that a description names, in any common spelling; None if it names none, or several."""
    # without wavelengths and brackets, whose numbers are not those of bands
    plain = re.sub(r"\([^)]*\)|\d+(?:\.\d+)?\s*nm\b", " ", text.replace("_", " ")).strip()
    if _OTHER_SENSORS.search(plain):
        return None
    numbers = {match.upper().lstrip("0") for match in _NUMBERED.findall(plain)}
    if len(numbers) > 1:
        return None
    if numbers:
        number = numbers.pop()
        if number.endswith("A"):
            return "B8A" if number == "8A" else None  # there is no other band with a letter
        return f"B{int(number):02}"
    return _COMMON_NAMES.get(re.sub(r"[^a-z0-9]", "", plain.lower()))


def band_of_file(stem: str) -> str | None:
    """The band in a file's name without ending, in Sentinel's own spelling: B02, T32TMT_20220801T101559_B8A_20m."""
    match = re.search(r"(?<![A-Za-z0-9])(B(?:0[1-9]|1[0-2]|8A))(?![A-Za-z0-9])", stem.replace("_", " "), re.IGNORECASE)
    if match is None:
        return None
    return match[1].upper()


def stretched(pixels: NDArray, valid: NDArray) -> NDArray:
    """An 8-bit picture (bands, height, width) in which the 2nd percentile of each band is black and the 98th white.

    Args:
        pixels: of any range.
        valid: (height, width), the pixels that count.
    """
    import numpy as np

    shown = np.zeros(pixels.shape, np.uint8)
    if not valid.any():
        return shown
    for band, layer in zip(shown, np.asarray(pixels, np.float32), strict=True):
        low, high = np.percentile(layer[valid], (2, 98))
        scaled = (layer - low) * (255 / max(float(high - low), 1e-6))
        band[...] = np.where(valid, np.clip(np.rint(scaled), 0, 255), 0)
    return shown
