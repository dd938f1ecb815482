"""What the verbs decide before they begin, and print at their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.bulk import Outcome
from core_runtime.cli import note, resolve_device
from core_runtime.errors import UserError

if TYPE_CHECKING:
    from remote_sensing.maps.inspection import Findings
    from remote_sensing.maps.labels import Examples
    from remote_sensing.maps.training import MapTrained


def named(text: str | None) -> tuple[str, ...]:
    """``'railway,vineyard'`` as names; one class called "feature" if left out."""
    return tuple(p.strip() for p in text.split(",") if p.strip()) if text else ("feature",)


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        note.print(f"Warning: {line}", style="yellow", markup=False, soft_wrap=True)


def examples_of(
    data: Path, labels: Path | None, classes: tuple[str, ...], *, shots: int, **options: Any
) -> tuple[Examples, Examples]:
    """Training and validation examples of tiles or of a sheet with labels; the first `shots` of each, if that is not 0."""
    from dataclasses import replace

    from remote_sensing.maps.labels import siegfried, windows
    from remote_sensing.maps.sheets import find_sheets

    if labels is not None:
        sheets = find_sheets(data)
        if len(sheets) != 1:
            raise UserError(f"{data} holds {len(sheets)} sheets", "--labels goes with one sheet")
        train, val = windows(sheets[0], labels, classes=classes, **options)
    elif data.is_dir():
        train, val = siegfried(data, "train", classes), siegfried(data, "val", classes)
    else:
        raise UserError(f"{data}: a sheet needs its labels", "--labels FILE.gpkg names polygons or lines on it")
    return (replace(train, names=train.names[:shots]), replace(val, names=val.names[:shots])) if shots else (train, val)


def inspected(found: Findings) -> None:
    print(f"{found.kind}: {found.summary}")
    for key, value in found.facts.items():
        print(f"  {key}: {value}")
    warn(found.warnings)
    for command in found.next_commands:
        print(f"Next: {command}")


def trained(made: MapTrained) -> None:
    f = made.facts
    print(
        f"{f['tiles']} tiles, {f['validation_tiles']} to validate; {f['trainable']:,} of {f['parameters']:,} parameters trained"
    )
    print(f"Epoch {f['epoch']} kept: validation IoU {f['val_iou']:.3f}")
    print(f"Temperature {f['temperature']:.2f}: calibration error {f['ece_before']:.4f} before, {f['ece']:.4f} after")
    print(f"Model folder: {made.model}; adapter file: {made.model.parent / 'adapter.safetensors'}")
    print(f"Next: remote-sensing maps predict SHEET.tif --model {made.model} --vector gpkg")


def judged(
    data: Path,
    truth: Path | None,
    model: str | None,
    out: Path,
    device: Any,
    *,
    part: str,
    empty: str,
    overwrite: bool,
    **options: Any,
) -> dict[str, Any]:
    """A mask against its truth, or a model on tiles."""
    from remote_sensing.maps.evaluation import evaluate_mask, evaluate_tiles
    from remote_sensing.maps.model_folders import chosen, load

    options["classes"] = named(options["classes"])
    if truth is not None:
        return evaluate_mask(data, truth, out, overwrite=overwrite, **options)
    if data.is_file():
        raise UserError(f"{data}: a mask needs its truth", "--truth FILE.gpkg (or a raster)")
    return evaluate_tiles(
        load(chosen(model), device=resolve_device(device)), data, out, part=part, empty=empty, overwrite=overwrite
    )


def evaluated(facts: dict[str, Any], out: Path) -> None:
    def lines(values: dict[str, Any], indent: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                print(f"{indent}{name}")
                lines(value, indent + "  ")
            else:
                print(f"{indent}{name:16} {'–' if value is None or value != value else f'{value:.4g}'}")

    lines(facts, "")
    print(f"Written: {out / 'metrics.json'}")


def sheets_predicted(
    path: Path,
    model: str | None,
    out: Path,
    *,
    wanted: dict[str, Any],
    options: dict[str, Any],
    vector: str | None,
    vectors: dict[str, Any],
    device: Any,
    precision: str,
    workers: int,
    dry_run: bool,
    overwrite: bool,
    progress: bool,
) -> tuple[dict[str, Any], list[Outcome]]:
    """Predicts (or only counts), and vectorises what was asked for."""
    from remote_sensing.maps.segment import SegmentOptions
    from remote_sensing.maps.sheets import Sheet, find_sheets

    sheets = find_sheets(path)
    if len(sheets) == 1:
        with Sheet(sheets[0]):  # what cannot be read is said before a model is asked for
            pass
    settings = SegmentOptions(**options)
    from remote_sensing.maps.model_folders import chosen, load
    from remote_sensing.maps.predict import Wanted, estimate, predict
    from remote_sensing.maps.vectorise import VectorOptions, vectorise

    folder = chosen(model)
    if workers:
        import torch

        torch.set_num_threads(workers)
    loaded = load(folder, device=resolve_device(device), precision=precision)
    asked = Wanted(_box(wanted["bbox"]), wanted["roi"], wanted["stretch"])
    if dry_run:
        return {"sheets": estimate(loaded, sheets, asked, settings)}, []
    rows, outcomes = predict(loaded, sheets, out, asked, settings, overwrite=overwrite, progress=progress)
    if vector is not None or vectors["centrelines"]:
        for row in rows:
            target = out / f"{Path(row['mask']).stem.removesuffix('_mask')}.{vector or 'gpkg'}"
            made = VectorOptions(**vectors)
            row["vectors"] = vectorise(
                Path(row["mask"]), target, made, probability=Path(row["probability"]), overwrite=True, progress=progress
            )
    return {"sheets": rows, "failed": {o.name: o.message for o in outcomes if not o.ok}}, outcomes


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        left, bottom, right, top = (float(p) for p in text.split(","))
    except ValueError:
        raise UserError(f"--bbox {text!r} is not four numbers", "left,bottom,right,top in map coordinates") from None
    return left, bottom, right, top


def planned(facts: dict[str, Any]) -> None:
    for row in facts["sheets"]:
        print(f"{row['sheet']}: {row['size']}, {row['tiles']} tiles of {row['tile_side']} pixels")


def predicted(facts: dict[str, Any]) -> None:
    for row in facts["sheets"]:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in row["shares"].items())
        print(f"{row['sheet']}: {shares} of the area; {row['tiles']} tiles, {row['skipped_tiles']} without data")
        warn(row["warnings"])
        for key in ("mask", "probability", "picture"):
            print(f"  {key}: {row[key]}")
        if "vectors" in row:
            vectorised(row["vectors"])


def vectorised(facts: dict[str, Any]) -> None:
    unit = "map units" if facts["georeferenced"] else "pixels"
    print(
        f"{facts['polygons']} polygons, {facts['area']:,.0f} {unit}²; {facts['lines']} centre-lines, {facts['length']:,.0f} {unit}"
    )
    for name, file in facts["files"].items():
        print(f"  {name}: {file}")


def outlined(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        print(f"{row['sheet']}: {row['objects']} of {row['prompts']} outlined, {row['file']}")


def about_models(
    action: str, what: str | None, out: Path, sam: Path | None, classes: str | None
) -> tuple[dict[str, Any], Callable[[], None]]:
    """What `models` answers, and how it is printed."""
    from remote_sensing.maps import models

    if action == "list":
        facts = models.listed()
        return facts, lambda: _listed(facts)
    if what is None:
        wanted = {"get": "a name", "convert": "an adapter file", "check": "a model folder"}[action]
        raise UserError(f"'models {action}' needs {wanted}", "'remote-sensing maps models' lists what is published")
    if action == "get":
        facts = models.get(what, out)
    elif action == "convert":
        facts = models.convert(Path(what), out, sam=sam, classes=named(classes) if classes else None)
    else:
        facts = models.check(what)
    return facts, lambda: print("\n".join(f"{k}: {v}" for k, v in facts.items()))


def _listed(facts: dict[str, Any]) -> None:
    for m in facts["models"]:
        print(f"{m['name']:14} {m['kind']}, {m['size']}, {m['licence']}\n{'':14} needs {m['needs']}")
