"""``vision-models classify inspect``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError, counted
from core_runtime.findings import Findings
from core_runtime.image_sets import UNKNOWN, ImageSet, ImageSetOptions, open_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 20  # images of a class below which a warning says so
_LOOKED_AT = 2000  # images that are opened; of more, evenly spread ones


def inspect(path: Path, /, *, images: ImageSetOptions = ImageSetOptions()) -> Findings:
    """Reports what images a path holds, whether each can be used, and what to do next.

    Example: vision-models classify inspect flowers/

    Args:
        path: a picture, a folder, a table (file, label), an .npz, CIFAR's folder, a sprite sheet.
    """
    return examine(path, images)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    return examine(path, pictures=True)


def examine(path: Path, how: ImageSetOptions = ImageSetOptions(), *, pictures: bool = False) -> Findings:
    """Examines a path.

    Raises:
        UserError: nothing is there that can be read.
    """
    images = open_images(path, how)
    sizes: Counter[tuple[int, int]] = Counter()
    problems: dict[str, str] = {}
    notes: Counter[str] = Counter()
    grey = 0
    step = max(1, len(images) // _LOOKED_AT)
    looked_at = range(0, len(images), step)
    for number in looked_at:
        try:
            picture = images.picture(number)
        except UserError as error:
            problems[images.names[number]] = error.message
            continue
        sizes[picture.size] += 1
        notes.update(picture.notes)
        grey += picture.grey
    if not sizes:
        raise UserError(next(iter(problems.values())), "no image can be used")
    warnings = list(images.notes)
    for note, count in notes.items():
        warnings.append(f"{count} of {len(looked_at)} images: {note}")
    if problems:
        first, reason = next(iter(problems.items()))
        warnings.append(f"{len(problems)} of {len(looked_at)} images cannot be used, among them {first}: {reason}")
    labelled = any(label != UNKNOWN for label in images.labels)
    if labelled:
        rare = [name for name, count in images.counts().items() if count < FEW]
        if rare:
            warnings.append(f"fewer than {FEW} images of {', '.join(rare[:8])}")
        copies = len(images) - len({images.stored(number) for number in range(len(images))})
        if copies:
            warnings.append(f"{counted(copies, 'copy', 'copies')} of other images")
    drawn = []
    if pictures:
        drawn.append((_draw(images, [n for n in looked_at if images.names[n] not in problems]), "Some of the images"))
    summary = counted(len(images), "image")
    if labelled:
        summary += f" of {counted(len(images.classes), 'class', 'classes')} ({images.kind})"
    else:
        summary += " without labels: for prediction, not for training"
    return Findings(
        title=path.name,
        kind="labelled images" if labelled else "pictures",
        summary=summary,
        details=_details(images, sizes, grey, len(looked_at) - len(problems), labelled),
        data={"problems": problems},
        warnings=warnings,
        next_commands=[_next(path, images, how, labelled)],
        pictures=drawn,
    )


def _details(
    images: ImageSet, sizes: Counter[tuple[int, int]], grey: int, usable: int, labelled: bool
) -> dict[str, Any]:
    commonest = []
    for (width, height), count in sizes.most_common(3):
        commonest.append(f"{width} × {height} ({count})")
    size = ", ".join(commonest)
    if len(sizes) > 3:
        size += f" and {len(sizes) - 3} more"
    details: dict[str, Any] = {"images": len(images), "size": size, "grey": f"{grey} of {usable}"}
    if labelled:
        details["classes"] = images.counts()
        parts = Counter(part or "not stated" for part in images.parts)
        details["parts"] = dict(parts)
    return details


def _next(path: Path, images: ImageSet, how: ImageSetOptions, labelled: bool) -> str:
    if not labelled:
        return f"vision-models classify predict {quote(str(path))} --model run/model"
    given = ""
    if how.tile is not None:
        given = f" --tile {how.tile}"
    if how.rows_per_class is not None:
        given += f" --rows-per-class {how.rows_per_class}"
    if how.class_names is not None:
        given += f" --class-names {quote(','.join(how.class_names))}"
    if how.white is not None:
        given += f" --white {how.white:g}"
    return f"vision-models classify train {quote(str(path))}{given} --network resnet18 --out run"


def _draw(images: ImageSet, numbers: list[int]) -> Figure:
    """Up to 24 images, taken evenly from all."""
    import numpy as np
    from matplotlib.figure import Figure

    step = max(1, len(numbers) // 24)
    shown = numbers[::step][:24]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows), layout="constrained")
    axes = np.ravel(np.atleast_1d(figure.subplots(rows, columns)))
    for ax in axes:
        ax.set_axis_off()
    for ax, number in zip(axes, shown, strict=False):
        ax.imshow(np.asarray(images.picture(number).image))
        if images.labels[number] != UNKNOWN:
            ax.set_title(images.classes[images.labels[number]][:18], fontsize=7)
    return figure
