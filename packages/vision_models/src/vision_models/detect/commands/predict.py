"""``vision-models detect predict``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results
from core_runtime.folders import require_apart
from core_runtime.identity import keep_latest
from core_runtime.options import AtLeast, Between, BulkOptions, Device, Model, Out, options, resolve_device
from core_runtime.pictures import find_pictures
from vision_models.detect.model.published import ADVICE
from vision_models.detect.results import FoundBox

SHOWN = 6  # pictures on the sheet


@options
class PredictionOptions:
    """Which boxes are given.

    Attributes:
        threshold: least score of a box.
        most: boxes per picture, the surest first.
    """

    threshold: Annotated[float, Between(0, 1)] = 0.3
    most: Annotated[int, AtLeast(1)] = 100


@dataclass(frozen=True)
class Work:
    """One item of work: a picture."""

    file: Path
    model: str
    device: str
    options: PredictionOptions


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """The boxes of pictures, and the pictures that could not be used.

    Attributes:
        boxes: picture → its boxes (class, score, box: left, top, right, bottom in pixels).
        files: results and picture by name.
        attempts: what became of each picture.
    """

    boxes: Mapping[str, Sequence[Mapping[str, Any]]]
    files: Mapping[str, Path]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"boxes": dict(self.boxes), "files": dict(self.files), "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for name, boxes in list(self.boxes.items())[:20]:
            words = ", ".join(f"{box['class']} {box['score']:.2f}" for box in boxes[:6])
            if len(boxes) > 6:
                words += f" and {len(boxes) - 6} more"
            yield f"{name}: {words or 'nothing found'}"
        if len(self.boxes) > 20:
            yield f"… and {len(self.boxes) - 20} more pictures"
        for name, file in self.files.items():
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
    """Finds boxes in pictures: one JSON per picture, COCO results of all, and pictures before and after enhancement.

    Pictures that cannot be used are named and passed over. A rerun goes on with what is not done.

    Example: vision-models detect predict night/ --model run/model --out predictions

    Args:
        path: a picture, or a folder of them.
    """
    from core_runtime.identity import identity, model_identity
    from core_runtime.models import choose_model

    require_apart(out, path, below=True)
    files = find_pictures(path)
    folder = choose_model(model, advice=ADVICE)
    place = resolve_device(device)
    made_by = model_identity(Path(folder))
    items = []
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        key = {"picture": identity(file), "model": made_by, "options": options}
        work = Work(file, folder, place, options)
        items.append(Item(name, work, out / "boxes" / f"{name}.json", key=key, inputs=[file]))
    _load(folder, place)  # a model that cannot be loaded is one line, not one per picture
    summaries = [out / "boxes.json", out / "scenes.png"]
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", summaries=summaries, description="Finding boxes")
    require_results(attempts)
    return _gather(out, items, attempts, options)


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from vision_models.detect.model.folder import load_model

    return load_model(model, device=device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes the boxes of one picture."""
    from core_runtime.folders import write_text
    from vision_models.detect.model.inference import read_tensor

    work: Work = item.source
    model = _load(work.model, work.device)
    tensor = read_tensor(work.file)
    (boxes,) = model([tensor], threshold=work.options.threshold, most=work.options.most)
    rows = []
    for each in boxes:
        rows.append(
            {"class": model.classes[each.label], "score": round(each.score, 5), "box": [round(v, 2) for v in each.box]}
        )
    described = {"picture": item.name, "width": tensor.shape[2], "height": tensor.shape[1], "boxes": rows}
    write_text(item.output, json.dumps(described, indent=1) + "\n")
    return {"boxes": len(rows)}


def coco_results(
    names: Sequence[str], found: Sequence[Sequence[FoundBox]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Boxes as COCO's results, with the names of pictures and classes beside them."""
    results = []
    for name, boxes in zip(names, found, strict=True):
        for each in boxes:
            left, top, right, bottom = each.box
            results.append(
                {
                    "file_name": name,
                    "category": classes[each.label],
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "score": round(each.score, 5),
                }
            )
    return results


def _gather(out: Path, items: Sequence[Item], attempts: Sequence[Attempt], how: PredictionOptions) -> Predictions:
    """One file of all boxes, and a sheet of the first pictures."""
    from core_runtime.boxes import BoxedImage
    from core_runtime.folders import write_text
    from vision_models.detect.reports.scenes import draw_scenes

    work: Work = items[0].source
    model = _load(work.model, work.device)
    boxes: dict[str, Any] = {}
    images, boxes_of_images = [], []
    for item, attempt in zip(items, attempts, strict=True):
        if not attempt.ok:
            continue
        described = json.loads(item.output.read_text(encoding="utf-8"))
        boxes[item.name] = described["boxes"]
        images.append(BoxedImage(item.name, item.source.file, (described["width"], described["height"])))
        own = []
        for row in described["boxes"]:
            own.append(FoundBox(tuple(row["box"]), model.classes.index(row["class"]), row["score"]))
        boxes_of_images.append(own)
    results = coco_results(list(boxes), boxes_of_images, model.classes)
    write_text(out / "boxes.json", json.dumps(results, indent=1) + "\n")
    step = max(1, len(images) // SHOWN)
    picture = draw_scenes(
        out / "scenes.png", images[::step][:SHOWN], boxes_of_images[::step][:SHOWN], model, threshold=how.threshold
    )
    return Predictions(boxes, {"boxes": out / "boxes.json", "picture": picture}, attempts)
