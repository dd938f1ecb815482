"""RefCOCO, RefCOCO+ and RefCOCOg: ``refs(…).p``, a pickle that is read without running anything, beside ``instances.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from vision_language.items.item import Item


def read_refcoco(path: Path, images: Path | None) -> list[Item]:
    """Every sentence of every reference, with its object's mask.

    Raises:
        UserError: a pickle that would run something, no instances.json, or a reference without its annotation.
    """
    from core_runtime.unpickling import read_pickle

    references = read_pickle(path)
    instances = path.parent / "instances.json"
    if not instances.is_file():
        raise UserError(f"{instances} is not there", "RefCOCO's masks stand in instances.json beside the references")
    try:
        content = json.loads(instances.read_text(encoding="utf-8"))
        annotations = {entry["id"]: entry for entry in content["annotations"]}
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{instances} is not COCO's: {type(error).__name__} {error}") from None
    folder = images if images is not None else path.parent / "images"
    items = []
    if not isinstance(references, list):
        raise UserError(f"{path} holds a {type(references).__name__}, expected a list of references")
    for number, reference in enumerate(references):
        try:
            annotation: Any = annotations[reference["ann_id"]]
            image = folder / files[reference["image_id"]]
            sentences = [(str(each["sent_id"]), str(each["sent"])) for each in reference["sentences"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, reference {number}: {error} is missing or unknown in {instances.name}") from None
        left, top, width, height = annotation["bbox"]
        for name, sentence in sentences:
            box = (float(left), float(top), float(width), float(height))
            items.append(Item(name, image, sentence, box, "pixels-xywh", annotation.get("segmentation"), str(image)))
    return items
