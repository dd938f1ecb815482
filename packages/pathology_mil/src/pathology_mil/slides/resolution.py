"""The size of a pixel: as written into a file by scanners and converters, as stated by the user, and as a magnification."""

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from core_runtime.errors import UserError


@dataclass(frozen=True)
class Resolution:
    """The resolution of level 0.

    Args:
        mpp: micrometres per pixel, or None where the file does not state it.
        source: where it was found (a property of the file, or "given").
        axes: µm per pixel along x and y, where the file states that pixels are not square; `mpp` is then None.
        conflict: the values of a file that states two of them; `mpp` is then None.
    """

    mpp: float | None
    source: str
    axes: tuple[float, float] | None = None
    conflict: str = ""


_SQUARE = 0.1  # sides of a pixel that differ by less are averaged, and values of two places are the same
_FINEST = 0.02  # µm per pixel: no light microscope samples more finely, so that a smaller number is no measurement
_MICROMETRES = {
    "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0, "thou": 25.4,
}  # fmt: skip


def number(text: object) -> float | None:
    """A positive finite number, perhaps with a decimal comma; None where a property holds anything else."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    if not math.isfinite(value) or value <= 0:
        return None
    return value


def _hamamatsu(value: float) -> float:
    """hamamatsu.XResolution is in µm/px, nm/px or px/cm, without saying so; the magnitudes do not overlap."""
    if value < 10:
        return value
    if value < 5000:
        return value / 1000
    return 10_000 / value


def _tiff(properties: Mapping[str, str]) -> float | None:
    per_unit = number(properties.get("tiff.XResolution"))
    unit = {"centimeter": 10_000.0, "inch": 25_400.0}.get(properties.get("tiff.ResolutionUnit", ""))
    if per_unit is None or unit is None:
        return None
    mpp = unit / per_unit
    if not _FINEST <= mpp <= 10:  # 72 or 300 dpi: written by an image editor, not measured by a scanner
        return None
    return mpp


def _of_axes(x: float, y: float | None, source: str) -> Resolution:
    """The mean of both sides of a pixel; no resolution where they differ, since the pixel is not square."""
    if y is None:
        return Resolution(x, source)
    if abs(x - y) > _SQUARE * max(x, y):
        return Resolution(None, source, (x, y))
    return Resolution((x + y) / 2, source)


def _ome_size(properties: Mapping[str, str], axis: str) -> float | None:
    """µm per pixel as stated in the OME-XML of a TIFF's description; µm where it names no unit."""
    text = properties.get("tiff.ImageDescription") or properties.get("openslide.comment") or ""
    if "OME" not in text:
        return None
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    if pixels is None:
        return None
    # XML allows both kinds of quotes
    attributes = {name: value for name, _, value in re.findall(r"""\b(\w+)\s*=\s*(["'])(.*?)\2""", pixels.group())}
    if f"PhysicalSize{axis}" not in attributes:
        return None
    unit = html.unescape(attributes.get(f"PhysicalSize{axis}Unit", "µm"))  # a µ may be written as &#181;
    factor = _MICROMETRES.get(unit)
    value = number(attributes[f"PhysicalSize{axis}"])
    if value is None or factor is None:
        return None
    return value * factor


def resolution(properties: Mapping[str, str], *, mpp: float | None = None, mpp_keys: Iterable[str] = ()) -> Resolution:
    """The resolution of a slide, from the first of the places where scanners and converters write it.

    The order: the user's value, `openslide.mpp-x/-y`, OME's `PhysicalSizeX/-Y`, `openslide.mirax.MPP`, `aperio.MPP`, `hamamatsu.XResolution`, a numeric
    `openslide.comment`, `mpp_keys`, the TIFF resolution, and the objective power (mpp = 10 / magnification).
    """
    if mpp is not None:
        if not (math.isfinite(mpp) and mpp > 0):
            raise UserError(f"a slide's resolution must be a positive number of µm per pixel, got {mpp}")
        return Resolution(float(mpp), "given")
    x, y = number(properties.get("openslide.mpp-x")), number(properties.get("openslide.mpp-y"))
    ome_x, ome_y = _ome_size(properties, "X"), _ome_size(properties, "Y")
    if (
        x is not None and _FINEST <= x <= 10
    ):  # OpenSlide also takes it from the TIFF resolution, which may be an editor's dpi
        if ome_x is not None and abs(x - ome_x) > _SQUARE * max(x, ome_x):
            return Resolution(None, "two values", conflict=f"{x:g} µm per pixel (TIFF) and {ome_x:g} (OME-XML)")
        return _of_axes(x, y, "openslide.mpp-x")
    if ome_x is not None and ome_x >= _FINEST:
        return _of_axes(ome_x, ome_y, "OME PhysicalSizeX")
    plain: list[tuple[str, Callable[[float], float]]] = [
        ("openslide.mirax.MPP", float),
        ("aperio.MPP", float),
        ("hamamatsu.XResolution", _hamamatsu),
        ("openslide.comment", float),
    ]
    for key in mpp_keys:
        plain.append((key, float))
    for key, convert in plain:
        if (value := number(properties.get(key))) is not None and convert(value) >= _FINEST:
            return Resolution(convert(value), key)
    if (value := _tiff(properties)) is not None:
        return Resolution(value, "tiff.XResolution")
    # last, since an objective's nominal power is the least exact: 40× scanners have 0.22 to 0.27 µm per pixel
    for key in ("openslide.objective-power", "aperio.AppMag"):
        if (value := number(properties.get(key))) is not None:
            return Resolution(10 / value, key)
    return Resolution(None, "not recorded")


def odd_objective(properties: Mapping[str, str], mpp: float) -> float | None:
    """The objective power that a file states, where it does not go with its resolution: files that were shrunk keep that of the scan."""
    for key in ("openslide.objective-power", "aperio.AppMag"):
        power = number(properties.get(key))
        if power is not None and not 0.6 < mpp * power / 10 < 1.6:
            return power
    return None


def magnification(mpp: float) -> int:
    """The nominal magnification of a resolution in µm/px: what scanners call 20×, 40×, …

    Raises:
        UserError: above 2.4 µm/px, where no objective is in use.
    """
    for limit, mag in ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5)):
        if mpp < limit:
            return mag
    raise UserError(
        f"{mpp:g} µm per pixel is coarser than any objective (5× is below 2.4)", "use --mpp instead of --mag"
    )
