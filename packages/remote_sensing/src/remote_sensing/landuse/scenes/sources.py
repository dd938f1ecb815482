"""The bands of a file of reflectances, and the meaning of their values.

Reflectances are given as Sentinel-2 products have them since 2015, × 10,000 and without offset, in whatever form the files hold them: with their
own scale and offset, or as values of 0 to 1. Values of unclear meaning are refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from core_runtime.errors import UserError
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, RGB_BANDS, band_of
from remote_sensing.rasters import UNREADABLE

UNIT = 10_000.0  # the value of a reflectance of 1 here
DARKEST = 1000  # × 10,000: some water, shadow or leaf is darker in some band of almost every scene
LEAST = -0.1 * UNIT  # no surface reflects less


@dataclass(frozen=True)
class Source:
    """One band of a scene, whose pixels are ``value · scale + offset``.

    Attributes:
        file: opened.
        index: of the band in it, from 1.
        zero_is_empty: whether the value 0 means "no data", as in Sentinel-2 products.
        is_reflectance: False for the bands of an 8-bit picture.
    """

    file: Any
    index: int
    scale: float = 1.0
    offset: float = 0.0
    zero_is_empty: bool = False
    is_reflectance: bool = True


def sources_of(
    file: Any, path: Path, bands: Sequence[str] | None, quantification: float | None, warnings: list[str]
) -> dict[str, Source]:
    """The bands of one file, according to its own description.

    Args:
        file: as rasterio opened it.
        path: of the file.
        bands: names of its bands in order, if it does not state them.
        quantification: the value that stands for a reflectance of 1; if None, taken from the file.
        warnings: what the user should know is added.

    Raises:
        UserError: bands or values that are not understood.
    """
    indices = [i for i, colour in enumerate(file.colorinterp) if colour != ColorInterp.alpha]
    if bands is not None:
        names = _given_names(bands, len(indices), path)
    else:
        names = _names_of(file, indices, path, warnings)
    named = {name: index for name, index in zip(names, indices, strict=True) if name}
    # 8-bit bands called B04, B03, B02 are a rendered picture, not reflectances
    if file.dtypes[0] == "uint8" and set(named) == set(RGB_BANDS) and quantification is None:
        named = {"R": named["B04"], "G": named["B03"], "B": named["B02"]}
    if tuple(named) == RGB:
        if file.dtypes[0] != "uint8":
            raise UserError(f"{path}: R, G, B must be 8-bit pictures, these values are {file.dtypes[0]}")
        return {name: Source(file, index + 1, is_reflectance=False) for name, index in named.items()}
    scale = reflectance_scale(file, list(named.values()), path, quantification, warnings)
    sources = {}
    for name, i in named.items():
        sources[name] = Source(file, i + 1, file.scales[i] * scale, file.offsets[i] * scale)
    return sources


def _given_names(bands: Sequence[str], count: int, path: Path) -> list[str]:
    if len(bands) != count:
        raise UserError(f"{path} has {count} bands, {len(bands)} names were given", "name every band with --bands")
    names = []
    for name in bands:
        if name.upper() in RGB:
            names.append(name.upper())
        else:
            names.append(band_of(name) or "")
    unknown = [name for name, band in zip(bands, names, strict=True) if not band]
    if unknown:
        raise UserError(f"--bands: {', '.join(unknown)} is not a band of Sentinel-2", f"known: {', '.join(FILE_ORDER)}")
    _refuse_twice(names, path)
    return names


def _names_of(file: Any, indices: Sequence[int], path: Path, warnings: list[str]) -> list[str]:
    """A name for each band, "" for one that is not a band of Sentinel-2."""
    descriptions = [file.descriptions[i] or "" for i in indices]
    if any(descriptions):
        names = [band_of(text) or "" for text in descriptions]
        if not any(names):
            raise UserError(
                f"{path}: its bands are called {', '.join(map(repr, descriptions[:4]))} …, which is not understood",
                "name them in the order of the file: --bands B02,B03,B04,B08",
            )
        others = [text or "(no name)" for text, name in zip(descriptions, names, strict=True) if not name]
        if others:
            warnings.append(f"{len(others)} bands are not used: {', '.join(others[:6])}")
        _refuse_twice([name for name in names if name], path)
        return names
    if len(indices) == len(RGB) and file.dtypes[0] == "uint8":
        # a picture's bands may be in another order than R, G, B, as the file says by their colours
        name_of = {ColorInterp.red: "R", ColorInterp.green: "G", ColorInterp.blue: "B"}
        colours = [file.colorinterp[i] for i in indices]
        if set(colours) == set(name_of):
            return [name_of[colour] for colour in colours]
        return list(RGB)
    if len(indices) == len(FILE_ORDER):
        warnings.append(
            "the file does not name its bands: EuroSAT's order is assumed (B8A last); --bands gives another"
        )
        return list(FILE_ORDER)
    raise UserError(
        f"{path} has {len(indices)} bands of {file.dtypes[0]} without names",
        "name them in the order of the file: --bands B02,B03,B04,B08",
    )


def _refuse_twice(names: Sequence[str], path: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            hint = "name each in the order of the file: --bands B02,B03,B04,B08"
            raise UserError(f"{path}: two bands are called {name}", hint)


def reflectance_scale(
    file: Any, indices: Sequence[int], path: Path, quantification: float | None, warnings: list[str]
) -> float:
    """The factor from the file's values (after its own scale and offset) to reflectance × 10,000.

    Raises:
        UserError: the values cannot be reflectances of 0 to 1, nor these × 10,000.
    """
    if quantification is not None:
        return UNIT / quantification
    hint = "--quantification gives the value that stands for a reflectance of 1"
    for i in indices:
        if not file.scales[i] > 0:
            raise UserError(f"{path}: band {i + 1} has the scale {file.scales[i]:g}, which gives no reflectances", hint)
    if all(file.dtypes[i] in ("uint8", "int8") for i in indices):
        raise UserError(f"{path}: {len(indices)} bands of 8-bit values are not reflectances", hint)
    # not the maximum: a few saturated pixels must not decide
    samples = _sample(file, indices)
    highest = {i: float(np.percentile(values, 99.9)) for i, values in samples.items() if len(values)}
    if not highest:
        return 1.0  # only missing data, which is reported when the scene is read
    empty = [file.descriptions[i] or str(i + 1) for i in indices if i not in highest]
    if empty:
        warnings.append(f"the bands {', '.join(empty)} hold nothing but zeros or missing data")
    high = float(np.percentile(np.concatenate(list(samples.values())), 99.9))
    is_whole = file.dtypes[indices[0]].startswith(("int", "uint")) and file.scales[indices[0]] == 1
    if high > 100 and high <= 30_000:
        scale = 1.0
        small = [file.descriptions[i] or str(i + 1) for i, value in highest.items() if value <= 2]
        if small and not is_whole:
            raise UserError(
                f"{path}: values of different units: up to {high:g}, but the bands {', '.join(small)} up to 2", hint
            )
    elif high <= 2 and not is_whole:
        warnings.append("reflectances of 0 to 1 are taken × 10,000")
        scale = UNIT
    elif high <= 100 and is_whole:  # a dark scene
        scale = 1.0
    else:
        raise UserError(f"{path}: values up to {high:g} are neither reflectances of 0 to 1 nor these × 10,000", hint)
    everything = np.concatenate(list(samples.values())) * scale
    below = float(np.mean(everything < LEAST))
    if below:
        warnings.append(
            f"{below:.0%} of the values are below a reflectance of −0.1, which no surface has: taken as missing data"
        )
    darkest = min(float(np.percentile(values, 1)) for values in samples.values() if len(values)) * scale
    if darkest >= DARKEST:
        warnings.append(
            "nothing is darker than a reflectance of 0.1: products since January 2022 have 1000 added, "
            "which 'gdal_edit.py -offset -1000' declares"
        )
    return scale


def _sample(file: Any, indices: Sequence[int], windows: int = 4, side: int = 64) -> dict[int, NDArray[np.float64]]:
    """Each band's values from windows spread over a file, with its own scale and offset; without missing ones and zeros."""
    values: dict[int, list[NDArray]] = {i: [] for i in indices}
    bands = [i + 1 for i in indices]
    for row in range(windows):
        for column in range(windows):
            top = int((file.height - min(side, file.height)) * row / max(windows - 1, 1))
            left = int((file.width - min(side, file.width)) * column / max(windows - 1, 1))
            window = Window(left, top, min(side, file.width), min(side, file.height))  # pyright: ignore[reportCallIssue]
            try:
                layers = file.read(bands, window=window).astype(np.float64)
                valid = file.read_masks(bands, window=window) > 0
            except UNREADABLE as error:
                raise UserError(
                    f"{file.name}: rows from {top} cannot be read ({error})", "the file is damaged"
                ) from None
            for layer, has_data, i in zip(layers, valid, indices, strict=True):
                usable = has_data & np.isfinite(layer) & (layer != 0)
                values[i].append(layer[usable] * file.scales[i] + file.offsets[i])
    return {i: np.concatenate(parts) for i, parts in values.items()}
