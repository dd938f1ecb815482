"""A scene to a land-use map: tiles slide over it, each cell of the map is the average of the tiles that cover it.

One strip of tile height is in memory at a time, whatever the size of the scene. The map has a cell for every `stride` pixels of the scene; beyond
the scene's edges it is continued by reflection, so that every cell is covered by equally many tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.folders import writing
from remote_sensing.landuse.attention_maps import with_attention
from remote_sensing.landuse.figures import colours, draw_map
from remote_sensing.landuse.networks import LandUseModel
from remote_sensing.landuse.scenes import Scene
from remote_sensing.rasters import open_raster, write_cog

NODATA = 255


@dataclass(frozen=True)
class Mapped:
    """What was written of a scene.

    Attributes:
        files: by name ("map", "confidence", "attention", "picture").
        shares: share of the mapped area by class name.
        covered: share of the scene's cells that hold data.
    """

    scene: str
    files: dict[str, str]
    shares: dict[str, float]
    covered: float
    cell: float
    warnings: list[str]


def map_scene(
    model: LandUseModel,
    path: Path,
    out: Path,
    *,
    bands: Sequence[str] | None = None,
    stride: int | None = None,
    batch: int = 128,
    overwrite: bool = False,
    progress: bool = True,
) -> Mapped:
    """Writes ``NAME_landuse.tif`` (COG with a colour table), ``NAME_confidence.tif``, ``NAME_attention.tif`` where there is attention, and a picture.

    Args:
        model: what classifies the tiles.
        path: a GeoTIFF, a folder of bands or a SAFE product.
        out: folder of the results.
        bands: names of the file's bands, where it does not say them.
        stride: pixels between tiles, a divisor of the tile's side; half of it if left out.
        batch: tiles a step.

    Raises:
        UserError: bands that are missing, a stride that does not fit, a scene without data, results that are already there.
    """
    side = model.tile_size
    stride = stride or side // 2
    if stride < 1 or side % stride:
        raise UserError(
            f"--stride {stride} does not divide the tile's {side} pixels", f"try {side // 2} or {side // 4}"
        )
    name = path.name.removesuffix(".SAFE") if path.is_dir() else path.stem
    target = out / f"{name}_landuse.tif"
    if target.exists() and not overwrite:
        raise UserError(f"{target} is already there", "--overwrite replaces it, --out names another folder")
    with Scene(path, bands) as scene:
        scene.check(model.preprocessing.bands)
        layers = _layers(model, scene, stride, batch, progress)
        covered = float((layers[0] != NODATA).mean())
        if covered == 0:
            raise UserError(f"{path}: no pixel holds data", "the scene is empty (all nodata)")
        transform = scene.transform * Affine.scale(stride)
        preview, crs, warnings = scene.preview(), scene.crs, scene.warnings
    files = {"map": str(target)}
    write_map(target, layers[0], transform, crs, model.classes)
    for what, layer in zip(("confidence", "attention"), layers[1:], strict=True):
        if layer is not None:
            files[what] = str(_write_floats(out / f"{name}_{what}.tif", layer, transform, crs, what))
    more = [
        (w, np.ma.masked_invalid(v))
        for w, v in zip(("confidence", "attention"), layers[1:], strict=True)
        if v is not None
    ]
    files["picture"] = str(draw_map(preview, layers[0], model.classes, out / f"{name}_landuse.png", more=more))
    counts = np.bincount(layers[0][layers[0] != NODATA], minlength=len(model.classes))
    shares = {c: float(n / counts.sum()) for c, n in zip(model.classes, counts, strict=True) if n}
    return Mapped(name, files, shares, covered, abs(transform.a), warnings)


def _layers(
    model: LandUseModel, scene: Scene, stride: int, batch: int, progress: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]:
    """Class, confidence and attention of every cell."""
    side, n = model.tile_size, model.tile_size // stride
    rows, columns = -(-scene.height // stride), -(-scene.width // stride)
    taper = (
        1.0 - np.abs((np.arange(n) + 0.5) / n * 2 - 1) * 0.9
    )  # the middle of a tile counts most, its rim still counts
    weight = np.outer(taper, taper).astype(np.float32)
    classes = np.full((rows, columns), NODATA, np.uint8)
    confidence = np.full((rows, columns), np.nan, np.float32)
    attention = np.full((rows, columns), np.nan, np.float32)
    # the sums of the n rows of cells that a strip of tiles touches; the first is complete after the strip
    total = np.zeros((n, columns + 2 * (n - 1), len(model.classes) + 2), np.float32)
    data = np.zeros((n, columns), bool)
    starts = range(-(n - 1), rows)
    for start in track(starts, "Mapping", len(starts)) if progress else starts:
        strip, valid = scene.read(
            model.preprocessing.bands,
            slice(start * stride, start * stride + side),
            slice(-(n - 1) * stride, (columns - 1) * stride + side),
        )
        tiles = sliding_window_view(strip, (side, side), (1, 2))[:, 0, ::stride].transpose(1, 0, 2, 3)
        # side × (cells) of validity: a tile counts if half of it or more holds data
        cells: NDArray[np.bool_] = np.any(valid.reshape(n, stride, -1, stride), axis=(1, 3))
        full = sliding_window_view(np.asarray(valid, np.float32).mean(0), side)[::stride].mean(1) >= 0.5
        data |= cells[:, n - 1 : n - 1 + columns]
        for chosen in np.array_split(np.flatnonzero(full), max(1, -(-int(full.sum()) // batch))):
            if not len(chosen):
                continue
            probabilities, maps = _classify(model, tiles[chosen], n)
            for i, at in enumerate(chosen):
                window = total[:, at : at + n]
                window[..., :-2] += weight[..., None] * probabilities[i]
                window[..., -2] += weight * maps[i]
                window[..., -1] += weight
        if start >= 0:
            _close(start, total[0, n - 1 : n - 1 + columns], data[0], classes, confidence, attention)
        total = np.concatenate([total[1:], np.zeros_like(total[:1])])
        data = np.concatenate([data[1:], np.zeros_like(data[:1])])
    has_attention = bool(np.nan_to_num(attention).any())
    return classes, confidence, attention if has_attention else None


def _close(row: int, sums: NDArray, data: NDArray, classes: NDArray, confidence: NDArray, attention: NDArray) -> None:
    """A finished row of cells: averages of what covered them."""
    there = (sums[:, -1] > 0) & data
    average = sums[there, :-1] / sums[there, -1:]
    classes[row, there] = average[:, :-1].argmax(1)
    confidence[row, there] = average[:, :-1].max(1)
    attention[row, there] = average[:, -1]


def _classify(model: LandUseModel, tiles: NDArray, cells: int) -> tuple[NDArray, NDArray]:
    """Probabilities (tiles, classes) and attention (tiles, cells, cells; 0 where there is none)."""
    device = next(model.network.parameters()).device
    raw = torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32)).to(device)
    logits, maps = with_attention(model.network, model.preprocessing(raw), max(cells, 8))
    probabilities = logits.float().softmax(1).cpu().numpy()
    if maps is None:
        return probabilities, np.zeros((len(tiles), cells, cells), np.float32)
    return probabilities, torch.nn.functional.adaptive_avg_pool2d(maps.float(), cells).cpu().numpy()


def write_map(path: Path, classes_map: NDArray[np.uint8], transform: Any, crs: Any, classes: Sequence[str]) -> Path:
    """A Cloud Optimized GeoTIFF of class numbers with colour table, class names in its tags and 255 for "no data"."""
    from matplotlib.colors import to_rgb

    table = {i: (*(round(255 * v) for v in to_rgb(c)), 255) for i, c in enumerate(colours(classes))}
    tags = {f"CLASS_{i}": c for i, c in enumerate(classes)}
    return _write(path, classes_map, transform, crs, NODATA, tags, table)


def _write_floats(path: Path, layer: NDArray[np.float32], transform: Any, crs: Any, what: str) -> Path:
    return _write(path, layer, transform, crs, float("nan"), {"LAYER": what}, None)


def _write(
    path: Path, layer: NDArray, transform: Any, crs: Any, nodata: float, tags: dict[str, str], table: Any
) -> Path:
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": layer.dtype.name, "nodata": nodata, "crs": crs}
    profile |= {"height": layer.shape[0], "width": layer.shape[1], "transform": transform}
    with writing(path) as temporary:
        plain = temporary.with_suffix(".plain.part")
        try:
            with open_raster(plain, "w", **profile) as file:
                file.write(layer, 1)
                file.update_tags(**tags)
                if table is not None:
                    file.write_colormap(1, table)
            write_cog(plain, temporary)
        finally:
            plain.unlink(missing_ok=True)
    return path
