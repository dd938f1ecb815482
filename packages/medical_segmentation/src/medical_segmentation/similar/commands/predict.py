"""``medical-segmentation similar predict``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, failures
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.options import Between, BulkOptions, Device, Model, Out, resolve_device
from medical_segmentation.similar.images import find_images

CLASSES = {"background": 0, "seen": 1}


@dataclass(frozen=True)
class Work:
    """One image."""

    source: Path
    number: int
    model: str
    device: str
    threshold: float | None


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """Where the model looks in every image.

    Attributes:
        out: a folder that ``organs train`` takes: images/, labels/, dataset.json; pictures beside them.
        attempts: what became of each image.
    """

    out: Path
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        shares = {attempt.name: attempt.facts.get("share") for attempt in self.attempts if attempt.ok}
        return {"out": self.out, "shares": shares, "failed": failures(self.attempts)}

    def lines(self) -> Iterable[str]:
        done = sum(attempt.ok for attempt in self.attempts)
        yield f"{done} images with attention maps and proxy masks in {self.out}"
        yield f"Next: medical-segmentation organs train {quote(str(self.out))} --network unet --out proxy-run"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("proxies"),
    threshold: Annotated[float | None, Between(0, 1)] = None,
    most: int = 10_000,
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Draws where the model looks, and writes it as proxy masks in a folder that 'organs train' takes.

    Example: medical-segmentation similar predict lesions/ --model run/model --out proxies

    Args:
        path: an image, or images as for train.
        threshold: of the map from 0 to 1; default: Otsu's, image by image.
        most: images at most.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import identity, model_identity
    from core_runtime.models import choose_model
    from medical_segmentation.similar.model.folder import ADVICE

    images = find_images(path)
    folder = choose_model(model, advice=ADVICE)
    made_by = model_identity(Path(folder))
    place = resolve_device(device)
    loaded = _load(folder, place)
    if loaded.network.attention_map is None:
        raise UserError(
            f"{folder} was trained without attention: it has no maps to show", "train without --no-attention"
        )
    root = path if path.is_dir() else path.parent
    items = []
    for number in range(min(len(images), most)):
        source = path if images.arrays is not None else root / images.names[number]
        name = images.names[number].replace(" ", "_").replace("/", "_").rsplit(".", 1)[0]
        key = {"image": identity(source), "number": number, "model": made_by, "threshold": threshold}
        work = Work(path, number, folder, place, threshold)
        items.append(Item(name, work, out / "labels" / f"{name}.nii.gz", key=key, inputs=[source]))
    names = [item.name for item in items]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two images would have the same result", "rename one of them")
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Looking")
    write_text(out / "classes.json", json.dumps(CLASSES) + "\n")
    return Predictions(out, attempts)


@keep_latest
def _load(model: str, device: str) -> Any:
    from medical_segmentation.similar.model.folder import load_model

    return load_model(model, device=device)


@lru_cache(1)
def _images(path: Path) -> Any:
    return find_images(path)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes an image and its proxy mask as volumes of one slice, and a picture of the map."""
    import numpy as np

    from medical_segmentation.similar.proxies import proxy_mask, seen_map
    from medical_segmentation.similar.reports.figures import neighbour_sheet
    from medical_segmentation.volumes.geometry import Geometry
    from medical_segmentation.volumes.nifti import write_nifti
    from medical_segmentation.volumes.volume import Volume

    work: Work = item.source
    model = _load(work.model, work.device)
    picture = _images(work.source).read(work.number)
    seen = seen_map(model([picture]).attention[0], picture.shape[:2], model.image_size)
    mask = proxy_mask(seen, threshold=work.threshold)
    grey = picture.mean(2).round().astype(np.uint8)
    shape = (picture.shape[1], picture.shape[0], 1)
    grid = Volume(grey.T[..., None], Geometry(shape, np.eye(4)), "picture", [work.source])
    out = item.output.parent.parent
    write_nifti(np.ascontiguousarray(grey.T[..., None]), grid, out / "images" / f"{item.name}.nii.gz")
    neighbour_sheet([picture], [seen], [[]], [[item.name]], [[]], out / "pictures" / f"{item.name}.png")
    write_nifti(np.ascontiguousarray(mask.T[..., None].astype(np.uint8)), grid, item.output)
    return {"share": float(mask.mean())}
