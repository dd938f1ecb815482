"""Benchmarks and training sets as their authors publish them: ScreenSpot, v2, Pro, OSWorld-G, and the GUI-Actor training format."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, few
from core_runtime.pictures import DAMAGED
from gui_grounding.items.conventions import CONVENTIONS, Convention, RawBox, corners, detect, problem_of
from gui_grounding.items.item import Item, Target

DOMAINS = {
    "windows": "desktop", "macos": "desktop", "ios": "mobile", "android": "mobile",
    "tool": "web", "shop": "web", "gitlab": "web", "forum": "web",
}  # fmt: skip

ORIENTATION, SIDEWAYS = (
    0x0112,
    (5, 6, 7, 8),
)  # of EXIF: its tag, and the values under which width and height change places


@dataclass(frozen=True)
class ItemSet:
    """The items of a file or of several.

    Attributes:
        items: those that can be used.
        read: how many the files hold.
        left_out: name → why.
        notes: how the files were read, for the user.
        conventions: of each file.
    """

    items: Sequence[Item]
    read: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    def account(self) -> str:
        """One line: items read = used + left out, with reasons."""
        if not self.left_out:
            return f"{self.read} items, all used"
        reasons = Counter(self.left_out.values())
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        return f"{self.read} items = {len(self.items)} used + {len(self.left_out)} left out ({told})"


def find_annotations(path: Path) -> list[Path]:
    """The annotation files of a path: the file, or of a folder those in it and in ``annotations/``.

    Raises:
        UserError: there are none.
    """
    from gui_grounding.screens.formats import ANNOTATIONS, annotation_kind

    if not path.exists():
        raise UserError(f"no such file: {path}", "give an annotation file, or a folder with annotations/ and images/")
    candidates = [path]
    if path.is_dir():
        candidates = [*sorted(path.glob("*")), *sorted(path.glob("annotations/*"))]
    kinds = {file: annotation_kind(file) for file in candidates if file.suffix.lower() in ANNOTATIONS}
    training = [file for file, kind in kinds.items() if kind == "training"]
    files = [path] if path.is_file() else [file for file, kind in kinds.items() if kind]
    files = [file for file in files if file not in training]
    if training and not files:
        hint = "'gui-grounding train' learns from it; this takes ScreenSpot, v2, Pro or OSWorld-G"
        beside = [str(file) for file in sorted(training[0].parent.glob("annotations/*.json")) if annotation_kind(file)]
        if beside:
            hint += f", such as {beside[0]}"
        raise UserError(f"{training[0]} is a training file (conversations), not annotations", hint)
    if not files:
        raise UserError(f"{path} holds no annotations", "they are JSON or JSON lines with instruction and bbox")
    return files


def read_items(path: Path, *, images: Path | None = None, boxes: Convention | None = None) -> ItemSet:
    """As `read_annotations`, where there must be something to work on.

    Raises:
        UserError: as `read_annotations`; or no item can be used.
    """
    annotations = read_annotations(path, images=images, boxes=boxes)
    if not annotations.items:
        raise UserError(
            f"{path}: no item can be used: {annotations.account()}", "--images names the folder of the screenshots"
        )
    return annotations


def read_annotations(path: Path, *, images: Path | None = None, boxes: Convention | None = None) -> ItemSet:
    """The items of a benchmark's file, or of the files of a folder.

    Args:
        path: ScreenSpot (any version), Pro or OSWorld-G; JSON or JSON lines.
        images: folder of the screenshots; None: ``images/`` beside the annotations or above them, or their own folder.
        boxes: how boxes are counted; None: told from each whole file, and said.

    Raises:
        UserError: damaged files, duplicate ids, boxes that can be read in two ways or in none.
    """
    items: list[Item] = []
    left_out: dict[str, str] = {}
    notes: list[str] = []
    conventions: dict[str, str] = {}
    names: list[str] = []
    for file in find_annotations(path):
        records = read_records(file)
        names += [_name(file, number, record) for number, record in enumerate(records)]
        items_of_file = _read_file(file, records, images, boxes, left_out, notes, conventions)
        items += items_of_file
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise UserError(
            f"{path}: {len(duplicates)} ids stand more than once: {few(duplicates)}", "give every item an id of its own"
        )
    return ItemSet(items, len(names), left_out, notes, conventions)


def read_records(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list or of JSON lines.

    Raises:
        UserError: unreadable, damaged (the line is named), or not objects.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}", "expected JSON or JSON lines in UTF-8") from None
    try:
        records = json.loads(text)
        if isinstance(records, dict):
            records = [records]
    except RecursionError:
        raise UserError(f"{file} is nested too deeply to be read", "expected objects with plain values") from None
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise UserError(f"{file} is damaged: {error}", "expected a list of objects") from None
        # at line feeds alone: U+2028 and its like may stand inside a text of JSON
        records = [_line(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{file} is not a list of objects", "expected JSON or JSON lines with an object per item")
    for number, record in enumerate(records, 1):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{file}, item {number} holds half of a character (such as \\ud83d alone)", "write it in UTF-8"
            ) from None
    return records


def _line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise UserError(f"{file}, line {number}: nested too deeply", "mend or remove that line") from None
    except ValueError as error:
        raise UserError(f"{file}, line {number}: not JSON ({error})", "mend or remove that line") from None


def _read_file(
    file: Path,
    records: Sequence[Mapping[str, Any]],
    images: Path | None,
    boxes: Convention | None,
    left_out: dict[str, str],
    notes: list[str],
    conventions: dict[str, str],
) -> list[Item]:
    """The items of one file, in two passes: how boxes are counted can be told only from all boxes of the file together."""
    folder = image_folder(file, images)
    raw: dict[int, list[RawBox]] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    pictures: dict[Path, tuple[int, int] | None] = {}
    scaled: list[str] = []
    distorted: set[int] = set()
    for number, record in enumerate(records):
        name = _name(file, number, record)
        size = _size(file, name, record)
        path = _picture_of(record, folder)
        if path not in pictures:
            pictures[path] = _size_of_picture(path) if path.is_file() else None
        real = pictures[path]
        # boxes are counted in what the file says of the picture, where it says so
        sizes[number] = size or real
        if size and real and size != real:
            if _same_shape(size, real):
                scaled.append(f"{name}: {size[0]} × {size[1]}, its picture {real[0]} × {real[1]}")
            else:
                distorted.add(number)
        if "box_type" not in record:  # OSWorld-G says itself what its numbers are
            raw[number] = _raw_boxes(file, name, record, sizes[number])
    convention = boxes
    if raw and convention is None:
        detected = detect([box for several in raw.values() for box in several], str(file))
        convention = detected.convention
        notes.append(f"{file.name}: {detected.evidence}")
    if raw:
        assert convention is not None
        conventions[file.name] = convention
    if scaled:
        notes.append(
            f"{file.name}: img_size of {len(scaled)} items is not the size of the picture ({scaled[0]}): boxes are read as parts of img_size"
        )
    items = []
    for number, record in enumerate(records):
        name = _name(file, number, record)
        instruction = record.get("instruction")
        if not isinstance(instruction, str) or not instruction.strip():
            left_out[name] = "without an instruction"
            continue
        image = _picture_of(record, folder)
        if not image.is_file():
            left_out[name] = "whose screenshot is missing"
            continue
        if number in distorted:
            left_out[name] = "whose img_size has another shape than the picture"
            continue
        if number in raw:
            targets, problem = _boxes(raw[number], convention or CONVENTIONS[0])
        else:
            targets, problem = _osworld_target(record, sizes[number])
        if problem:
            left_out[name] = problem
            continue
        source = str(record.get("data_source") or record.get("platform") or "").lower()
        group = str(record.get("group") or _group_of_name(file) or DOMAINS.get(source, ""))
        items.append(
            Item(
                name,
                image,
                instruction,
                targets,
                sizes[number],
                ui_type=str(record.get("ui_type") or record.get("data_type") or _gui_type(record)),
                platform=source,
                group=group,
                application=str(record.get("application") or ""),
            )
        )
    return items


def image_folder(file: Path, images: Path | None) -> Path:
    """Where the screenshots of an annotation file are."""
    if images is not None:
        if not images.is_dir():
            raise UserError(f"--images {images}: no such folder")
        return images
    for folder in (file.parent / "images", file.parent.parent / "images"):
        if folder.is_dir():
            return folder
    return file.parent


def _name(file: Path, number: int, record: Mapping[str, Any]) -> str:
    identity = record.get("id")
    if identity in (None, ""):
        return f"{file.stem}:{number}"
    return str(identity)


def _picture_of(record: Mapping[str, Any], folder: Path) -> Path:
    return folder / str(record.get("img_filename") or record.get("file_name") or record.get("image_path") or "")


def _size(file: Path, name: str, record: Mapping[str, Any]) -> tuple[int, int] | None:
    size = record.get("img_size") or record.get("image_size")
    if size is None:
        return None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise UserError(f"{file}, {name}: img_size is {size}, expected [width, height]")
    return size[0], size[1]


def _size_of_picture(path: Path) -> tuple[int, int] | None:
    """Width and height of the upright picture by the header alone; None for what is not a picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ORIENTATION, 1) in SIDEWAYS
    except (*DAMAGED, Image.DecompressionBombError):
        return None
    if turned:
        return (height, width)
    return (width, height)


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other scaled, up to a pixel of rounding."""
    (width, height), (wide, high) = one, other
    return abs(width * high - height * wide) <= max(width, height, wide, high)


def _raw_boxes(file: Path, name: str, record: Mapping[str, Any], size: tuple[int, int] | None) -> list[RawBox]:
    """Four numbers, or several boxes of four."""
    value = record.get("bbox")
    boxes = [value]
    if isinstance(value, list) and value and isinstance(value[0], list):
        boxes = value
    raw = []
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(number) for number in box)):
            raise UserError(
                f"{file}, {name}: bbox is {str(value)[:60]}, expected four numbers, or a list of such boxes"
            )
        raw.append(RawBox(name, (float(box[0]), float(box[1]), float(box[2]), float(box[3])), size))
    return raw


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _boxes(raw: Sequence[RawBox], convention: Convention) -> tuple[list[Target], str]:
    """The targets, and why they cannot be used."""
    targets = []
    for box in raw:
        problem = problem_of(box, convention)
        if problem:
            return [], f"whose box cannot be used: {problem}"
        x1, y1, x2, y2 = (min(max(number, 0.0), 1.0) for number in corners(box, convention))
        targets.append(Target("box", ((x1, y1), (x2, y2))))
    return targets, ""


def _osworld_target(record: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[list[Target], str]:
    """OSWorld-G says itself what its numbers are: a box with width and height, a polygon, or a refusal."""
    kind, numbers = record.get("box_type"), record.get("box_coordinates")
    if kind == "refusal":
        return [Target("refusal")], ""
    if size is None:
        return [], "the size of whose screenshot is not known"
    if not (isinstance(numbers, list) and numbers and all(_is_number(number) for number in numbers)):
        return [], "without coordinates"
    width, height = size
    if kind == "bbox" and len(numbers) == 4:
        return _boxes([RawBox("", (numbers[0], numbers[1], numbers[2], numbers[3]), size)], "xywh")
    if kind == "polygon" and len(numbers) >= 6 and len(numbers) % 2 == 0:
        corners_of = list(zip(numbers[::2], numbers[1::2], strict=True))
        # the corners may lie a little outside the screen: the rule for boxes decides, on the polygon's own box
        across, down = [x for x, _ in corners_of], [y for _, y in corners_of]
        around = RawBox("", (min(across), min(down), max(across), max(down)), size)
        problem = problem_of(around, "xyxy") or ("" if area_of(corners_of) > 0 else "it has no area")
        if problem:
            return [], f"whose polygon cannot be used: {problem}"
        return [Target("polygon", [(x / width, y / height) for x, y in corners_of])], ""
    return [], f"of an unknown shape ({kind})"


def area_of(corners: Sequence[tuple[float, float]]) -> float:
    """Of a polygon, by the shoelace formula."""
    twice = 0.0
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        twice += x1 * y2 - x2 * y1
    return abs(twice) / 2


def _gui_type(record: Mapping[str, Any]) -> str:
    kinds = record.get("GUI_types")
    if isinstance(kinds, list) and kinds:
        return str(kinds[0])
    return ""


def _group_of_name(file: Path) -> str:
    """A few items of ScreenSpot's mobile and desktop files have the source "shop": the file's name decides before the source."""
    for group in ("mobile", "desktop", "web"):
        if group in file.stem.lower():
            return group
    return ""
