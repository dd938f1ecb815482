"""The files of a scene: its land use, confidence and attention as maps, a picture, a summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.results import SceneMap

TOLERANCE = 1.25  # ratio between the pixels of a scene and those of the training tiles


def scene_name(path: Path) -> str:
    """A scene's name without its ending; a folder of bands may have points in its name."""
    if path.is_dir():
        return path.name.removesuffix(".SAFE")
    return path.stem


def check_scene(path: Path, model: Any, options: PredictionOptions) -> None:
    """Refuses an unusable scene before anything is computed."""
    from remote_sensing.landuse.model.mapping import check_stride
    from remote_sensing.landuse.scenes.scene import Scene

    check_stride(options.stride, model.tile_size)
    with Scene(path, options.bands, quantification=options.quantification) as scene:
        scene.check(model.preprocessing.bands)
        check_resolution(scene, model, options)


def check_resolution(scene: Any, model: Any, options: PredictionOptions) -> None:
    """Refuses a scene whose pixels differ in size from those of the training tiles: texture would mean something else."""
    if model.pixel_size is None or options.any_resolution:
        return
    size = f"{model.pixel_size:g}"
    if scene.pixel_sides is None:
        scene.warnings.append(f"the size of its pixels is not known; the model was trained on pixels of {size} m")
        return
    across, down = scene.pixel_sides
    if all(1 / TOLERANCE <= side / model.pixel_size <= TOLERANCE for side in (across, down)):
        return
    pixels = f"{scene.pixel_size:.3g} m"
    if max(across, down) > 1.05 * min(across, down):
        pixels = f"{across:.3g} × {down:.3g} m"
    raise UserError(
        f"{scene.path}: its pixels are {pixels}, the model was trained on pixels of {size} m",
        f"resample the scene first (gdalwarp -tr {size} {size}), or take it as it is with --any-resolution",
    )


def map_scene_file(path: Path, model: Any, folder: Path, options: PredictionOptions = PredictionOptions()) -> SceneMap:
    """Writes a folder with ``NAME_landuse.tif`` (COG with a colour table), ``NAME_confidence.tif``, ``NAME_attention.tif`` (for a network with
    attention), a picture and ``summary.json``.

    Args:
        path: a GeoTIFF, a folder of bands or a SAFE product.
        model: a `LandUseModel`.
        folder: of the results.
        options: how the scene is read.

    Raises:
        UserError: missing bands, a stride that does not fit, a scene without data.
    """
    import numpy as np
    from affine import Affine

    from core_runtime.folders import writing
    from remote_sensing.landuse.model.mapping import check_stride, map_scene
    from remote_sensing.landuse.reports.figures import draw_map
    from remote_sensing.landuse.scenes.classes import NODATA
    from remote_sensing.landuse.scenes.maps import write_layer, write_map
    from remote_sensing.landuse.scenes.scene import Scene

    name = scene_name(path)
    stride = check_stride(options.stride, model.tile_size)
    with Scene(path, options.bands, quantification=options.quantification) as scene:
        scene.check(model.preprocessing.bands)
        check_resolution(scene, model, options)
        layers = map_scene(model, scene, stride=stride, batch=options.batch)
        transform = scene.transform * Affine.scale(stride)
        preview, crs, warnings = scene.preview(), scene.crs, list(scene.warnings)
    covered = float((layers.classes != NODATA).mean())
    if covered == 0:
        raise UserError(f"{path}: no pixel holds data", "the scene is empty (all nodata)")
    counts = np.bincount(layers.classes[layers.classes != NODATA], minlength=len(model.classes))
    shares = {}
    for name_of_class, count in zip(model.classes, counts, strict=True):
        if count:
            shares[name_of_class] = float(count / counts.sum())
    beside = {"confidence": layers.confidence}
    if layers.attention is not None:
        beside["attention"] = layers.attention
    files = {"map": f"{name}_landuse.tif", "picture": f"{name}_landuse.png"}
    with writing(folder) as part:
        part.mkdir()
        write_map(part / files["map"], layers.classes, transform, crs, model.classes)
        more = []
        for what, layer in beside.items():
            files[what] = f"{name}_{what}.tif"
            # the attention has finer cells than the map
            finer = Affine.scale(layers.classes.shape[1] / layer.shape[1], layers.classes.shape[0] / layer.shape[0])
            write_layer(part / files[what], layer, transform * finer, crs, what)
            more.append((what, np.ma.masked_invalid(layer)))
        draw_map(preview, layers.classes, model.classes, part / files["picture"], more=more, notice=model.notice)
        paths = {what: str(folder / file) for what, file in files.items()}
        result = SceneMap(name, paths, shares, covered, abs(transform.a), warnings)
        (part / "summary.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    return result
