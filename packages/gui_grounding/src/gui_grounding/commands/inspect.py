"""``gui-grounding inspect``."""

from collections import Counter
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings, FolderFindings, examine_files
from gui_grounding.items.conventions import Convention
from gui_grounding.items.item import BUCKET_NAMES


def inspect(path: Path, /, *, images: Path | None = None, boxes: Convention | None = None) -> Findings | FolderFindings:
    """Says what a screenshot or an annotation file holds, how its boxes are counted, and whether it can be used.

    Example: gui-grounding inspect screenspot_web.json

    Args:
        path: a screenshot, a file of annotations, or a folder.
        images: folder of the screenshots of annotations.
        boxes: how boxes are counted, where the file leaves it open.
    """
    from gui_grounding.screens.formats import ANNOTATIONS, annotation_kind

    if not path.exists():
        raise UserError(f"no such file: {path}", "give a screenshot, annotations, or a folder of them")
    if not path.is_dir():
        return examine(path, images, boxes)
    candidates = [
        file for file in sorted(path.rglob("*")) if file.suffix.lower() in ANNOTATIONS and annotation_kind(file)
    ]
    from gui_grounding.screens.formats import find_screenshots

    files = candidates or find_screenshots(path)
    return examine_files(path, files, lambda file: examine(file, images, boxes))


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first annotations or screenshot."""
    from gui_grounding.screens.formats import ANNOTATIONS, annotation_kind, find_screenshots

    if path.is_dir():
        screenshots = [
            file for file in sorted(path.rglob("*")) if file.suffix.lower() in ANNOTATIONS and annotation_kind(file)
        ]
        path = (screenshots or find_screenshots(path))[0]
    return examine(path, None, None, pictures=True)


def examine(path: Path, images: Path | None, boxes: Convention | None, *, pictures: bool = False) -> Findings:
    """Looks at one file.

    Raises:
        UserError: it cannot be read.
    """
    from gui_grounding.screens.formats import ANNOTATIONS, annotation_kind

    if path.suffix.lower() not in ANNOTATIONS:
        return _examine_screenshot(path, pictures=pictures)
    kind = annotation_kind(path)
    if kind is None:
        raise UserError(
            f"{path} holds no grounding annotations", "expected instruction and bbox, or conversations with bbox_gt"
        )
    if kind == "training":
        return _examine_training(path, images, pictures=pictures)
    return _examine_items(path, kind, images, boxes, pictures=pictures)


def _examine_screenshot(path: Path, *, pictures: bool) -> Findings:
    from gui_grounding.model.patches import resized_size
    from gui_grounding.screens.pictures import open_screenshot

    screenshot = open_screenshot(path)
    width, height = screenshot.size
    columns, rows = (side // 28 for side in resized_size(width, height))
    drawn: list[tuple[Any, str]] = []
    if pictures:
        shown = screenshot.image.copy()
        shown.thumbnail((1000, 1000))
        drawn = [(shown, "The screenshot")]
    return Findings(
        title=path.name,
        kind="screenshot",
        summary=f"{width} × {height} pixels; the model sees {columns} × {rows} cells of {width / columns:.1f} × {height / rows:.1f} pixels",
        details={"size": f"{width} × {height}", "cells": columns * rows},
        warnings=screenshot.notes,
        next_commands=[f"gui-grounding predict '{path}' 'open the settings' --model run/model"],
        pictures=drawn,
    )


def _examine_items(path: Path, kind: str, images: Path | None, boxes: Convention | None, *, pictures: bool) -> Findings:
    from gui_grounding.items.reading import read_annotations

    annotations = read_annotations(path, images=images, boxes=boxes)
    usable = len(annotations.items) > 0
    screens = {item.image for item in annotations.items}
    sizes = Counter(item.bucket for item in annotations.items)
    details: dict[str, Any] = {
        "items": annotations.read,
        "usable": len(annotations.items),
        "screenshots": len(screens),
        "boxes": ", ".join(annotations.conventions.values()) or "as OSWorld-G says",
        "groups": dict(Counter(item.group or "none" for item in annotations.items)),
        "types": dict(Counter(item.ui_type or "none" for item in annotations.items)),
        "targets by share of the screenshot": {name: sizes[name] for name in BUCKET_NAMES if sizes[name]},
    }
    drawn = []
    if pictures and usable:
        drawn = _draw_first(annotations.items)
    commands = [f"gui-grounding evaluate '{path}' --model run/model", f"gui-grounding train '{path}' --out run"]
    return Findings(
        title=path.name,
        kind=f"{kind} annotations",
        summary=annotations.account(),
        usable=usable,
        details=details,
        warnings=annotations.notes,
        next_commands=commands if usable else [],
        pictures=drawn,
    )


def _draw_first(items: Any) -> list[tuple[Any, str]]:
    """The first screenshot with all of its targets."""
    from gui_grounding.reports.overlay import mark, shade
    from gui_grounding.screens.pictures import open_screenshot

    first = items[0].image
    here = [item for item in items if item.image == first]
    targets = [target for item in here for target in item.targets]
    shown = mark(shade(open_screenshot(first).image, None, longest=1000), [], [], targets)
    return [(shown, f"{first.name}: {len(here)} targets, green")]


def _examine_training(path: Path, images: Path | None, *, pictures: bool) -> Findings:
    from gui_grounding.items.item import Target
    from gui_grounding.items.mixtures import read_training
    from gui_grounding.reports.overlay import mark, shade
    from gui_grounding.screens.pictures import open_screenshot

    data = read_training(path, images=images)
    drawn: list[tuple[Any, str]] = []
    if pictures:
        example = data.examples[0]
        boxes = [box for question in example.questions for valid in question.boxes for box in valid]
        targets = [Target("box", ((x1, y1), (x2, y2))) for x1, y1, x2, y2 in boxes]
        shown = mark(shade(open_screenshot(example.image).image, None, longest=1000), [], [], targets)
        drawn = [(shown, f"{example.image.name}: {len(targets)} targets, green")]
    return Findings(
        title=path.name,
        kind="training conversations",
        summary=data.account,
        details={"screenshots": len(data.examples), "questions": data.questions},
        warnings=data.notes,
        next_commands=[f"gui-grounding train '{path}' --out run"],
        pictures=drawn,
    )
