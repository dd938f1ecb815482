"""``remote-sensing landuse inspect``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.findings import Findings
from remote_sensing.landuse.scenes.formats import find_inputs, is_scene_folder
from remote_sensing.landuse.scenes.layouts import NoTiles, TileSet, find_tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 20  # tiles of a class below which a warning says so


def inspect(path: Path, /) -> Findings:
    """Reports what tiles or a scene hold, whether they can be used, and what to do next.

    Example: remote-sensing landuse inspect EuroSAT_RGB

    Args:
        path: a download (folder or .zip), a tile, a folder of tiles, or a scene (GeoTIFF, band files, .SAFE).
    """
    return examine(path)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    return examine(path, pictures=True)


def examine(path: Path, *, pictures: bool = False) -> Findings:
    """Examines a path.

    Raises:
        UserError: nothing is there that can be read.
    """
    if path.is_dir() and not is_scene_folder(path):
        try:
            return _examine_download(path, pictures)
        except NoTiles:  # no class folders: pictures to predict
            return _examine_pictures(path, pictures)
    if path.suffix.lower() == ".zip":
        return _examine_download(path, pictures)
    tiles, _ = find_inputs(path)
    if tiles:
        return _examine_tile(path, pictures)
    return _examine_scene(path, pictures)


def _examine_download(path: Path, pictures: bool) -> Findings:
    from remote_sensing.landuse.cohort import classes_in_words, split_tiles
    from remote_sensing.landuse.scenes.store import decode

    tiles = find_tiles(path)
    counts = {name: tiles.labels.count(number) for number, name in enumerate(tiles.classes)}
    first = decode(tiles.files[0], next(iter(tiles.read(tiles.files[:1]))))
    details: dict[str, Any] = {
        "layout": tiles.layout,
        "tiles": len(tiles.files),
        "size": f"{first.shape[2]} × {first.shape[1]}, {len(first)} bands of {first.dtype}",
        "classes": counts,
        "split lists": ", ".join(tiles.lists) or "none (a stratified split is made)",
    }
    for name in tiles.lists:
        split = split_tiles(tiles, name)
        details[f"split {name}"] = f"{len(split.train)} train, {len(split.val)} validate, {len(split.test)} test"
    rare = [name for name, count in counts.items() if count < FEW]
    warnings, drawn = list(classes_in_words(tiles.classes)), []
    if rare:
        warnings.append(f"fewer than {FEW} tiles of {', '.join(rare)}")
    if pictures:
        drawn.append((_draw_classes(tiles), "One tile of each class, in natural colours"))
    return Findings(
        title=path.name,
        kind="labelled tiles",
        summary=f"{len(tiles.files)} tiles of {len(tiles.classes)} classes ({tiles.layout})",
        details=details,
        warnings=warnings,
        next_commands=[f"remote-sensing landuse train {quote(str(path))} --out run"],
        pictures=drawn,
    )


def _examine_pictures(path: Path, pictures: bool) -> Findings:
    """A folder of tiles without labels."""
    tiles, scenes = find_inputs(path)
    drawn = []
    if pictures:
        drawn.append((_draw_picture((tiles or scenes)[0]), "The first of them"))
    return Findings(
        title=path.name,
        kind="pictures",
        summary=f"{len(tiles)} tiles and {len(scenes)} scenes without labels: for prediction, not for training",
        details={"tiles": len(tiles), "scenes": len(scenes), "labels": "none: no class folders"},
        next_commands=[_predict(path)],
        pictures=drawn,
    )


def _examine_tile(path: Path, pictures: bool) -> Findings:
    from remote_sensing.landuse.scenes.store import decode

    raw = decode(path.name, path.read_bytes())
    size = f"{raw.shape[2]} × {raw.shape[1]}"
    warnings, drawn = [], []
    if raw.shape[1:] != (64, 64):
        warnings.append("EuroSAT's tiles have 64 × 64 pixels: networks must be trained on this size")
    if pictures:
        drawn.append((_draw_picture(path), "In natural colours"))
    return Findings(
        title=path.name,
        kind="tile",
        summary=f"one tile of {size} pixels, {len(raw)} bands",
        details={"size": size, "bands": len(raw), "type": str(raw.dtype)},
        warnings=warnings,
        next_commands=[_predict(path)],
        pictures=drawn,
    )


def _not_for_land_use(path: Path) -> Findings | None:
    """Findings for a raster that holds neither reflectances nor a picture; None for all others."""
    from remote_sensing.kinds import MASK, MEASURED, kind_of
    from remote_sensing.rasters import UNREADABLE, open_raster

    try:
        with open_raster(path) as file:
            kind = kind_of(file, path)
            size = f"{file.width} × {file.height} pixels, {file.count} bands of {file.dtypes[0]}"
    except UNREADABLE:
        return None  # reported when the scene is opened
    if kind.name not in (MASK, MEASURED):
        return None
    next_commands = []
    if kind.command:
        next_commands.append(f"remote-sensing {kind.command} {quote(str(path))}")
    return Findings(
        title=path.name,
        kind=kind.name,
        summary=f"{size}: land use needs reflectances or pictures",
        usable=False,
        details={"size": size},
        warnings=[kind.warning],
        next_commands=next_commands,
    )


def _examine_scene(path: Path, pictures: bool) -> Findings:
    from remote_sensing.landuse.scenes.scene import Scene

    if path.is_file():
        other = _not_for_land_use(path)
        if other is not None:
            return other
    with Scene(path) as scene:
        size = scene.pixel_size
        crs, pixel = "none", f"{abs(scene.transform.a):g} map units"
        if scene.crs:
            crs = scene.crs.to_string()
        if size is not None:
            pixel = f"{size:.3g} m"
            across, down = scene.pixel_sides or (size, size)
            if max(across, down) > 1.05 * min(across, down):
                pixel = f"{across:.3g} × {down:.3g} m"
        details = {
            "format": scene.kind,
            "size": f"{scene.width} × {scene.height}",
            "bands": ", ".join(scene.bands),
            "coordinate system": crs,
            "pixel": pixel,
        }
        warnings = list(scene.warnings)
        if size is not None and not 8 <= size <= 12.5:  # 10 m, give or take a projection
            warnings.append(
                f"pixels of {size:.3g} m: EuroSAT's networks were trained on pixels of 10 m; resample first (gdalwarp -tr 10 10)"
            )
    drawn = []
    if pictures:
        drawn.append((_draw_picture(path), "In natural colours"))
    return Findings(
        title=path.name,
        kind="scene",
        summary=f"a scene of {details['size']} pixels with {details['bands']}",
        details=details,
        warnings=warnings,
        next_commands=[_predict(path)],
        pictures=drawn,
    )


def _predict(path: Path) -> str:
    return f"remote-sensing landuse predict {quote(str(path))} --model run/model"


def _draw_classes(tiles: TileSet) -> Figure:
    """The first tile of each class."""
    import numpy as np
    from matplotlib.figure import Figure

    from remote_sensing.landuse.scenes.bands import natural_colours
    from remote_sensing.landuse.scenes.store import decode

    files = [tiles.files[tiles.labels.index(number)] for number in range(len(tiles.classes))]
    rows = -(-len(files) // 5)  # rounded up
    figure = Figure(figsize=(9, 2.1 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 5)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, file, content, name in zip(axes, files, tiles.read(files), tiles.classes, strict=False):
        ax.imshow(natural_colours(decode(file, content), tiles.bands))
        ax.set_title(name, fontsize=8)
    return figure


def _draw_picture(path: Path) -> Figure:
    """A tile or a scene."""
    from matplotlib.figure import Figure

    from remote_sensing.landuse.scenes.bands import RGB, natural_colours
    from remote_sensing.landuse.scenes.formats import PICTURES
    from remote_sensing.landuse.scenes.scene import Scene
    from remote_sensing.landuse.scenes.store import decode

    figure = Figure(figsize=(6, 6), layout="constrained")
    ax = figure.subplots()
    ax.set_axis_off()
    if path.suffix.lower() in PICTURES:
        ax.imshow(natural_colours(decode(path.name, path.read_bytes()), RGB))
        return figure
    with Scene(path) as scene:
        ax.imshow(scene.preview())
    return figure
