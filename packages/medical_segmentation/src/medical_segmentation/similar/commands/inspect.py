"""``medical-segmentation similar inspect``."""

from collections import Counter
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.errors import UserError, few
from core_runtime.findings import Findings
from medical_segmentation.similar.images import find_images

LOOKED_AT = 50  # images that are opened
FEW = 8  # images of a class below which a batch repeats them


def inspect(path: Path, /) -> Findings:
    """Reports images, classes, parts and problems of labelled images.

    Example: medical-segmentation similar inspect breastmnist.npz

    Args:
        path: a folder of class folders, a table with columns path and label, a list file, or a MedMNIST .npz.
    """
    return examine(path, pictures=False)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    return examine(path, pictures=True)


def examine(path: Path, *, pictures: bool) -> Findings:
    """Examines a path.

    Raises:
        UserError: nothing is there that can be read, or an image of the first ones is damaged.
    """
    images = find_images(path)
    shapes: Counter[str] = Counter()
    constant = []
    for number in range(min(len(images), LOOKED_AT)):
        pixels = images.read(number)
        shapes[f"{pixels.shape[1]} × {pixels.shape[0]}"] += 1
        if pixels.min() == pixels.max():
            constant.append(images.names[number])
    details: dict[str, Any] = {
        "layout": images.layout,
        "images": len(images),
        f"sizes (of the first {LOOKED_AT})": dict(shapes),
    }
    warnings = []
    if constant:
        warnings.append(f"{len(constant)} of the first {LOOKED_AT} images have one value everywhere: {few(constant)}")
    if images.labels:
        counts = Counter(images.labels)
        details["classes"] = {name: counts[number] for number, name in enumerate(images.classes)}
        parts = {part: len(images.numbers(part)) for part in ("train", "val", "test") if images.numbers(part)}
        details["parts"] = parts or "none: they are drawn class by class"
        rare = [images.classes[number] for number, count in counts.items() if count < FEW]
        if rare:
            warnings.append(f"fewer than {FEW} images of {', '.join(rare)}: batches repeat them")
        if max(counts.values()) > 10 * min(counts.values()):
            warnings.append(
                "the largest class is more than ten times the smallest: look at recall by class, not at the mean"
            )
    else:
        warnings.append("there are no classes: such images can be searched, not trained on")
    drawn = []
    if pictures:
        from medical_segmentation.similar.reports.figures import draw_classes

        drawn.append((draw_classes(images), "Images of each class"))
    verb = "train" if images.labels else "index"
    rest = "--out run" if images.labels else "--model run/model --out index"
    return Findings(
        title=path.name,
        kind="labelled images" if images.labels else "images",
        summary=f"{len(images)} images of {len(images.classes)} classes ({images.layout})",
        usable=len(set(images.labels)) > 1 or not images.labels,
        details=details,
        warnings=warnings,
        next_commands=[f"medical-segmentation similar {verb} {quote(str(path))} {rest}"],
        pictures=drawn,
    )


def require_readable(path: Path) -> None:
    """The first image of a path can be read.

    Raises:
        UserError: it cannot, or there is none.
    """
    images = find_images(path)
    if not len(images):
        raise UserError(f"{path} holds no images")
    images.read(0)
