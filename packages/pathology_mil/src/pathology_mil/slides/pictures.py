"""The kind of picture that a slide is, from its thumbnail: stained tissue in bright light, or a picture that the tissue filter was not made for."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology_mil.slides.reading import RGB

BRIGHTFIELD, IHC, GREY, DARK = (
    "brightfield (H&E-like)",
    "brightfield with DAB (IHC)",
    "grey, one channel",
    "dark background",
)
_TISSUE_SATURATION = 25
_GLASS_VALUE = 215
_BROWN = (5, 25)  # hue of DAB, of 180


def picture_kind(thumbnail: RGB) -> str:
    """One of the names above."""
    hue, saturation, value = cv2.split(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV))
    # Dark pictures first: a fluorescent slide may have any colours.
    if np.median(value) < 60 and np.mean(value > 170) < 0.05:
        return DARK
    spread = thumbnail.max(axis=-1).astype(int) - thumbnail.min(axis=-1)
    if np.mean(spread > 8) < 0.001:  # JPEG gives even grey pictures a little colour
        return GREY
    stained = saturation > _TISSUE_SATURATION
    brown = stained & (hue >= _BROWN[0]) & (hue <= _BROWN[1]) & (value < 190) & (saturation > 60)
    if np.count_nonzero(brown) > 0.05 * max(1, np.count_nonzero(stained)):
        return IHC
    return BRIGHTFIELD


def shows_glass(picture: RGB) -> NDArray[np.bool_]:
    """The pixels of a picture that are bright and without colour, as bare glass is."""
    _, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
    return (saturation <= _TISSUE_SATURATION) & (value >= _GLASS_VALUE)


def advice(kind: str) -> str:
    """What a user should know about such a picture; empty for pictures that the tissue filter was made for."""
    if kind == DARK:
        return "the background is dark: fluorescence, or not a slide; tissue cannot be found by its stain"
    if kind == GREY:
        return "the picture has no colour: tissue cannot be found by its saturation (--tissue otsu uses the brightness)"
    return ""
