"""``vision-models detect inspect``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.boxes import BoxSet
from core_runtime.errors import UserError, counted, few
from core_runtime.findings import Findings
from core_runtime.pictures import find_pictures, open_picture
from vision_models.detect.scenes.exdark import read_list
from vision_models.detect.scenes.formats import kind_of
from vision_models.detect.scenes.opening import HINT, open_boxes
from vision_models.detect.scenes.options import ImageFolder
from vision_models.detect.scenes.sizes import LEAST, upright_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKED_AT = 300  # pictures that are opened; of more, evenly spread ones
DARK = 50  # mean brightness below which a picture counts as dark, of 255


def inspect(path: Path, /, *, images: ImageFolder = None) -> Findings:
    """Reports what pictures with boxes hold, how dark they are, whether they can be used, and what to do next.

    Example: vision-models detect inspect ExDark/

    Args:
        path: a COCO file or a folder with one, an ExDark or DARK FACE folder, ExDark's list, a picture or a folder of them.
    """
    return examine(path, images)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    return examine(path, pictures=True)


def examine(path: Path, images: Path | None = None, *, pictures: bool = False) -> Findings:
    """Examines a path.

    Args:
        path: as of `inspect`.
        images: folder of a COCO file's pictures, where it is not beside it.
        pictures: whether some of them are drawn.

    Raises:
        UserError: nothing is there that can be read.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", HINT)
    kind = kind_of(path)
    if kind == "ExDark list":
        return _examine_list(path)
    if kind is not None or path.suffix.lower() == ".json":
        return _examine_boxes(path, images, pictures)
    return _examine_pictures(path, pictures)


def _examine_list(path: Path) -> Findings:
    listed = list(read_list(path).values())
    details: dict[str, Any] = {"pictures": len(listed)}
    for name, values in (
        ("parts", [entry.part for entry in listed]),
        ("classes", [entry.label for entry in listed]),
        ("light", [entry.light for entry in listed]),
        ("place", [entry.place for entry in listed]),
    ):
        details[name] = dict(Counter(values))
    parts = details["parts"]
    return Findings(
        title=path.name,
        kind="ExDark's list of pictures",
        summary=f"{counted(len(listed), 'picture')}: {parts.get('train', 0):,} train, {parts.get('val', 0):,} validate, {parts.get('test', 0):,} test",
        usable=False,
        details=details,
        warnings=["the list alone: the pictures and their annotations are needed, too"],
        next_commands=[f"vision-models detect inspect {quote(str(path.parent))}"],
    )


def _examine_boxes(path: Path, folder: Path | None, pictures: bool) -> Findings:
    scenes = open_boxes(path, folder)
    absent = [image.name for image in scenes.images if not image.file.is_file()]
    small = [image.name for image in scenes.images if min(image.size) < LEAST]
    warnings = scenes.warnings()
    if absent:
        warnings.append(f"{counted(len(absent), 'picture')} missing: {few(absent)}")
    if small:
        warnings.append(f"{counted(len(small), 'picture')} smaller than {LEAST} pixels: {few(small)}")
    other_size = _of_another_size(scenes)
    if other_size:
        what = counted(len(other_size), "picture")
        warnings.append(f"{what} of another size than was stated: {few(other_size)}")
    without = sum(not image.boxes for image in scenes.images)
    sides = sorted(max(image.size) for image in scenes.images)
    present = [image.file for image in scenes.images if image.file.is_file()]
    brightness, problems = _brightness(present)
    details: dict[str, Any] = {
        "pictures": len(scenes.images),
        "without a box": without,
        "boxes": {name: count for name, count in scenes.counts().items() if count},
        "parts": dict(Counter(image.part or "not stated" for image in scenes.images)),
        "longer side": f"{sides[0]} to {sides[-1]} pixels, half at most {sides[len(sides) // 2]}",
        "brightness": _in_words(brightness),
    }
    if problems:
        warnings.append(
            f"{counted(len(problems), 'picture')} cannot be used: {few(list(problems))}: {next(iter(problems.values()))}"
        )
    drawn = []
    if pictures and present:
        drawn.append((_draw(scenes), "Some pictures, brightened for the eye, with their boxes"))
    usable = not absent and not small and not other_size and not problems and scenes.box_count > 0
    train = f"vision-models detect train {quote(str(path))}"
    if folder is not None:
        train += f" --images {quote(str(folder))}"
    return Findings(
        title=path.name,
        kind=f"pictures with boxes ({scenes.kind})",
        summary=f"{scenes.summary()} of {counted(len(details['boxes']), 'class', 'classes')}",
        usable=usable,
        details=details,
        warnings=warnings,
        next_commands=[f"{train} --out run"],
        pictures=drawn,
    )


def _of_another_size(scenes: BoxSet) -> list[str]:
    """Names of the pictures whose size is not the stated one; those that cannot be read are named elsewhere."""
    names = []
    for image in scenes.images:
        try:
            size, _ = upright_size(image.file)
        except UserError:
            continue
        if size != image.size:
            names.append(image.name)
    return names


def _examine_pictures(path: Path, pictures: bool) -> Findings:
    files = find_pictures(path)
    if not path.is_dir():
        open_picture(path)  # a single file that is not a picture is one line
    brightness, problems = _brightness(files)
    if not brightness:
        raise UserError(next(iter(problems.values())), "no picture can be used")
    warnings = []
    if problems:
        warnings.append(
            f"{counted(len(problems), 'picture')} cannot be used: {few(list(problems))}: {next(iter(problems.values()))}"
        )
    drawn = []
    if pictures:
        drawn.append(
            (
                _draw_pictures([file for file in files if file.name not in problems]),
                "As taken, and brightened for the eye",
            )
        )
    return Findings(
        title=path.name,
        kind="pictures",
        summary=f"{len(files)} picture{'s' * (len(files) != 1)} without boxes: for prediction, not for training",
        details={"pictures": len(files), "brightness": _in_words(brightness)},
        warnings=warnings,
        next_commands=[f"vision-models detect predict {quote(str(path))} --model run/model"],
        pictures=drawn,
    )


def _brightness(files: list[Path]) -> tuple[list[float], dict[str, str]]:
    """Mean brightness of pictures, 0 to 255, and those that cannot be used."""
    values, problems = [], {}
    step = max(1, len(files) // _LOOKED_AT)
    for file in files[::step]:
        try:
            small = open_picture(file).image.convert("L").resize((32, 32))
        except UserError as error:
            problems[file.name] = error.message
            continue
        values.append(sum(small.tobytes()) / 1024)
    return values, problems


def _in_words(brightness: list[float]) -> str:
    if not brightness:
        return "not known"
    dark = sum(value < DARK for value in brightness)
    median = sorted(brightness)[len(brightness) // 2]
    return f"median {median:.0f} of 255, {dark} of {len(brightness)} looked at are dark (below {DARK})"


def _draw(scenes: Any) -> Figure:
    import numpy as np
    from matplotlib.figure import Figure

    from vision_models.detect.reports.figures import brightened, draw_boxes

    images = [image for image in scenes.images if image.file.is_file()]
    shown = images[:: max(1, len(images) // 8)][:8]
    figure = Figure(figsize=(3 * min(4, len(shown)), 2.5 * -(-len(shown) // 4)), layout="constrained")
    axes = np.ravel(np.atleast_1d(figure.subplots(-(-len(shown) // 4), min(4, len(shown)))))
    for ax in axes:
        ax.set_axis_off()
    for ax, image in zip(axes, shown, strict=False):
        boxes = [(box, label, scenes.classes[label]) for box, label in zip(image.boxes, image.labels, strict=True)]
        draw_boxes(ax, brightened(open_picture(image.file).image), boxes)
    return figure


def _draw_pictures(files: list[Path]) -> Figure:
    import numpy as np
    from matplotlib.figure import Figure

    from vision_models.detect.reports.figures import brightened

    shown = files[:: max(1, len(files) // 4)][:4]
    figure = Figure(figsize=(3 * len(shown), 5), layout="constrained")
    axes = np.reshape(figure.subplots(2, len(shown)), (2, len(shown)))
    for column, file in enumerate(shown):
        image = open_picture(file).image
        axes[0, column].imshow(np.asarray(image))
        axes[1, column].imshow(brightened(image))
    for ax in axes.ravel():
        ax.set_axis_off()
    return figure
