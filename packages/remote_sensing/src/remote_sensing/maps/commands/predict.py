"""``remote-sensing maps predict``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.bulk import Attempt, Item, bulk, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import (
    Device,
    Model,
    Out,
    Overwrite,
    Precision,
    SkipErrors,
    Threads,
    Workers,
    flat,
    resolve_device,
)
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.sheets.options import PartOptions, SheetOptions
from remote_sensing.maps.vectors.options import VectorOptions

if TYPE_CHECKING:
    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.results import Segmentation

Format = Literal["gpkg", "geojson", "fgb"]


@dataclass(frozen=True)
class SheetPlan(Outcome):
    """What ``predict`` would do."""

    sheets: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        return {"sheets": self.sheets}

    def lines(self) -> Iterable[str]:
        for row in self.sheets:
            yield f"{row['sheet']}: {row['size']}, {row['tiles']} tiles of {row['tile_side']} pixels"


@dataclass(frozen=True)
class SheetPredictions(Outcome):
    """What was found on each sheet.

    Attributes:
        sheets: a row of figures and files per sheet that succeeded.
        attempts: what became of each sheet, and of its vectors.
    """

    sheets: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return summary(self.attempts)

    def facts(self) -> dict[str, Any]:
        failed = {attempt.name: attempt.message for attempt in self.attempts if not attempt.ok}
        return {"sheets": self.sheets, "failed": failed}

    def lines(self) -> Iterable[str]:
        for row in self.sheets:
            yield from self._lines_of(row)
        if self.sheets and all(row["status"] == "already done" for row in self.sheets):
            yield "All was done before; --overwrite makes it anew."

    def _lines_of(self, row: Mapping[str, Any]) -> Iterable[str]:
        from remote_sensing.maps.vectors.vectorise import Vectors

        if "shares" in row:
            shares = ", ".join(f"{name} {share:.2%}" for name, share in row["shares"].items())
            tiles = f"{row['tiles']} tiles, {row['skipped_tiles']} without data"
            yield f"{row['sheet']}: {shares} of the area; {tiles}"
        else:
            yield f"{row['sheet']}: done before"
        for warning in row.get("warnings", ()):
            yield f"Warning: {warning}"
        for name in ("mask", "probability", "overlay"):
            yield f"  {name}: {row[name]}"
        if "vectors" in row:
            yield from Vectors(**row["vectors"]).text()


@dataclass(frozen=True)
class _Task:
    """What a worker needs to segment a sheet."""

    sheet: Path
    model: Path
    device: str
    precision: str
    reading: SheetOptions
    part: PartOptions
    options: SegmentOptions
    out: Path
    key: Mapping[str, Any] = field(default_factory=dict)
    show: bool = False

    def file(self, ending: str) -> Path:
        """One of the files that are written."""
        return self.out / f"{self.sheet.stem}_{ending}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("map-predictions"),
    sheet: SheetOptions = SheetOptions(),
    part: PartOptions = PartOptions(),
    options: SegmentOptions = SegmentOptions(),
    vector: Format | None = None,
    vectors: VectorOptions = VectorOptions(),
    dry_run: bool = False,
    device: Device = "auto",
    precision: Precision = "32-true",
    workers: Workers = 1,
    threads: Threads = None,
    skip_errors: SkipErrors = True,
    overwrite: Overwrite = False,
) -> SheetPredictions | SheetPlan:
    """Segments sheets of any size: mask, probabilities, polygons, centre-lines. A killed run goes on by row strips.

    Example: remote-sensing maps predict sheet.tif --model run/model --vector gpkg --centrelines --out maps

    Args:
        path: a sheet or a folder of sheets.
        vector: also polygons, in this format.
        dry_run: only say how many tiles there would be.
    """
    from core_runtime.identity import identity, model_identity
    from remote_sensing.maps.sheets.formats import find_sheets, split_layer
    from remote_sensing.maps.sheets.sheet import Sheet

    sheets = find_sheets(path)
    if len({file.stem for file in sheets}) < len(sheets):
        raise UserError("two sheets have the same name but for their endings", "predict them into different folders")
    if len(sheets) == 1:
        with Sheet(sheets[0]):  # what cannot be read is said before a model is asked for
            pass
    from remote_sensing.maps.model.folder import find_model

    folder = find_model(model)
    on_device = resolve_device(device)
    if dry_run:
        return _plan(_load(folder, on_device, precision), sheets, sheet, part, options)
    made_from: dict[str, Any] = {
        "model": model_identity(folder),
        "options": flat(sheet=sheet, part=part, options=options, precision=precision),
    }
    del made_from["options"]["batch"]
    if part.roi is not None:
        made_from["roi"] = identity(split_layer(part.roi)[0])
    tasks = []
    for file in sheets:
        key = {"sheet": identity(file), **made_from}
        show = len(sheets) == 1
        tasks.append(_Task(file, folder, on_device, precision, sheet, part, options, out, key, show))
    skip_errors = skip_errors and len(sheets) > 1
    shared: dict[str, Any] = {
        "workers": workers,
        "threads": threads,
        "skip_errors": skip_errors,
        "overwrite": overwrite,
    }
    masks = [Item(task.sheet.name, task, task.file("mask.tif"), task.key, [task.sheet]) for task in tasks]
    attempts = bulk(segment_item, masks, log=out / "predict.jsonl", description="Sheets", **shared)
    rows = {task.sheet.name: _row(task, attempt) for task, attempt in zip(tasks, attempts, strict=True) if attempt.ok}
    if vector is not None or vectors.centrelines:
        ending = vector or "gpkg"
        items = []
        for task in tasks:
            if task.sheet.name in rows:
                key = {"mask": task.key, "vectors": flat(vectors=vectors)}
                output = out / f"{task.sheet.stem}.{ending}"
                source = task.file("mask.tif"), task.file("prob.tif"), vectors
                items.append(Item(task.sheet.name, source, output, key, [task.sheet]))
        vector_attempts = bulk(vectorise_item, items, log=out / "predict.jsonl", description="Vectors", **shared)
        for item, attempt in zip(items, vector_attempts, strict=True):
            if attempt.facts:
                rows[item.name]["vectors"] = attempt.facts
        attempts += vector_attempts
    return SheetPredictions(list(rows.values()), attempts)


def _row(task: _Task, attempt: Attempt) -> dict[str, Any]:
    files = {
        "mask": str(task.file("mask.tif")),
        "probability": str(task.file("prob.tif")),
        "overlay": str(task.file("overlay.png")),
    }
    return {"sheet": task.sheet.name, "status": attempt.status, **files, **attempt.facts}


def _plan(
    model: "SheetModel", sheets: Sequence[Path], reading: SheetOptions, asked: PartOptions, options: SegmentOptions
) -> SheetPlan:
    """Size and tiles of every sheet."""
    from remote_sensing.maps.model.tiling import Tiles
    from remote_sensing.maps.sheets.parts import part_of
    from remote_sensing.maps.sheets.sheet import Sheet

    rows = []
    for path in sheets:
        with Sheet(path, stretch=reading.stretch) as sheet:
            tiles = Tiles(sheet.grid, model.side, options)
            count = tiles.count(part_of(sheet.grid, asked))
            rows.append({"sheet": path.name, "tiles": count, "tile_side": tiles.side, **sheet.facts})
    return SheetPlan(rows)


@lru_cache(1)
def _load(folder: Path, device: str, precision: str) -> "SheetModel":
    """The model, once in each process."""
    from remote_sensing.maps.model.folder import load

    return load(folder, device=device, precision=precision)


def segment_item(item: Item) -> dict[str, Any]:
    """Segments one sheet of a run."""
    task: _Task = item.source
    model = _load(task.model, task.device, task.precision)
    segmentation, warnings = segment_sheet(
        model, task.sheet, task.out, task.reading, task.part, task.options, key=task.key, progress=task.show
    )
    return {
        "tiles": segmentation.tiles,
        "skipped_tiles": segmentation.skipped_tiles,
        "resumed_strips": segmentation.resumed_strips,
        "shares": dict(segmentation.shares),
        "warnings": warnings,
    }


def segment_sheet(
    model: "SheetModel",
    path: Path,
    out: Path,
    reading: SheetOptions = SheetOptions(),
    asked: PartOptions = PartOptions(),
    options: SegmentOptions = SegmentOptions(),
    *,
    key: Mapping[str, Any] | None = None,
    shift: int = 0,
    progress: bool = True,
) -> "tuple[Segmentation, list[str]]":
    """Segments one sheet; writes mask, probabilities and the sheet with the mask laid over. Returns warnings, too.

    Args:
        model: for sheets.
        path: the sheet.
        out: folder for ``NAME_mask.tif``, ``NAME_prob.tif`` and ``NAME_overlay.png``.
        reading, asked, options: how it is read, what part of it, how it is segmented.
        key: what an interrupted run must have been made from to be gone on with.
        shift: pixels by which the grid of tiles is moved.
        progress: show a bar.

    Raises:
        UserError: a sheet that cannot be read.
    """
    from remote_sensing.maps.model.inference import segment
    from remote_sensing.maps.reports.pictures import write_overlay
    from remote_sensing.maps.sheets.parts import part_of
    from remote_sensing.maps.sheets.sheet import Sheet

    with Sheet(path, stretch=reading.stretch) as sheet:
        part = part_of(sheet.grid, asked)
        segmentation = segment(
            model, sheet, out, path.stem, part, options, key=key or {}, shift=shift, progress=progress
        )
        warnings = list(sheet.warnings)
        write_overlay(sheet.preview(1400), segmentation.mask, part, sheet.grid, out / f"{path.stem}_overlay.png")
    if not segmentation.holds_data:
        warnings.append("no pixel holds data: the mask is all nodata")
    return segmentation, warnings


def vectorise_item(item: Item) -> dict[str, Any]:
    """Vectorises the mask of one sheet of a run."""
    from remote_sensing.maps.vectors.vectorise import vectorise

    mask, probability, options = item.source
    return vectorise(mask, item.output, options, probability=probability, overwrite=True).facts()
