"""``remote-sensing maps predict``."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.bulk import Attempt, Item, bulk, summary
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.identity import begin, finish, is_done, refuse_inputs_as_outputs
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
    from remote_sensing.maps.sheets.sheet import Sheet

Format = Literal["gpkg", "geojson", "shp", "fgb"]


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
        if "polygons" in row.get("vectors", ()):
            yield from Vectors(**row["vectors"]).text()
        elif "vectors" in row:
            for layer, file in row["vectors"]["files"].items():
                yield f"  {layer}: {file}"


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
    from remote_sensing.maps.sheets.formats import find_sheets

    sheets = find_sheets(path)
    by_name: dict[str, Path] = {}
    for file in sheets:
        if file.stem in by_name:
            raise UserError(
                f"{by_name[file.stem].name} and {file.name} have the same name but for their endings",
                "predict them into different folders",
            )
        by_name[file.stem] = file
    ending = vector or ("gpkg" if vectors.centrelines else "")
    if len(sheets) == 1:  # what cannot be used is said before a model is asked for
        _check_sheet(sheets[0], sheet, part, vectors, ending)
    from remote_sensing.maps.model.folder import find_model

    folder = find_model(model)
    on_device = resolve_device(device)
    if dry_run:
        return _plan(_load(folder, on_device, precision), sheets, sheet, part, options)
    made_from = _made_from(folder, sheet, part, options, precision)
    tasks = []
    for file in sheets:
        key = {"sheet": _sheet_identity(file, sheet), **made_from}
        tasks.append(_Task(file, folder, on_device, precision, sheet, part, options, out, key, show=len(sheets) == 1))
    masks = [Item(task.sheet.name, task, task.file("mask.tif"), task.key, [task.sheet]) for task in tasks]
    layers = [_vector_item(task, ending, vectors) for task in tasks] if ending else []
    _check_outputs(tasks, layers, vectors, overwrite)
    shared: dict[str, Any] = {
        "log": out / "predict.jsonl",
        "workers": workers,
        "threads": threads,
        "skip_errors": skip_errors and len(sheets) > 1,
        "overwrite": overwrite,
    }
    if overwrite or not all(is_done(item.output, item.key) for item in masks):
        _load(folder, on_device, precision)  # a model that cannot be used is one mistake, not one per sheet
    attempts = bulk(segment_item, masks, description="Sheets", **shared)
    rows = {task.sheet.name: _row(task, attempt) for task, attempt in zip(tasks, attempts, strict=True) if attempt.ok}
    layers = [item for item in layers if item.name in rows]
    if layers:
        vector_attempts = bulk(vectorise_item, layers, description="Vectors", **shared)
        for item, attempt in zip(layers, vector_attempts, strict=True):
            if attempt.ok:
                rows[item.name]["vectors"] = attempt.facts or {"files": _vector_paths(item, vectors)}
        attempts += vector_attempts
    return SheetPredictions(list(rows.values()), attempts)


def _check_sheet(path: Path, reading: SheetOptions, asked: PartOptions, vectors: VectorOptions, ending: str) -> None:
    """Makes sure that a sheet can be read and that its coordinates allow what is asked for.

    Raises:
        UserError: they do not.
    """
    from remote_sensing.maps.sheets.grid import parse_length
    from remote_sensing.maps.sheets.parts import part_of
    from remote_sensing.maps.sheets.sheet import Sheet
    from remote_sensing.maps.vectors.vectorise import check_wgs84

    with Sheet(path, reading) as sheet:
        part_of(sheet.grid, asked)
        if ending:
            check_wgs84(path.with_suffix(f".{ending}"), vectors, sheet.grid, path)
            for name in ("simplify", "spur", "gap"):
                parse_length(getattr(vectors, name), sheet.grid, f"--{name}")
            parse_length(vectors.min_area, sheet.grid, "--min-area", power=2)


def _made_from(
    model: Path, reading: SheetOptions, asked: PartOptions, options: SegmentOptions, precision: str
) -> dict[str, Any]:
    """What masks depend on beside their sheets: the model and all options, but for how many tiles are computed at once."""
    from core_runtime.identity import identity, model_identity
    from remote_sensing.maps.sheets.formats import split_layer

    made_from: dict[str, Any] = {
        "model": model_identity(model),
        **flat(reading=reading, asked=asked, options=options, precision=precision),
    }
    del made_from["batch"]
    if asked.roi is not None:
        made_from["regions"] = identity(split_layer(asked.roi)[0])
    return made_from


def _sheet_identity(path: Path, reading: SheetOptions) -> dict[str, Any]:
    """The file, the files that a virtual raster is made of, and where it lies: a world file may change beside it."""
    from core_runtime.identity import identity
    from remote_sensing.maps.sheets.sheet import Sheet

    known: dict[str, Any] = {"file": identity(path)}
    try:
        with Sheet(path, reading) as sheet:
            known["transform"] = ", ".join(f"{value:.12g}" for value in tuple(sheet.grid.transform)[:6])
            known["crs"] = "" if sheet.grid.crs is None else sheet.grid.crs.to_wkt()
            if path.suffix.lower() == ".vrt":
                sources = [Path(file) for file in sheet.file.files if Path(file) != path]
                known["sources"] = {file.name: identity(file) for file in sources if file.is_file()}
    except UserError:
        pass  # said again by the attempt to segment it
    return known


def _vector_item(task: _Task, ending: str, vectors: VectorOptions) -> Item:
    output = task.out / f"{task.sheet.stem}.{ending}"
    source = task.file("mask.tif"), task.file("prob.tif"), vectors
    return Item(task.sheet.name, source, output, {"mask": task.key, **flat(vectors=vectors)}, [task.sheet])


def _beside(item: Item, vectors: VectorOptions) -> list[Path]:
    """The other files that are written with an item's vectors."""
    from remote_sensing.maps.vectors.vectorise import vector_files

    return [file for file in vector_files(item.output, vectors).values() if file != item.output]


def _vector_paths(item: Item, vectors: VectorOptions) -> dict[str, str]:
    from remote_sensing.maps.vectors.vectorise import vector_files

    return {layer: str(file) for layer, file in vector_files(item.output, vectors).items()}


def _check_outputs(tasks: Sequence[_Task], layers: Sequence[Item], vectors: VectorOptions, overwrite: bool) -> None:
    """Makes sure, before anything is computed, that no output replaces an input or another's file; unfinished ones are made anew.

    Raises:
        UserError: one would, or it was made from something else.
    """
    outputs: list[tuple[Path, Mapping[str, Any], list[Path]]] = [
        (task.file("mask.tif"), task.key, [task.file("prob.tif"), task.file("overlay.png")]) for task in tasks
    ]
    outputs += [(item.output, item.key, _beside(item, vectors)) for item in layers]
    every = [file for output, _, beside in outputs for file in (output, *beside)]
    refuse_inputs_as_outputs([task.sheet for task in tasks], every)
    for file, count in Counter(every).items():
        if count > 1:
            raise UserError(f"two sheets would write {file}", "predict them into different folders")
    if overwrite:
        return
    for output, key, beside in outputs:
        for file in (output, *beside):
            if file != output and not file.exists():
                continue
            done = is_done(file, key)  # raises for what was made from something else
            if file == output and done and not all(other.exists() for other in beside):
                begin(output, key)


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
        with Sheet(path, reading) as sheet:
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
    beside = task.file("prob.tif"), task.file("overlay.png")
    for file in beside:
        begin(file, task.key)
    segmentation, warnings = segment_sheet(
        model, task.sheet, task.out, task.reading, task.part, task.options, key=task.key, progress=task.show
    )
    for file in beside:
        finish(file, task.key)
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
    progress: bool = True,
) -> "tuple[Segmentation, list[str]]":
    """Segments one sheet; writes mask, probabilities and the sheet under the mask. Returns warnings, too.

    Args:
        model: for sheets.
        path: the sheet.
        out: folder for ``NAME_mask.tif``, ``NAME_prob.tif`` and ``NAME_overlay.png``.
        reading, asked, options: how it is read, what part of it, how it is segmented.
        key: what an interrupted run must have been made from to be gone on with.
        progress: show a bar.

    Raises:
        UserError: a sheet that cannot be read.
    """
    from remote_sensing.maps.model.inference import segment
    from remote_sensing.maps.reports.pictures import write_overlay
    from remote_sensing.maps.sheets.parts import part_of
    from remote_sensing.maps.sheets.sheet import Sheet

    with Sheet(path, reading) as sheet:
        part = part_of(sheet.grid, asked)
        segmentation = segment(model, sheet, out, path.stem, part, options, key=key or {}, progress=progress)
        picture = sheet.preview(1400)
        warnings = [*sheet.warnings, *_mismatches(model, sheet, options)]
        write_overlay(
            picture,
            segmentation.mask,
            part,
            sheet.grid,
            out / f"{path.stem}_overlay.png",
            shares=segmentation.shares,
            notice=model.notice,
        )
    if not segmentation.holds_data:
        warnings.append("no pixel holds data: the mask is all nodata")
    return segmentation, warnings


def _mismatches(model: "SheetModel", sheet: "Sheet", options: SegmentOptions) -> list[str]:
    """In what a sheet differs from those that the model learned from, and whether it is one of them."""
    from core_runtime.identity import identity

    notes = []
    trained_on = model.provenance.get("trained_on")
    if not isinstance(trained_on, Mapping):
        return notes
    pixel = trained_on.get("pixel")
    if isinstance(pixel, (int, float)) and pixel > 0 and sheet.grid.georeferenced and sheet.grid.metric:
        factor = pixel / sheet.grid.pixel
        if not 2 / 3 < factor / options.scale < 3 / 2:
            notes.append(
                f"a pixel is {sheet.grid.pixel:g} map units here, {pixel:g} in training: "
                f"--scale {factor:.2g} would fit if the symbols have one size on the ground"
            )
    digests = trained_on.get("digests")
    if isinstance(digests, list) and digests:
        digest = identity(sheet.path, full=True)["sha256"][:16]
        if any(str(entry).partition(":")[0] == digest for entry in digests):
            notes.append("the model learned from this sheet: its answer here says little about others")
    return notes


def vectorise_item(item: Item) -> dict[str, Any]:
    """Vectorises the mask of one sheet of a run."""
    from remote_sensing.maps.vectors.vectorise import vectorise

    mask, probability, options = item.source
    beside = _beside(item, options)
    for file in beside:
        begin(file, item.key)
    facts = vectorise(mask, item.output, options, probability=probability, overwrite=True).facts()
    for file in beside:
        finish(file, item.key)
    return facts
