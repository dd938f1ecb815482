"""``vision-language inspect``."""

from collections import Counter
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings, FolderFindings, examine_files
from vision_language.items.formats import ITEMS, kind_of
from vision_language.items.item import Boxes


def inspect(path: Path, /, *, images: Path | None = None, boxes: Boxes | None = None) -> Findings | FolderFindings:
    """Says what a picture, grounding items or benchmark questions hold, and whether they can be used.

    Example: vision-language inspect data/grounding.jsonl

    Args:
        path: a picture, a file of items, or a folder.
        images: folder of the pictures of items.
        boxes: how boxes are counted, where the file does not say so.
    """
    if not path.is_dir():
        return examine(path, images, boxes)
    return examine_files(path, _files_in(path), lambda file: examine(file, images, boxes))


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first items or picture."""
    file = _files_in(path)[0] if path.is_dir() else path
    return examine(file, None, None, pictures=True)


def _files_in(folder: Path) -> list[Path]:
    from core_runtime.pictures import find_pictures

    items = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in ITEMS and kind_of(file)]
    return items or find_pictures(folder)


def examine(path: Path, images: Path | None, boxes: Boxes | None, *, pictures: bool = False) -> Findings:
    """Looks at one file.

    Raises:
        UserError: it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give a picture, grounding items or benchmark questions")
    kind = kind_of(path)
    if kind == "POPE questions":
        return _pope(path)
    if kind == "SugarCrepe pairs":
        return _sugarcrepe(path)
    if path.suffix.lower() in ITEMS:
        return _items(path, images, boxes, pictures)
    return _picture(path, pictures)


def _picture(path: Path, pictures: bool) -> Findings:
    from core_runtime.pictures import open_picture

    picture = open_picture(path)
    drawn: list[tuple[Any, str]] = []
    if pictures:
        shown = picture.image.copy()
        shown.thumbnail((800, 800))
        drawn = [(shown, "The picture, upright")]
    return Findings(
        title=path.name,
        kind="picture",
        summary=f"{picture.size[0]} × {picture.size[1]} pixels",
        warnings=picture.notes,
        next_commands=[f"vision-language ground '{path}' 'the red circle' --model run/model"],
        pictures=drawn,
    )


def _items(path: Path, images: Path | None, boxes: Boxes | None, pictures: bool) -> Findings:
    from core_runtime.pictures import open_picture
    from vision_language.items.grounding import read_items
    from vision_language.reports.overlay import draw_grounding
    from vision_language.results import Grounding

    grounded = read_items(path, images=images, boxes=boxes)
    drawn: list[tuple[Any, str]] = []
    if pictures:
        import numpy as np

        from vision_language.model.masks import box_of, peak_of

        first = grounded.items[0]
        image = open_picture(first.image).image
        mask = first.mask_in(*image.size)
        heat = mask.astype(np.float32)
        truth = Grounding(first.sentence, "annotation", heat, mask, peak_of(heat), box_of(mask), {})
        drawn = [(draw_grounding(image, truth), f"{first.image.name}: {first.sentence}")]
    groups = Counter(item.convention or "masks" for item in grounded.items)
    return Findings(
        title=path.name,
        kind="grounding items",
        summary=grounded.account(),
        details={"sentences": len(grounded.items), "layout": grounded.layout, "boxes": ", ".join(sorted(groups))},
        warnings=[f"{len(grounded.missing)} pictures are not there: their items are left out"]
        if grounded.missing
        else [],
        next_commands=[f"vision-language train grounding '{path}' --out run"],
        pictures=drawn,
    )


def _pope(path: Path) -> Findings:
    from vision_language.benchmarks.pope import read_pope

    questions = read_pope(path)
    return Findings(
        title=path.name,
        kind="POPE questions",
        summary=questions.account(),
        details={"edition": questions.edition, "labels": dict(Counter(q.label for q in questions.questions))},
        next_commands=[f"vision-language evaluate pope '{path}' --answers answers.jsonl"],
    )


def _sugarcrepe(path: Path) -> Findings:
    from vision_language.benchmarks.sugarcrepe import read_sugarcrepe

    pairs = read_sugarcrepe(path)
    return Findings(
        title=path.name,
        kind="SugarCrepe pairs",
        summary=f"{len(pairs)} captions, each with a wrong one",
        details={"pairs": len(pairs)},
        next_commands=[f"vision-language evaluate sugarcrepe '{path}' --answers scores.jsonl"],
    )
