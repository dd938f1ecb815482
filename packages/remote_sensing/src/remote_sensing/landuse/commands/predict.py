"""``remote-sensing landuse predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt, Item, bulk, failures, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from core_runtime.terminal import warn
from remote_sensing.landuse.predictions.options import PredictionOptions
from remote_sensing.landuse.predictions.scenes import check_scene, map_scene_file, scene_name
from remote_sensing.landuse.predictions.tiles import read_table, write_tile_predictions
from remote_sensing.landuse.results import SceneMap, TilePrediction
from remote_sensing.landuse.scenes.formats import find_inputs

TILES = "tiles"  # folder of the results of tiles


@dataclass(frozen=True)
class Work:
    """One item of work: a scene, or all tiles."""

    files: Sequence[Path]
    root: Path
    model: str
    device: str
    options: PredictionOptions


@dataclass(frozen=True)
class Predictions(Outcome):
    """Results of tiles and of scenes, and the inputs that could not be used.

    Attributes:
        tiles: one prediction per tile.
        scenes: one map per scene.
        files: result files of the tiles, by name ("table", "picture", "attention").
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
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Predicts the land use of tiles, or maps scenes of any size (GeoTIFF with colour table, confidence, attention).

    A rerun continues with the scenes that are not done.

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
    made_by = model_identity(Path(folder))
    network = _load(folder, place)
    if len(scenes) == 1 and not tiles:
        check_scene(scenes[0], network, options)  # a mistake in a single scene is the first line that the user sees
    items = []
    for scene in scenes:
        items.append(_scene_item(Work([scene], path, folder, place, options), made_by, out))
    if tiles:
        items.insert(0, _tiles_item(Work(tiles, path, folder, place, options), made_by, out))  # quick, so first
    _refuse_equal_names(path, items)
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Predicting")
    return _gather(out, items, attempts)


def _scene_item(work: Work, made_by: Mapping[str, Any], out: Path) -> Item:
    from core_runtime.identity import identity

    scene = work.files[0]
    relative = Path(scene.name)
    if scene != work.root:
        relative = scene.relative_to(work.root)
    name = relative.with_name(scene_name(scene)).as_posix()
    key = {
        "scene": identity(scene),
        "model": made_by,
        "bands": work.options.bands,
        "stride": work.options.stride,
        "quantification": work.options.quantification,
    }
    return Item(name, work, out / name, key=key, inputs=[scene])


def _tiles_item(work: Work, made_by: Mapping[str, Any], out: Path) -> Item:
    """All tiles as one item: they share a table and a picture."""
    from core_runtime.identity import data_fingerprint

    key = {
        "tiles": data_fingerprint(work.files),
        "model": made_by,
        "tta": work.options.tta,
        "bands": work.options.bands,
        "quantification": work.options.quantification,
    }
    return Item(TILES, work, out / TILES, key=key, inputs=work.files)


def _refuse_equal_names(root: Path, items: Sequence[Item]) -> None:
    # a.tif and a.jp2 in one folder would both be written to a/
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{root}: two inputs would have the results {name!r}", "rename one of them")


def _gather(out: Path, items: Sequence[Item], attempts: Sequence[Attempt]) -> Predictions:
    """The results of every finished item, from its files, and the names of the others."""
    failed = failures(attempts)
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
        tiles, unusable = read_table(item.output / "predictions.csv")  # tiles that failed are rows of the table, too
        for name, reason in unusable.items():
            warn(f"failed: {name}: {reason}")
        failed |= unusable
        names = {"table": "predictions.csv", "picture": "tiles.png", "attention": "attention.png"}
        for key, name in names.items():
            if (item.output / name).exists():
                files[key] = str(item.output / name)
    return Predictions(out, tiles, scenes, files, failed)


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from remote_sensing.landuse.model.folder import load_model

    return load_model(model, device=device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the results of a scene, or of all tiles, into a folder of its own, whole or not at all."""
    work: Work = item.source
    model = _load(work.model, work.device)
    if item.name == TILES:
        return write_tile_predictions(work.files, work.root, model, item.output, work.options)
    result = map_scene_file(work.files[0], model, item.output, work.options)
    return {"shares": result.shares, "covered": result.covered}
