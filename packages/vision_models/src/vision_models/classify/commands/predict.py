"""``vision-models classify predict``."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core_runtime.bulk import Item, bulk, failures, require_results
from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.folders import require_apart
from core_runtime.identity import keep_latest
from core_runtime.image_sets import ImageSet, ImageSetOptions, open_images
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from core_runtime.terminal import warn
from vision_models.classify.model.published import ADVICE

CHUNK = 500  # images of one item of work: what a kill costs at most
SHOWN = 24  # images on the sheet


@dataclass(frozen=True)
class Work:
    """One item of work: images by number."""

    path: Path
    how: ImageSetOptions
    numbers: Sequence[int]
    model: str
    device: str


@dataclass(frozen=True)
class Predictions(Outcome):
    """The classes of images, and the images that could not be used.

    Attributes:
        rows: image, predicted class, confidence, and the probability of every class.
        files: table and pictures by name.
        failed: image → why.
    """

    rows: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]
    failed: Mapping[str, str]

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 if self.failed else 0

    def facts(self) -> dict[str, Any]:
        return {"images": list(self.rows), "files": dict(self.files), "failed": dict(self.failed)}

    def lines(self) -> Iterable[str]:
        for row in self.rows[:20]:
            yield f"{row['image']}: {row['predicted']} ({row['confidence']:.3f})"
        if len(self.rows) > 20:
            yield f"… and {len(self.rows) - 20} more"
        for name, file in self.files.items():
            yield f"  {name}: {file}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    images: ImageSetOptions = ImageSetOptions(),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Names the class of pictures, with probabilities and, where the network attends, a picture of where it looks.

    Images that cannot be used are named and passed over. A rerun goes on with what is not done.

    Example: vision-models classify predict photos/ --model run/model --out predictions

    Args:
        path: a picture, a folder of them, or any set of images that 'train' takes.
    """
    from core_runtime.identity import model_identity
    from core_runtime.models import choose_model

    require_apart(out, path, below=True)
    opened = open_images(path, images, need_classes=False)
    for note in opened.notes:
        warn(note)
    folder = choose_model(model, advice=ADVICE)
    place = resolve_device(device)
    made_by = model_identity(Path(folder))
    _load(folder, place)  # a model that cannot be loaded is one line, not one per item
    items = []
    for start in range(0, len(opened), CHUNK):
        numbers = range(start, min(start + CHUNK, len(opened)))
        items.append(_item(Work(path, images, numbers, folder, place), opened, made_by, out))
    summaries = [out / "predictions.csv", out / "images.png"]
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", summaries=summaries, description="Predicting")
    require_results(attempts)
    return _gather(out, items, failures(attempts), opened, _load(folder, place))


def _item(work: Work, images: ImageSet, made_by: Mapping[str, Any], out: Path) -> Item:
    name = f"images {work.numbers[0] + 1:06}-{work.numbers[-1] + 1:06}"
    key = {
        "images": [images.names[number] for number in work.numbers],
        "content": [_digest(images, number) for number in work.numbers],
        "model": made_by,
    }
    inputs = list(images.files) or [work.path]
    return Item(name, work, out / "parts" / f"{name.replace(' ', '-')}.csv", key=key, inputs=inputs)


def _digest(images: ImageSet, number: int) -> str:
    try:
        return images.stored(number)
    except OSError as error:
        raise UserError(f"{images.files[number]} cannot be read: {error.strerror}") from None


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from vision_models.classify.model.folder import load_model

    return load_model(model, device=device)


@lru_cache(1)
def _open(path: Path, how: ImageSetOptions) -> ImageSet:
    """The images, once in each process."""
    return open_images(path, how, need_classes=False)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the table of some images, whole or not at all; rows of images that cannot be used hold the reason."""
    import torch

    from core_runtime.folders import writing

    work: Work = item.source
    model, images = _load(work.model, work.device), _open(work.path, work.how)
    rows: list[list[Any]] = []
    names, pending, failed = [], [], 0

    def classify() -> None:
        if pending:
            for name, shares in zip(names, model(torch.stack(pending)).tolist(), strict=True):
                values = [round(share, 5) for share in shares]
                best = shares.index(max(shares))
                rows.append([name, model.classes[best], values[best], *values, ""])
            names.clear()
            pending.clear()

    for number in work.numbers:
        try:
            image = model.preprocessing.cut(images.picture(number).image)
        except UserError as error:
            rows.append([images.names[number], "", "", *[""] * len(model.classes), error.message])
            failed += 1
            continue
        names.append(images.names[number])
        pending.append(model.preprocessing.bytes_of(image))
        if len(pending) == 64:
            classify()
    classify()
    if failed == len(rows):
        raise UserError(rows[0][-1])
    ordered = sorted(rows, key=lambda row: order_of(images, row[0]))
    with writing(item.output) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "predicted", "confidence", *model.classes, "problem"])
        writer.writerows(ordered)
    return {"images": len(rows), "failed": failed}


def order_of(images: ImageSet, name: str) -> int:
    """The place of an image among all."""
    return _places(images.names)[name]


@lru_cache(1)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _gather(out: Path, items: Sequence[Item], broken: Mapping[str, str], images: ImageSet, model: Any) -> Predictions:
    """One table of all parts, and a sheet of the first images."""
    rows: list[dict[str, Any]] = []
    failed = dict(broken)
    for item in items:
        if item.name in broken:
            continue
        with item.output.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                problem = row.pop("problem")
                if problem:
                    failed[row["image"]] = problem
                    continue
                values = {name: float(row[name]) for name in model.classes}
                confidence = float(row["confidence"])
                rows.append({"image": row["image"], "predicted": row["predicted"], "confidence": confidence} | values)
    for name, reason in failed.items():
        warn(f"failed: {name}: {reason}")
    files = {"table": _write_table(out / "predictions.csv", rows, failed, model.classes)}
    from vision_models.classify.reports.figures import image_sheet
    from vision_models.classify.reports.looking import look

    shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]  # spread over all: neighbours are often of one class
    pictures, maps, layer = look(model, images, [order_of(images, row["image"]) for row in shown])
    titles = [f"{row['predicted'][:16]}\n{row['confidence']:.2f}" for row in shown]
    heading = f"below: where {layer} looks" if layer else ""
    files["picture"] = image_sheet(pictures, titles, out / "images.png", maps=maps, heading=heading)
    return Predictions(rows, files, failed)


def _write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str], classes: Sequence[str]
) -> Path:
    from core_runtime.folders import writing

    with writing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "predicted", "confidence", *classes, "problem"])
        for row in rows:
            writer.writerow([row["image"], row["predicted"], row["confidence"], *(row[name] for name in classes), ""])
        for name, reason in failed.items():
            writer.writerow([name, "", "", *[""] * len(classes), reason])
    return path
