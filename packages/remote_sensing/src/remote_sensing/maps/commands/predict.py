"""``remote-sensing maps predict``."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.identity import begin, finish, is_done, keep_latest, refuse_inputs_as_outputs
from core_runtime.options import BulkOptions, Device, Model, Out, Precision, flat, resolve_device
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.predictions.keys import made_from, sheet_identity
from remote_sensing.maps.predictions.sheets import segment_sheet
from remote_sensing.maps.sheets.options import PartOptions, SheetOptions
from remote_sensing.maps.vectors.options import VectorOptions

if TYPE_CHECKING:
    from remote_sensing.maps.model.folder import SheetModel

Format = Literal["gpkg", "geojson", "shp", "fgb"]


@dataclass(frozen=True)
class SheetPlan(Outcome):
    """The work that ``predict`` would do."""

    sheets: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, Any]:
        return {"sheets": self.sheets}

    def lines(self) -> Iterable[str]:
        for row in self.sheets:
            yield f"{row['sheet']}: {row['size']}, {row['tiles']} tiles of {row['tile_side']} pixels"


@dataclass(frozen=True)
class SheetPredictions(BulkOutcome):
    """The results on each sheet.

    Attributes:
        sheets: figures and files of each sheet that succeeded.
        attempts: the result of each sheet, and of its vectors.
    """

    sheets: Sequence[Mapping[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"sheets": self.sheets, "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for row in self.sheets:
            yield from self._lines_of(row)
        if self.sheets and all(row["status"] == "already done" for row in self.sheets):
            yield "All sheets were done before; --overwrite predicts them again."

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
    """The work of a process on one sheet."""

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
        """The path of one of the written files."""
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
    run: BulkOptions = BulkOptions(),
) -> SheetPredictions | SheetPlan:
    """Segments sheets of any size: mask, probabilities, polygons, centre-lines. A killed run continues by row strips.

    Example: remote-sensing maps predict sheet.tif --model run/model --vector gpkg --centrelines --out maps

    Args:
        path: a sheet or a folder of sheets.
        vector: write polygons, too, in this format.
        dry_run: only report the number of tiles.
    """
    from remote_sensing.maps.sheets.formats import find_sheets

    sheets = find_sheets(path)
    by_name: dict[str, Path] = {}
    for file in sheets:
        if file.stem in by_name:
            raise UserError(
                f"{by_name[file.stem].name} and {file.name} differ only in their endings",
                "predict them into different folders",
            )
        by_name[file.stem] = file
    ending = vector or ""
    if vectors.centrelines and not ending:
        ending = "gpkg"
    if len(sheets) == 1:  # an unusable sheet is reported before a missing model
        _check_sheet(sheets[0], sheet, part, vectors, ending)
    from remote_sensing.maps.model.folder import find_model

    folder = find_model(model)
    on_device = resolve_device(device)
    if dry_run:
        return _plan(_load(folder, on_device, precision), sheets, sheet, part, options)
    parts = made_from(folder, sheet, part, options, precision)
    tasks = []
    for file in sheets:
        key = {"sheet": sheet_identity(file, sheet), **parts}
        tasks.append(_Task(file, folder, on_device, precision, sheet, part, options, out, key, show=len(sheets) == 1))
    masks, layers = [], []
    for task in tasks:
        masks.append(Item(task.sheet.name, task, task.file("mask.tif"), task.key, [task.sheet]))
        if ending:
            layers.append(_vector_item(task, ending, vectors))
    _check_outputs(tasks, layers, vectors, run.overwrite)
    if run.overwrite or not all(is_done(item.output, item.key) for item in masks):
        _load(folder, on_device, precision)  # an unusable model is one error, not one per sheet
    attempts = bulk(segment_item, masks, run, log=out / "predict.jsonl", description="Sheets")
    rows = {}
    for task, attempt in zip(tasks, attempts, strict=True):
        if attempt.ok:
            rows[task.sheet.name] = _row(task, attempt)
    layers = [item for item in layers if item.name in rows]
    if layers:
        vector_attempts = bulk(
            vectorise_item, layers, run, log=out / "predict.jsonl", description="Vectors", parts=len(sheets) > 1
        )
        for item, attempt in zip(layers, vector_attempts, strict=True):
            if attempt.ok:
                rows[item.name]["vectors"] = attempt.facts or {"files": _vector_paths(item, vectors)}
        attempts += vector_attempts
    return SheetPredictions(list(rows.values()), attempts)


def _check_sheet(path: Path, reading: SheetOptions, asked: PartOptions, vectors: VectorOptions, ending: str) -> None:
    """Makes sure that a sheet can be read and that its coordinates allow what the user requests.

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


def _vector_item(task: _Task, ending: str, vectors: VectorOptions) -> Item:
    # its key is the mask's and more: another mask makes other vectors
    output = task.out / f"{task.sheet.stem}.{ending}"
    source = task.file("mask.tif"), task.file("prob.tif"), vectors
    return Item(task.sheet.name, source, output, {"mask": task.key, **flat(vectors=vectors)}, [task.sheet])


def _beside(item: Item, vectors: VectorOptions) -> list[Path]:
    """The other files written with an item's vectors."""
    from remote_sensing.maps.vectors.vectorise import vector_files

    return [file for file in vector_files(item.output, vectors).values() if file != item.output]


def _vector_paths(item: Item, vectors: VectorOptions) -> dict[str, str]:
    from remote_sensing.maps.vectors.vectorise import vector_files

    return {layer: str(file) for layer, file in vector_files(item.output, vectors).items()}


def _check_outputs(tasks: Sequence[_Task], layers: Sequence[Item], vectors: VectorOptions, overwrite: bool) -> None:
    """Makes sure, before anything is computed, that no output replaces an input or another's file; incomplete ones are made again.

    Raises:
        UserError: one would, or it was made from something else.
    """
    outputs: list[tuple[Path, Mapping[str, Any], list[Path]]] = []
    for task in tasks:
        outputs.append((task.file("mask.tif"), task.key, [task.file("prob.tif"), task.file("overlay.png")]))
    for item in layers:
        outputs.append((item.output, item.key, _beside(item, vectors)))
    every: list[Path] = []
    for output, _, beside in outputs:
        every += [output, *beside]
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
            done = is_done(file, key)  # raises an error for a file made from something else
            # a mask without its other files (the user deleted one, say) is not done: it is marked as begun
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


@keep_latest
def _load(folder: Path, device: str, precision: str) -> "SheetModel":
    """The model, once in each process as long as its folder stays as it is."""
    from remote_sensing.maps.model.folder import load

    return load(folder, device=device, precision=precision)


def segment_item(item: Item) -> dict[str, Any]:
    """Segments one sheet of a run."""
    task: _Task = item.source
    model = _load(task.model, task.device, task.precision)
    # All three files belong to one key; `bulk` records the mask, the others are recorded here.
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
