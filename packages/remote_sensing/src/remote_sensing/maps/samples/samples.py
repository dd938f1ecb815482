"""Sample sheets with their truth: georeferenced, as pictures with world files, and training tiles in the Siegfried layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.terminal import track
from remote_sensing import notices
from remote_sensing.maps.samples.drawing import Drawn, draw_sheet
from remote_sensing.maps.sheets.grid import to_map
from remote_sensing.maps.sheets.vector_files import NewLayer, write_layers
from remote_sensing.rasters import open_raster

PIXEL = 1.25  # metres
CORNER = (2_600_000.0, 1_200_000.0)


@dataclass(frozen=True)
class MapSampleParams:
    """What is drawn: sheets of `size` pixels; tiles of `tile` pixels are cut from sheets of their own."""

    sheets: int = 2
    size: int = 700
    tiles: int = 20
    tile: int = 224
    seed: int = 0


def make_samples(out: Path, params: MapSampleParams, *, overwrite: bool = False) -> dict[str, Path]:
    """Writes ``sheets/*.tif`` (EPSG:2056) with ``truth/*.gpkg`` (railways, vineyards), a PNG with a world file, and ``dataset_railway``.

    Returns:
        The folders by name.

    Raises:
        UserError: `out` holds samples already and `overwrite` is off.
    """
    import shutil

    sheets, truth, tiles = out / "sheets", out / "truth", out / "dataset_railway"
    if sheets.exists() and not overwrite:
        raise UserError(f"{out} already holds sample sheets", "--overwrite replaces them")
    for folder in (sheets, truth, tiles):
        shutil.rmtree(folder, ignore_errors=True)
    for i in track(range(params.sheets), "Drawing sheets"):
        drawn = draw_sheet(params.size, 1000 * params.seed + i)
        transform = Affine(PIXEL, 0, CORNER[0] + 1.1 * i * params.size * PIXEL, 0, -PIXEL, CORNER[1])
        name = f"sheet_{i + 1}"
        write_sheet(sheets / f"{name}.tif", drawn.picture, transform, notice=notices.DRAWN)
        _write_truth(truth / f"{name}.gpkg", drawn, transform)
    _picture_with_world_file(sheets / "picture.png", draw_sheet(300, 1000 * params.seed + 77).picture)
    _write_tiles(tiles, params)
    return {"sheets": sheets, "truth": truth, "tiles": tiles}


def write_sheet(path: Path, picture: NDArray[np.uint8], transform: Affine, crs: Any = 2056, notice: str = "") -> None:
    """An RGB GeoTIFF, tiled and compressed; `notice` goes into models that are trained on it."""
    height, width = picture.shape[:2]
    if isinstance(crs, int):
        crs = CRS.from_epsg(crs)
    profile: dict[str, Any] = {"driver": "GTiff", "count": 3, "height": height, "width": width, "dtype": "uint8"}
    profile |= {"crs": crs, "transform": transform, "photometric": "RGB"}
    profile |= {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
    with writing(path) as temporary, open_raster(temporary, "w", **profile) as file:
        file.write(picture.transpose(2, 0, 1))
        if notice:
            file.update_tags(NOTICE=notice)


def _write_truth(path: Path, drawn: Drawn, transform: Affine) -> None:
    layers = []
    for name, kind, shapes in (
        ("railways", "LineString", drawn.railways),
        ("vineyards", "Polygon", drawn.vineyards),
    ):
        on_map = [to_map(outline, transform) for outline in shapes]
        layers.append(NewLayer(name, kind, on_map, {"class": [name.rstrip("s")] * len(on_map)}))
    write_layers(path, layers, crs=CRS.from_epsg(2056))


def railway_mask(drawn: Drawn, width: float = 7.0) -> NDArray[np.uint8]:
    """Pixels of the railways, `width` pixels wide."""
    size = drawn.picture.shape[:2]
    bands = [line.buffer(width / 2) for line in drawn.railways]
    return rasterize(bands, size, transform=Affine.identity(), default_value=1, dtype="uint8")


def _write_tiles(root: Path, params: MapSampleParams) -> None:
    """Tiles, two thirds of them with a railway; half train, a quarter validates, a quarter tests."""
    from PIL import Image

    write_text(root / notices.FILE, notices.DRAWN + "\n")
    rng = np.random.default_rng([params.seed, 5])
    side, number = params.tile, 0
    while number < params.tiles:
        drawn = draw_sheet(3 * side, int(rng.integers(1 << 30)))
        mask = railway_mask(drawn)
        for y, x in ((0, 0), (0, side), (side, side), (side, 2 * side), (2 * side, 0), (2 * side, side)):
            label = mask[y : y + side, x : x + side]
            # a third of the tiles shows none: a network that prompts itself must learn that, too
            if (number // 4) % 3 == 2:
                fits = not label.any()
            else:
                fits = label.mean() >= 0.01
            if number >= params.tiles or not fits:
                continue
            part = ("train", "train", "val", "test")[number % 4]
            name = f"tile_{number:03}.png"
            with writing(root / part / name) as temporary:
                Image.fromarray(drawn.picture[y : y + side, x : x + side]).save(temporary, format="PNG")
            with writing(root / "annotation" / part / name) as temporary:
                Image.fromarray(255 * label).save(temporary, format="PNG")
            number += 1


def _picture_with_world_file(path: Path, picture: NDArray[np.uint8]) -> None:
    from PIL import Image

    with writing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    write_text(path.with_suffix(".pgw"), "1.25\n0\n0\n-1.25\n2610000.625\n1199999.375\n")
