"""``remote-sensing landuse predict``."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, Item, bulk, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import (
    Above,
    AtLeast,
    Device,
    Model,
    Names,
    Out,
    Overwrite,
    SkipErrors,
    Threads,
    Workers,
    options,
    resolve_device,
)
from core_runtime.terminal import warn
from remote_sensing.landuse.results import SceneMap, TilePrediction
from remote_sensing.landuse.scenes.formats import find_inputs

TOLERANCE = 1.25  # between the pixels of a scene and those of the training tiles
SHEET = 180  # tiles on a contact sheet
TILES = "tiles"  # folder of the results of tiles


@options
class PredictionOptions:
    """How tiles and scenes are read.

    Attributes:
        bands: names of a scene's bands in the order of the file, where it does not say them: B02,B03,B04,B08.
        stride: of a scene: pixels between tiles, and a cell's side; default: half a tile.
        tta: of tiles: average over the tile and its two mirror images.
        batch: tiles per step.
        quantification: value that means a reflectance of 1 (10,000 in Sentinel-2 products); default: read off the file.
        any_resolution: also take scenes whose pixels are larger or smaller than those of the training tiles.
    """

    bands: Names | None = None
    stride: Annotated[int | None, AtLeast(1)] = None
    tta: bool = False
    batch: Annotated[int, AtLeast(1)] = 128
    quantification: Annotated[float | None, Above(0)] = None
    any_resolution: bool = False


@dataclass(frozen=True)
class Work:
    """One item of work: a scene, or all tiles."""

    files: Sequence[Path]
    root: Path
    model: str
    version: str  # of the model folder: one that was trained anew is loaded anew
    device: str
    options: PredictionOptions


@dataclass(frozen=True)
class Predictions(Outcome):
    """Results of tiles and of scenes, and what could not be used.

    Attributes:
        tiles: a prediction per tile.
        scenes: a map per scene.
        files: of the tiles, by name ("table", "picture", "attention").
        failed: file or scene → why.
    """

    out: Path
    tiles: Sequence[TilePrediction]
    scenes: Sequence[SceneMap]
    files: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.failed else 0

    def facts(self) -> dict[str, Any]:
        return {
            "tiles": [asdict(tile) for tile in self.tiles],
            "scenes": [asdict(scene) for scene in self.scenes],
            "files": self.files,
            "failed": self.failed,
        }

    def lines(self) -> Iterable[str]:
        for tile in self.tiles[:20]:
            yield f"{tile.file}: {tile.label} ({tile.confidence:.3f})"
        if len(self.tiles) > 20:
            yield f"… and {len(self.tiles) - 20} more"
        for name, file in self.files.items():
            yield f"  {name}: {file}"
        for scene in self.scenes:
            largest = sorted(scene.shares.items(), key=lambda entry: -entry[1])[:6]
            shares = ", ".join(f"{name} {share:.0%}" for name, share in largest)
            yield f"{scene.scene}: {shares}; cells of {scene.cell:g} map units"
            for warning in scene.warnings:
                yield f"  Warning: {warning}"
            for name, file in scene.files.items():
                yield f"  {name}: {file}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    options: PredictionOptions = PredictionOptions(),
    device: Device = "auto",
    workers: Workers = 1,
    threads: Threads = None,
    skip_errors: SkipErrors = True,
    overwrite: Overwrite = False,
) -> Predictions:
    """Names the land use of tiles, or maps scenes of any size (GeoTIFF with colour table, confidence, attention).

    A rerun goes on with the scenes that are not done.

    Example: remote-sensing landuse predict scene.tif --model run/model --out maps

    Args:
        path: tiles (a file, a folder) or a scene (GeoTIFF, band files, .SAFE), or a folder of both.
    """
    from core_runtime.identity import model_identity
    from core_runtime.models import choose_model
    from remote_sensing.landuse.model.published import NO_CLASSIFIERS

    tiles, scenes = find_inputs(path)
    folder = choose_model(model, advice=NO_CLASSIFIERS)
    place = resolve_device(device)
    version = json.dumps(model_identity(Path(folder)))
    network = _load(folder, version, place)
    if len(scenes) == 1 and not tiles:
        _check_scene(scenes[0], network, options)  # a mistake in a single scene is the user's first line
    items = [_scene_item(Work([scene], path, folder, version, place, options), out) for scene in scenes]
    if tiles:
        items.insert(0, _tiles_item(Work(tiles, path, folder, version, place, options), out))
    _refuse_equal_names(path, items)
    attempts = bulk(
        predict_item,
        items,
        log=out / "log.jsonl",
        description="Predicting",
        workers=workers,
        threads=threads,
        skip_errors=skip_errors,
        overwrite=overwrite,
    )
    return _gather(out, items, attempts)


def _scene_item(work: Work, out: Path) -> Item:
    from core_runtime.identity import identity

    scene = work.files[0]
    relative = Path(scene.name) if scene == work.root else scene.relative_to(work.root)
    name = relative.with_name(_stem(scene)).as_posix()
    key = {
        "scene": identity(scene),
        "model": json.loads(work.version),
        "bands": work.options.bands,
        "stride": work.options.stride,
        "quantification": work.options.quantification,
    }
    return Item(name, work, out / name, key=key, inputs=[scene])


def _tiles_item(work: Work, out: Path) -> Item:
    """All tiles together: they share a table and a picture."""
    from core_runtime.identity import data_fingerprint

    key = {
        "tiles": data_fingerprint(work.files),
        "model": json.loads(work.version),
        "tta": work.options.tta,
        "bands": work.options.bands,
        "quantification": work.options.quantification,
    }
    return Item(TILES, work, out / TILES, key=key, inputs=work.files)


def _refuse_equal_names(root: Path, items: Sequence[Item]) -> None:
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{root}: two inputs would have the results {name!r}", "rename one of them")


def _stem(path: Path) -> str:
    """A scene's name without its ending; a folder of bands may have points in its name."""
    if path.is_dir():
        return path.name.removesuffix(".SAFE")
    return path.stem


def _gather(out: Path, items: Sequence[Item], attempts: Sequence[Attempt]) -> Predictions:
    """The results of every item that is done, from its files, and the names of the others."""
    failed = {attempt.name: attempt.message for attempt in attempts if not attempt.ok}
    if len(attempts) == 1 and failed:
        raise UserError(attempts[0].message)
    summary(attempts)
    tiles: list[TilePrediction] = []
    scenes: list[SceneMap] = []
    files: dict[str, str] = {}
    for item, attempt in zip(items, attempts, strict=True):
        if not attempt.ok:
            continue
        if item.name != TILES:
            entries = json.loads((item.output / "summary.json").read_text(encoding="utf-8"))
            scenes.append(SceneMap(**entries))
            continue
        tiles, unusable = _read_table(item.output / "predictions.csv")
        for name, reason in unusable.items():
            warn(f"failed: {name}: {reason}")
        failed |= unusable
        names = {"table": "predictions.csv", "picture": "tiles.png", "attention": "attention.png"}
        files = {key: str(item.output / name) for key, name in names.items() if (item.output / name).exists()}
    return Predictions(out, tiles, scenes, files, failed)


@lru_cache(1)
def _load(model: str, version: str, device: str) -> Any:
    """The model, once in each process."""
    from remote_sensing.landuse.model.folder import load_model

    return load_model(model, device=device)


def _check_scene(path: Path, model: Any, options: PredictionOptions) -> None:
    """Finds what is wrong with a scene before anything is computed."""
    from remote_sensing.landuse.model.mapping import check_stride
    from remote_sensing.landuse.scenes.scene import Scene

    check_stride(options.stride, model.tile_size)
    with Scene(path, options.bands, quantification=options.quantification) as scene:
        scene.check(model.preprocessing.bands)
        _check_resolution(scene, model, options)


def _check_resolution(scene: Any, model: Any, options: PredictionOptions) -> None:
    """Refuses a scene whose pixels are not about as large as those that the model was trained on."""
    if model.pixel_size is None or scene.pixel_size is None or options.any_resolution:
        return
    ratio = scene.pixel_size / model.pixel_size
    if not 1 / TOLERANCE <= ratio <= TOLERANCE:
        size = f"{model.pixel_size:g}"
        raise UserError(
            f"{scene.path}: its pixels are {scene.pixel_size:.3g} m, the model was trained on pixels of {size} m",
            f"resample the scene first (gdalwarp -tr {size} {size}), or insist with --any-resolution",
        )


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the results of a scene, or of all tiles, into a folder of its own: all or nothing."""
    work: Work = item.source
    model = _load(work.model, work.version, work.device)
    if item.name == TILES:
        return _predict_tiles(item, model, work)
    result = map_scene_file(work.files[0], model, item.output, work.options)
    return {"shares": result.shares, "covered": result.covered}


def map_scene_file(path: Path, model: Any, folder: Path, options: PredictionOptions = PredictionOptions()) -> SceneMap:
    """Writes a folder with ``NAME_landuse.tif`` (COG with a colour table), ``NAME_confidence.tif``, ``NAME_attention.tif`` where there is
    attention, a picture and ``summary.json``.

    Args:
        path: a GeoTIFF, a folder of bands or a SAFE product.
        model: a `LandUseModel`.
        folder: of the results.
        options: how the scene is read.

    Raises:
        UserError: bands that are missing, a stride that does not fit, a scene without data.
    """
    import numpy as np
    from affine import Affine

    from core_runtime.folders import writing
    from remote_sensing.landuse.model.mapping import check_stride, map_scene
    from remote_sensing.landuse.reports.figures import draw_map
    from remote_sensing.landuse.scenes.classes import NODATA
    from remote_sensing.landuse.scenes.maps import write_layer, write_map
    from remote_sensing.landuse.scenes.scene import Scene

    name = _stem(path)
    stride = check_stride(options.stride, model.tile_size)
    with Scene(path, options.bands, quantification=options.quantification) as scene:
        scene.check(model.preprocessing.bands)
        _check_resolution(scene, model, options)
        layers = map_scene(model, scene, stride=stride, batch=options.batch)
        transform = scene.transform * Affine.scale(stride)
        preview, crs, warnings = scene.preview(), scene.crs, list(scene.warnings)
    covered = float((layers.classes != NODATA).mean())
    if covered == 0:
        raise UserError(f"{path}: no pixel holds data", "the scene is empty (all nodata)")
    counts = np.bincount(layers.classes[layers.classes != NODATA], minlength=len(model.classes))
    shares = {c: float(n / counts.sum()) for c, n in zip(model.classes, counts, strict=True) if n}
    beside = {"confidence": layers.confidence}
    if layers.attention is not None:
        beside["attention"] = layers.attention
    files = {"map": f"{name}_landuse.tif", "picture": f"{name}_landuse.png"}
    with writing(folder) as part:
        part.mkdir()
        write_map(part / files["map"], layers.classes, transform, crs, model.classes)
        for what, layer in beside.items():
            files[what] = f"{name}_{what}.tif"
            finer = Affine.scale(layers.classes.shape[1] / layer.shape[1], layers.classes.shape[0] / layer.shape[0])
            write_layer(part / files[what], layer, transform * finer, crs, what)
        more = [(what, np.ma.masked_invalid(layer)) for what, layer in beside.items()]
        draw_map(preview, layers.classes, model.classes, part / files["picture"], more=more)
        paths = {what: str(folder / file) for what, file in files.items()}
        result = SceneMap(name, paths, shares, covered, abs(transform.a), warnings)
        (part / "summary.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    return result


def _predict_tiles(item: Item, model: Any, work: Work) -> dict[str, Any]:
    """``predictions.csv`` with a row per tile, also of those that cannot be used; ``tiles.png`` and ``attention.png``."""
    import numpy as np

    from core_runtime.folders import writing
    from core_runtime.terminal import track

    names: list[str] = []
    rows: list[Any] = []
    pictured: list[Any] = []
    pending: list[Any] = []
    failed: dict[str, str] = {}

    def classify() -> None:
        if pending:
            rows.extend(model(np.stack(pending).astype(np.float32), tta=work.options.tta))
            pending.clear()

    for file in track(work.files, "Predicting tiles"):
        name = file.relative_to(work.root).as_posix() if work.root.is_dir() else file.name
        try:
            raw = read_tile(file, model, work.options)
        except UserError as error:
            failed[name] = error.message
            continue
        names.append(name)
        pending.append(raw)
        if len(pictured) < SHEET:
            pictured.append(raw)
        if len(pending) == work.options.batch:
            classify()
    classify()
    if not rows:
        raise UserError("; ".join(list(failed.values())[:2]), "no tile can be used")
    predictions = [_prediction(name, row, model.classes) for name, row in zip(names, rows, strict=True)]
    with writing(item.output) as part:
        part.mkdir()
        _write_table(part / "predictions.csv", predictions, failed, model.classes)
        _draw_tiles(part, model, pictured, predictions[: len(pictured)])
    return {"tiles": len(predictions), "failed": len(failed)}


def read_tile(file: Path, model: Any, options: PredictionOptions = PredictionOptions()) -> Any:
    """A tile in the bands that the model takes, (bands, height, width).

    Raises:
        UserError: another size, or bands that are missing.
    """
    from remote_sensing.landuse.scenes.formats import RASTERS
    from remote_sensing.landuse.scenes.scene import Scene
    from remote_sensing.landuse.scenes.store import decode

    bands, side = model.preprocessing.bands, model.tile_size
    raw = decode(file.name, file.read_bytes())
    if file.suffix.lower() in RASTERS:
        with Scene(file, options.bands, quantification=options.quantification) as scene:
            scene.check(bands)
            _check_resolution(scene, model, options)
            raw = scene.read(bands, slice(0, scene.height))[0]
    elif not model.preprocessing.is_rgb:
        raise UserError(
            f"{file.name} is an RGB picture, the model takes {len(bands)} bands", "give the 13-band GeoTIFFs"
        )
    if raw.shape[1:] != (side, side):
        raise UserError(f"{file.name} has {raw.shape[2]} × {raw.shape[1]} pixels, the model takes {side} × {side}")
    return raw


def _draw_tiles(folder: Path, model: Any, pictured: Sequence[Any], predictions: Sequence[TilePrediction]) -> None:
    """A sheet of the tiles with their classes, and of some with the network's attention."""
    import numpy as np
    import torch

    from remote_sensing.landuse.model.attention_maps import with_attention
    from remote_sensing.landuse.reports.figures import attention_sheet, contact_sheet
    from remote_sensing.landuse.scenes.bands import natural_colours
    from remote_sensing.landuse.scenes.classes import colours

    shades = dict(zip(model.classes, colours(model.classes), strict=True))
    pictures = [natural_colours(raw, model.preprocessing.bands) for raw in pictured]
    titles = [f"{tile.label[:14]}\n{tile.confidence:.2f}" for tile in predictions]
    edges = [shades[tile.label] for tile in predictions]
    contact_sheet(pictures, titles, edges, folder / "tiles.png", columns=18)
    some = range(0, len(pictured), max(1, len(pictured) // 8))[:8]
    device = next(model.network.parameters()).device
    raw = torch.from_numpy(np.stack([pictured[i] for i in some]).astype(np.float32)).to(device)
    maps = with_attention(model.network, model.preprocessing(raw), 32)[1]
    if maps is not None:
        labels = [predictions[i].label for i in some]
        attention_sheet([pictures[i] for i in some], list(maps.cpu().numpy()), labels, folder / "attention.png")


def _prediction(name: str, probabilities: Any, classes: Sequence[str]) -> TilePrediction:
    values = {c: round(float(p), 5) for c, p in zip(classes, probabilities, strict=True)}
    label = classes[int(probabilities.argmax())]
    return TilePrediction(name, label, values[label], values)


def _write_table(
    path: Path, predictions: Sequence[TilePrediction], failed: Mapping[str, str], classes: Sequence[str]
) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "predicted", "confidence", *classes, "problem"])
        for tile in predictions:
            writer.writerow([tile.file, tile.label, tile.confidence, *tile.probabilities.values(), ""])
        for name, reason in failed.items():
            writer.writerow([name, "", "", *("" for _ in classes), reason])


def _read_table(path: Path) -> tuple[list[TilePrediction], dict[str, str]]:
    """What `_write_table` wrote: predictions, and the tiles that could not be used."""
    predictions: list[TilePrediction] = []
    failed: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name, label, confidence, reason = (row.pop(c) for c in ("file", "predicted", "confidence", "problem"))
            if reason:
                failed[name] = reason
            else:
                shares = {c: float(share) for c, share in row.items()}
                predictions.append(TilePrediction(name, label, float(confidence), shares))
    return predictions, failed
