"""Scenes that are folders: a Sentinel-2 SAFE product, or files named after their bands. All must be of one place and one date."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from remote_sensing.landuse.scenes.bands import FILE_ORDER, band_of_file
from remote_sensing.landuse.scenes.formats import SCENES, is_safe
from remote_sensing.landuse.scenes.sources import UNIT, Source, reflectance_scale

_DATE = re.compile(r"(?<!\d)(20\d{2})[-_.]?([01]\d)[-_.]?([0-3]\d)(?:T\d{6})?(?!\d)")
_METADATA_ORDER = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B09",
    "B10",
    "B11",
    "B12",
)  # of band_id


def sources_of_folder(
    path: Path, open_band: Callable[[Path], Any], quantification: float | None, warnings: list[str]
) -> dict[str, Source]:
    """The finest file of each band; all of one place and one date.

    Args:
        path: a folder of band files, or a SAFE product.
        open_band: opens a band file.
        quantification: the value that stands for a reflectance of 1; if None, taken from the metadata or the values.
        warnings: what the user should know is added.

    Raises:
        UserError: no bands, bands of several scenes, or values that are not understood.
    """
    candidates: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        name = band_of_file(file.stem)
        # quality masks and previews of a product have names of bands, too
        if name is None or file.suffix.lower() not in SCENES or {"QI_DATA", "HTML"} & set(file.parts):
            continue
        candidates.setdefault(name, []).append(file)
    if not candidates:
        hint = "give a .SAFE folder or a folder of bands"
        raise UserError(f"{path}: no band files (B02.tif, …_B02_10m.jp2)", hint)
    files_of_all = []
    for files in candidates.values():
        files_of_all += files
    _refuse_mixed_dates(path, files_of_all)
    finest: dict[str, Path] = {}
    for name, files in candidates.items():
        best = min(files, key=_resolution)
        # a level-2A product has a band at 10, 20 and 60 m; two files of one resolution are two scenes
        if sum(_resolution(file) == _resolution(best) for file in files) > 1:
            names = ", ".join(file.name for file in files[:3])
            raise UserError(f"{path}: the band {name} is there twice ({names})", "give a folder of one scene")
        finest[name] = best
    opened = {name: open_band(finest[name]) for name in FILE_ORDER if name in finest}
    for name, file in opened.items():
        if file.count > 1:
            raise UserError(
                f"{path}: {finest[name].name} holds {file.count} bands, expected {name} alone",
                "give a file of several bands by itself, or one file per band",
            )
    _refuse_mixed_places(path, opened)
    offsets, unit = _metadata(path)
    is_product = is_safe(path)
    if is_product:
        _check_baseline(path, offsets)
    if any(offsets.values()):
        warnings.append("the product's radiometric offset is removed, as in products from before 2022")
    sources = {}
    for name, file in opened.items():
        if is_product:
            scale = UNIT / (quantification or unit)
            sources[name] = Source(file, 1, scale, offsets.get(name, 0.0) * scale, zero_is_empty=True)
        else:
            scale = reflectance_scale(file, [0], path, quantification, warnings)
            sources[name] = Source(file, 1, file.scales[0] * scale, file.offsets[0] * scale, zero_is_empty=True)
    warnings[:] = dict.fromkeys(warnings)  # the same from each band
    return sources


def _check_baseline(path: Path, offsets: Mapping[str, float]) -> None:
    """Since baseline 04.00 (January 2022) every value has an offset, which the metadata state: without it, all bands are too bright."""
    baseline = re.search(r"_N(\d{4})_", path.name)
    # 99.xx are reprocessed test products
    if baseline and "0400" <= baseline[1] < "9000" and not offsets:
        raise UserError(
            f"{path}: a product of baseline {baseline[1]} without offsets in MTD_MSIL*.xml",
            "its metadata are missing or damaged: download the product again",
        )


def _refuse_mixed_dates(path: Path, files: Iterable[Path]) -> None:
    different_dates = set()
    for file in files:
        match = _DATE.search(file.name)
        if match:
            different_dates.add("-".join(match.groups()))
    dates = sorted(different_dates)
    if len(dates) > 1:
        raise UserError(
            f"{path}: its bands are of {len(dates)} dates ({', '.join(dates[:4])})",
            "put the bands of each date into a folder of their own",
        )


def _refuse_mixed_places(path: Path, files: Mapping[str, Any]) -> None:
    """All bands must have one coordinate system and cover the same ground."""
    first_name, first = next(iter(files.items()))
    for name, file in files.items():
        if file.crs != first.crs:
            systems = f"{first_name} in {_spelled(first.crs)}, {name} in {_spelled(file.crs)}"
            raise UserError(
                f"{path}: its bands have different coordinate systems ({systems})",
                "project them to one (gdalwarp -t_srs), or put each scene into a folder of its own",
            )
        # within a pixel of the coarser band, since 10 m and 60 m grids do not end at the same place
        tolerance = max(abs(file.transform.a), abs(first.transform.a), abs(file.transform.b))
        if any(abs(a - b) > tolerance for a, b in zip(file.bounds, first.bounds, strict=True)):
            raise UserError(
                f"{path}: the bands {first_name} and {name} do not cover the same ground",
                "crop them to one extent (gdalwarp -te), or put each scene into a folder of its own",
            )


def _spelled(crs: Any) -> str:
    if not crs:
        return "none"
    return crs.to_string()


def _resolution(path: Path) -> int:
    """Metres per pixel according to a file's name; 0 if it does not state them."""
    match = re.search(r"_(10|20|60)m$", path.stem)
    if match is None:
        return 0
    return int(match[1])


def _metadata(folder: Path) -> tuple[dict[str, float], float]:
    """The offset of every band's values (−1000 in products since baseline 04.00), and the value that stands for a reflectance of 1."""
    for path in folder.glob("MTD_MSIL*.xml"):
        text = path.read_text(encoding="utf-8", errors="replace")
        entries = re.findall(r'<(?:RADIO|BOA)_ADD_OFFSET\s+band_id="(\d+)">\s*(-?\d+)\s*<', text)
        offsets = {}
        for band_id, offset in entries:
            if int(band_id) < len(_METADATA_ORDER):
                offsets[_METADATA_ORDER[int(band_id)]] = float(offset)
        unit = re.search(r"<(?:BOA_)?QUANTIFICATION_VALUE[^>]*>\s*(\d+(?:\.\d+)?)\s*<", text)
        if unit and float(unit[1]) > 0:
            return offsets, float(unit[1])
        return offsets, UNIT
    return {}, UNIT
