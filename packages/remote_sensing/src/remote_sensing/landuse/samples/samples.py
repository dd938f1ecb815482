"""Synthetic EuroSAT: drawn tiles as RGB pictures and 13-band GeoTIFFs in UTM, split lists of every kind, and a scene with its truth."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.terminal import track
from remote_sensing import notices
from remote_sensing.landuse.samples import SampleOptions
from remote_sensing.landuse.samples.textures import draw
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB_BANDS, picture
from remote_sensing.landuse.scenes.classes import CLASSES
from remote_sensing.rasters import open_raster

MS_PLACE = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
_PARTS = {"train": 0.6, "val": 0.2, "test": 0.2}


def make_samples(
    out: Path, samples: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Writes ``EuroSAT_RGB`` (with Kaggle's CSV lists), ``ds/…/tif`` (with torchgeo's lists beside) and ``scene.tif``, the same under a seed.

    Returns:
        Paths by name ("rgb", "ms", "scene", "truth").

    Raises:
        UserError: `out` holds samples already and `overwrite` is off, or it cannot be written.
    """
    rgb, ms = out / "EuroSAT_RGB", out / MS_PLACE
    if rgb.exists() or ms.exists():
        if not overwrite:
            raise UserError(f"{out} already holds samples", "--overwrite replaces them")
        for place in (rgb, out / "ds"):
            shutil.rmtree(place, ignore_errors=True)
    places = [rgb] if samples.rgb_only else [rgb, ms]
    for place in places:
        write_text(place / notices.FILE, notices.DRAWN + "\n")
    stems: dict[str, list[str]] = {name: [] for name in CLASSES}
    eastings: dict[str, float] = {}  # UTM easting (longitude) of each tile, for the spatial split
    jobs = [(number, name, i) for number, name in enumerate(CLASSES) for i in range(1, samples.tiles + 1)]
    for number, name, i in track(jobs, "Drawing tiles"):
        rng = np.random.default_rng([seed, number, i])
        tile, stem = draw(name, 64, rng), f"{name}_{i}"
        stems[name].append(stem)
        _write_jpeg(rgb / name / f"{stem}.jpg", tile)
        corner = (300_000 + 640.0 * int(rng.integers(0, 400)), 5_200_000 + 640.0 * int(rng.integers(0, 400)))
        eastings[stem] = corner[0]
        if not samples.rgb_only:
            write_geotiff(ms / name / f"{stem}.tif", tile, corner)
    _kaggle_lists(rgb, stems, seed)
    _torchgeo_lists(out, "eurosat-", _by_share(stems, seed))
    _torchgeo_lists(out, "eurosat-spatial-", _by_place(eastings))
    _torchgeo_lists(out, "eurosat-100-", _hundred(stems, seed))
    written = {"rgb": rgb}
    if not samples.rgb_only:
        written["ms"] = ms
    if samples.scene:
        scene, truth = draw_scene(samples.scene, seed)
        corner = (600_000.0, 5_200_000.0)
        write_geotiff(out / "scene.tif", scene, corner)
        write_geotiff(out / "scene_truth.tif", truth[None].astype(np.uint8), corner, names=("class",))
        written |= {"scene": out / "scene.tif", "truth": out / "scene_truth.tif"}
    return written


def _torchgeo_lists(folder: Path, prefix: str, parts: dict[str, list[str]]) -> None:
    for part, names in parts.items():
        lines = [f"{name}.jpg\n" for name in names]
        write_text(folder / f"{prefix}{part}.txt", "".join(lines))


def draw_scene(size: int, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Reflectances (13, size, size) of a landscape of all ten classes, and the class of every pixel (size, size)."""
    rng = np.random.default_rng([seed, 99])
    cells = size // 64
    # cells of 64 pixels; each takes the class of the nearest of 14 random points, so that regions are irregular
    corners = rng.uniform(0, cells, (14, 2))
    kinds = np.concatenate([rng.permutation(10), rng.integers(0, 10, 4)])  # every class at least once
    y, x = np.mgrid[:cells, :cells] + 0.5
    nearest = ((y[..., None] - corners[:, 0]) ** 2 + (x[..., None] - corners[:, 1]) ** 2).argmin(-1)
    truth = np.kron(kinds[nearest], np.ones((64, 64), int))
    scene = np.zeros((13, size, size), np.uint16)
    for number, name in enumerate(CLASSES):
        here = truth == number
        if here.any():
            scene[:, here] = draw(name, size, rng)[:, here]
    return scene, truth


def write_geotiff(
    path: Path,
    bands: NDArray,
    corner: tuple[float, float],
    *,
    names: tuple[str, ...] = FILE_ORDER,
    crs: str = "EPSG:32632",
) -> None:
    """Writes a compressed GeoTIFF of 10 m pixels with band names, north up from its upper left `corner` (metres)."""
    from rasterio.transform import from_origin

    height, width = bands.shape[1:]
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": len(bands),
        "dtype": bands.dtype.name,
        "crs": crs,
        "transform": from_origin(*corner, 10, 10),
    }
    if height > 64:
        profile |= {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
    with writing(path) as temporary, open_raster(temporary, "w", **profile) as file:
        file.write(bands)
        for i, name in enumerate(names, 1):
            file.set_band_description(i, name)


def _write_jpeg(path: Path, tile: NDArray) -> None:
    from PIL import Image

    order = [FILE_ORDER.index(band) for band in RGB_BANDS]
    with writing(path) as temporary:
        Image.fromarray(picture(tile[order]).transpose(1, 2, 0)).save(temporary, format="JPEG", quality=100)


def _by_share(stems: dict[str, list[str]], seed: int) -> dict[str, list[str]]:
    """60, 20 and 20 % of each class."""
    rng = np.random.default_rng([seed, 1])
    parts: dict[str, list[str]] = {part: [] for part in _PARTS}
    for names in stems.values():
        order = rng.permutation(names).tolist()
        cut = (round(0.6 * len(order)), round(0.8 * len(order)))
        for part, members in zip(parts, (order[: cut[0]], order[cut[0] : cut[1]], order[cut[1] :]), strict=True):
            parts[part] += members
    return parts


def _by_place(places: dict[str, float]) -> dict[str, list[str]]:
    """60, 20 and 20 % from west to east."""
    order = sorted(places, key=lambda stem: (places[stem], stem))
    cut = (round(0.6 * len(order)), round(0.8 * len(order)))
    return {"train": order[: cut[0]], "val": order[cut[0] : cut[1]], "test": order[cut[1] :]}


def _hundred(stems: dict[str, list[str]], seed: int) -> dict[str, list[str]]:
    """6, 2 and 2 tiles per class, fewer if there are fewer than ten."""
    rng = np.random.default_rng([seed, 2])
    ten = {name: rng.permutation(stems_of_class).tolist()[:10] for name, stems_of_class in stems.items()}
    return _by_share(ten, seed)


def _kaggle_lists(folder: Path, stems: dict[str, list[str]], seed: int) -> None:
    import json

    write_text(folder / "label_map.json", json.dumps({name: number for number, name in enumerate(CLASSES)}))
    for part, names in _by_share(stems, seed).items():
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["", "Filename", "Label", "ClassName"])
        for i, name in enumerate(names):
            kind = name.rpartition("_")[0]
            writer.writerow([i, f"{kind}/{name}.jpg", CLASSES.index(kind), kind])
        table = "validation.csv" if part == "val" else f"{part}.csv"
        write_text(folder / table, out.getvalue())
