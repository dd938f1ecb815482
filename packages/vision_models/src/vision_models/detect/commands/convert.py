"""``vision-models detect convert``."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.boxes import BoxSet
from core_runtime.cli import Outcome
from core_runtime.options import Out, Overwrite
from vision_models.detect.scenes.options import ImageFolder, Scenes


@dataclass(frozen=True)
class Converted(Outcome):
    """A COCO file written from pictures with boxes.

    Attributes:
        scenes: what was read.
        files: of all pictures, and of each part that is stated.
    """

    scenes: BoxSet
    files: dict[str, Path]

    def facts(self) -> dict[str, Any]:
        counts = {"pictures": len(self.scenes.images), "boxes": self.scenes.box_count}
        return {"kind": self.scenes.kind, **counts, "files": self.files, "warnings": self.scenes.warnings()}

    def lines(self) -> Iterable[str]:
        yield f"{self.scenes.kind}: {self.scenes.summary()}"
        for warning in self.scenes.warnings():
            yield f"Warning: {warning}"
        for name, file in self.files.items():
            yield f"  {name}: {file}"


def convert(
    data: Scenes, /, *, out: Out = Path("coco"), images: ImageFolder = None, overwrite: Overwrite = False
) -> Converted:
    """Writes COCO files from ExDark's or DARK FACE's native layout: one of all pictures, one of each part.

    Example: vision-models detect convert ExDark/ --out exdark-coco
    """
    from dataclasses import replace

    from core_runtime.boxes import coco_of
    from core_runtime.folders import require_apart, writing
    from core_runtime.identity import begun, refuse_foreign_folder
    from vision_models.detect.scenes.opening import open_boxes

    require_apart(out, data)
    refuse_foreign_folder(out, [data], overwrite=overwrite)
    scenes = open_boxes(data, images)
    names = {"all": scenes.images}
    for part in ("train", "val", "test"):
        members = tuple(image for image in scenes.images if image.part == part)
        if members:
            names[part] = members
    with begun(out, {"data": str(data)}), writing(out) as folder:
        folder.mkdir()
        for name, members in names.items():
            described = json.dumps(coco_of(replace(scenes, images=members)))
            (folder / f"{name}.json").write_text(described + "\n", encoding="utf-8")
    return Converted(scenes, {name: out / f"{name}.json" for name in names})
