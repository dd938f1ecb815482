"""What stands out of a picture (Itti, Koch and Niebur 1998): centre against surround in intensity, colour and orientation."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from core_runtime.errors import UserError
from core_runtime.pictures import open_picture

_CENTRES, _DELTAS = (2, 3, 4), (3, 4)  # levels of the pyramid, and how much coarser the surround is
_LONGEST = 480  # pixels of a picture's longer side: finer detail does not stand out of a whole display
_ORIENTATIONS = np.radians([0, 45, 90, 135])


def saliency_map(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of a picture (height, width, 3) between 0 and 1: a map of a quarter of its height and width, between 0 and 1."""
    red, green, blue = (image[..., channel].astype(np.float64) for channel in range(3))
    intensity = (red + green + blue) / 3
    # hue is meaningful only where it is bright enough
    safe = np.where(intensity > intensity.max() / 10, intensity, np.inf)
    red, green, blue = red / safe, green / safe, blue / safe
    yellow = (red + green) / 2 - np.abs(red - green) / 2 - blue
    opponents = [
        (red - (green + blue) / 2).clip(0) - (green - (red + blue) / 2).clip(0),
        (blue - (red + green) / 2).clip(0) - yellow.clip(0),
    ]
    channels = [[intensity], opponents, _oriented(intensity)]
    conspicuity = []
    for maps in channels:
        total = sum(_centre_surround(feature) for feature in maps)
        conspicuity.append(_promote_peaks(np.asarray(total)))
    combined = np.mean(conspicuity, axis=0)
    span = combined.max() - combined.min()
    return (combined - combined.min()) / (span if span > 0 else 1)


def _oriented(intensity: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Edges along four orientations."""
    smooth = ndimage.gaussian_filter(intensity, 1)
    vertical, horizontal = ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)
    return [np.abs(np.cos(angle) * horizontal + np.sin(angle) * vertical) for angle in _ORIENTATIONS]


def _centre_surround(feature: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences between fine and coarse levels of a Gaussian pyramid, at a quarter of the size."""
    quarter = ndimage.gaussian_filter(feature, 2)[::4, ::4]
    # a level of the pyramid is a blur of that many octaves; all levels are compared at the size of the coarsest needed
    levels = {*_CENTRES, *(centre + delta for centre in _CENTRES for delta in _DELTAS)}
    blurred = {level: ndimage.gaussian_filter(quarter, 2.0 ** (level - 2)) for level in levels}
    total = np.zeros_like(quarter)
    for centre in _CENTRES:
        for delta in _DELTAS:
            total += _promote_peaks(np.abs(blurred[centre] - blurred[centre + delta]))
    return total


def _promote_peaks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map with one strong peak is promoted, one with many equal peaks suppressed: times (largest - mean of the other peaks)²."""
    span = values.max() - values.min()
    if span <= 0:
        return np.zeros_like(values)
    values = (values - values.min()) / span
    peaks = values[(ndimage.maximum_filter(values, 7) == values) & (values > 0.1)]
    others = peaks[peaks < 1]
    mean = 0.0
    if len(others):
        mean = others.mean()
    return values * (1 - mean) ** 2


def object_saliency(picture: Path, boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(objects,): the largest saliency within each box, between 0 and 1.

    Args:
        picture: the file.
        boxes: (objects, 4) with left, top, width and height, in pixels of the display.
        size: width and height of the display, in pixels.

    Raises:
        UserError: the picture cannot be read.
    """
    if not picture.is_file():
        raise UserError(f"no such picture: {picture}")
    saliency = _of_picture(picture, picture.stat().st_mtime_ns)
    height, width = saliency.shape
    scaled = boxes * np.tile([width / size[0], height / size[1]], 2)
    result = np.zeros(len(boxes))
    for i, (left, top, across, down) in enumerate(scaled):
        rows = slice(max(0, int(top)), max(1, int(np.ceil(top + down))))
        columns = slice(max(0, int(left)), max(1, int(np.ceil(left + across))))
        part = saliency[rows, columns]
        result[i] = part.max() if part.size else 0.0
    return result


@lru_cache(256)
def _of_picture(picture: Path, changed: int) -> NDArray[np.float64]:
    """The map of a file; `changed` is the time of its last change."""
    image = open_picture(picture).image
    image.thumbnail((_LONGEST, _LONGEST))
    pixels = np.asarray(image, np.float32) / 255
    return saliency_map(pixels)
