"""Areas of interest from files.

Files: JSON of boxes and polygons, COCO JSON, CSV, label images (PNG or TIFF of whole numbers, 0 outside).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, few
from core_runtime.pictures import DAMAGED
from core_runtime.tables import match_name
from gaze.scanpaths.aois import Areas
from gaze.scanpaths.assignment import assign, dwell, in_polygon, object_of_box
from gaze.scanpaths.json_files import is_number, numbers, read_json, text

__all__ = ["areas_of", "assign", "dwell", "in_polygon", "look_at_boxes", "object_of_box", "read_areas"]

_BOXES = (
    ("left", "top", "width", "height"),
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
    ("x1", "y1", "x2", "y2"),
)
_NAMES = ("name", "label", "area", "aoi", "object", "id", "category")
_STIMULI = ("stimulus", "image", "file_name", "image_name", "picture", "filename")
_LARGEST_LABEL = 1_000_000
_PERCENT = 101.0  # pixels
_FRACTION = 1.5  # pixels: where areas end that are fractions of the picture, with some way beyond its edge


def read_areas(path: Path, *, size: tuple[int, int] | None = None) -> dict[str, Areas]:
    """The objects of each stimulus that a file names; under "" where it names none.

    Args:
        path: JSON, CSV, PNG or TIFF.
        size: width and height of the picture, so that objects outside of it are noted.

    Raises:
        UserError: not such a file, a box without extent, a polygon of fewer than three corners, fractions for pixels, or no object at all.
    """
    if not path.is_file():
        raise UserError(
            f"no such file: {path}", "areas are JSON (boxes, polygons, COCO), CSV, or a label image (PNG, TIFF)"
        )
    suffix = path.suffix.lower()
    if suffix in (".png", ".tif", ".tiff"):
        return {"": _from_label_image(path)}
    if suffix == ".json":
        objects = _objects_of_json(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        objects = _objects_of_table(path)
    else:
        raise UserError(
            f"{path}: areas are not read from {suffix or 'such files'}", "give JSON, CSV, or a label image (PNG, TIFF)"
        )
    if not any(objects.values()):
        raise UserError(f"{path} holds no objects")
    areas = {stimulus: _areas(stimulus, entries, path, size) for stimulus, entries in objects.items()}
    corners = np.concatenate(
        [np.concatenate([each.boxes[:, :2], each.boxes[:, :2] + each.boxes[:, 2:]]) for each in areas.values()]
    )
    if corners.min() >= -0.5 and corners.max() <= _FRACTION:
        raise UserError(
            f"{path}: every area ends within the first {_FRACTION:g} pixels: these are fractions of the picture, not pixels",
            "multiply them by the picture's width and height",
        )
    return areas


def areas_of(picture: str, known: Mapping[str, Areas]) -> Areas | None:
    """The objects of one picture among those of a file: by its name, its name without the ending, or its number.

    A detector's COCO results name pictures by numbers: 400966 is ``000000400966.jpg``. A file that names no picture holds for all.
    """
    if list(known) == [""]:
        return known[""]
    stem = Path(picture).stem
    name = match_name(picture, list(known)) or match_name(stem, list(known))
    if name is not None:
        return known[name]
    for other, areas in known.items():
        if Path(other).stem.casefold() == stem.casefold():
            return areas
        if stem.isdigit() and other.isdigit() and int(stem) == int(other):
            return areas
    return None


Entry = tuple[str, NDArray[np.float64], NDArray[np.float64] | None]  # name, box, polygon


def _areas(stimulus: str, entries: Sequence[Entry], path: Path, size: tuple[int, int] | None) -> Areas:
    names: list[str] = []
    taken: set[str] = set()
    for number, (name, _, _) in enumerate(entries, 1):
        unique = name or str(number)
        while unique in taken:
            unique = f"{unique} ({number})"
        taken.add(unique)
        names.append(unique)
    boxes = np.array([box for _, box, _ in entries], np.float64).reshape(-1, 4)
    polygons = {place: polygon for place, (_, _, polygon) in enumerate(entries) if polygon is not None}
    unknown = np.flatnonzero(~np.isfinite(boxes).all(1))
    if len(unknown):
        raise UserError(
            f"{path}: the area {names[unknown[0]]!r} has a side that is not a number: {boxes[unknown[0]].tolist()}",
            "boxes are left, top, width, height",
        )
    empty = np.flatnonzero(~((boxes[:, 2] > 0) & (boxes[:, 3] > 0)))
    if len(empty):
        raise UserError(
            f"{path}: the area {names[empty[0]]!r} has no extent: {boxes[empty[0]].tolist()}",
            "boxes are left, top, width, height",
        )
    return Areas(names, boxes, polygons, stimulus, look_at_boxes(boxes, names, size))


def look_at_boxes(boxes: NDArray[np.float64], names: Sequence[str], size: tuple[int, int] | None = None) -> list[str]:
    """What is odd about boxes: equal ones, overlaps, outside of the picture."""
    notes = []
    first, counts = np.unique(boxes, axis=0, return_counts=True)
    if len(first) < len(boxes):
        notes.append(f"{int((counts - 1).sum())} objects have the box of another: fixations go to the first of them")
    overlapping = _count_overlapping(boxes)
    if overlapping:
        notes.append(f"{overlapping} objects overlap others: a fixation goes to the smallest that contains it")
    if size is not None:
        right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
        outside = (right <= 0) | (bottom <= 0) | (boxes[:, 0] >= size[0]) | (boxes[:, 1] >= size[1])
        if outside.any():
            notes.append(f"outside of the picture: {few([names[place] for place in np.flatnonzero(outside).tolist()])}")
        if (
            min(size) >= 3 * _PERCENT
            and min(right.max(), bottom.max()) > _FRACTION
            and max(right.max(), bottom.max()) <= _PERCENT
        ):
            notes.append("every area ends within the first 100 pixels: are they percent? They are taken as pixels")
    return notes


def _count_overlapping(boxes: NDArray[np.float64]) -> int:
    """How many boxes share more than an edge with another; a thousandth of a pixel is an edge."""
    left, top, width, height = boxes.T
    right, bottom = left + width - 1e-3, top + height - 1e-3
    count = 0
    for place in range(0, len(boxes), 512):
        some = slice(place, place + 512)
        across = (left[some, None] < right) & (right[some, None] > left)
        down = (top[some, None] < bottom) & (bottom[some, None] > top)
        count += int(((across & down).sum(1) > 1).sum())
    return count


def _objects_of_json(path: Path) -> dict[str, list[Entry]]:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _objects_of_coco(content, path)
    if (
        isinstance(content, list)
        and content
        and all(isinstance(e, dict) and "image_id" in e and "bbox" in e for e in content)
    ):
        return _objects_of_coco({"annotations": content}, path)  # a detector's results
    groups: Mapping[str, Any] = content if isinstance(content, dict) else {"": content}
    objects: dict[str, list[Entry]] = {}
    for stimulus, entries in groups.items():
        if isinstance(entries, dict):
            entries = entries.get("objects", entries.get("areas"))
        if not isinstance(entries, list):
            raise UserError(
                f"{path}: {stimulus!r} is not a list of objects",
                "write [{name, box: [left, top, width, height]}, …] for each stimulus",
            )
        for number, entry in enumerate(entries, 1):
            where = f"{path}: object {number}" + (f" of {stimulus!r}" if stimulus else "")
            name, box, polygon = _object(entry, where)
            own = (
                next((text(entry[key]) for key in _STIMULI if key in entry), stimulus)
                if isinstance(entry, dict)
                else stimulus
            )
            objects.setdefault(own, []).append((name, box, polygon))
    return objects


def _object(entry: Any, where: str) -> Entry:
    """One object of JSON: a list of four numbers, or an object with box, polygon or named sides."""
    box = numbers(entry)
    if box is not None and len(box) == 4:
        return "", np.array(box), None
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {str(entry)[:60]!r}, expected a box or a polygon")
    name = next((text(entry[key]) for key in _NAMES if key in entry), "")
    for key in ("polygon", "points", "corners"):
        if key in entry:
            polygon = _polygon(entry[key], where)
            return name, _around(polygon), polygon
    for key in ("box", "bbox"):
        box = numbers(entry.get(key))
        if box is not None and len(box) == 4:
            return name, np.array(box), None
    for sides in _BOXES:
        if all(is_number(entry.get(side)) for side in sides):
            return name, _box([float(entry[side]) for side in sides], sides), None
    raise UserError(
        f"{where} has neither a box nor a polygon", "write box: [left, top, width, height] or polygon: [[x, y], …]"
    )


def _box(values: Sequence[float], sides: Sequence[str]) -> NDArray[np.float64]:
    """Left, top, width and height from sides of these names."""
    box = np.array(values, np.float64)
    if sides[2] not in ("width", "w"):
        box[2:] -= box[:2]
    return box


def _polygon(value: Any, where: str) -> NDArray[np.float64]:
    """(corners, 2), from pairs or from one list of x, y, x, y, …"""
    flat = numbers(value)
    if flat is None and isinstance(value, list):
        pairs = [numbers(point) for point in value]
        if all(point is not None and len(point) == 2 for point in pairs):
            flat = [number for point in pairs if point is not None for number in point]
    if flat is None or len(flat) % 2 or len(flat) < 6 or not np.isfinite(flat).all():
        raise UserError(f"{where}: a polygon has at least three corners [x, y]")
    return np.array(flat).reshape(-1, 2)


def _around(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = polygon.min(0), polygon.max(0)
    return np.concatenate([low, high - low])


def _objects_of_coco(content: Mapping[str, Any], path: Path) -> dict[str, list[Entry]]:
    """COCO's annotations under the names of their images; a detector's results have no images: their identifiers then."""
    images = _by_id(content, "images", "file_name", path)
    categories = _by_id(content, "categories", "name", path)
    objects: dict[str, list[Entry]] = {}
    for number, annotation in enumerate(content["annotations"], 1):
        where = f"{path}: annotation {number}"
        if not isinstance(annotation, dict):
            raise UserError(f"{where} is not an object")
        image = str(annotation.get("image_id"))
        if images and image not in images:
            raise UserError(f"{where} belongs to the image {image}, which the file does not list")
        name = categories.get(str(annotation.get("category_id")), "") or text(annotation.get("category_id"))
        segments = annotation.get("segmentation")
        polygon = None
        if isinstance(segments, list) and len(segments) == 1:  # of several pieces the box is taken
            polygon = _polygon(segments[0], where)
        box = numbers(annotation.get("bbox"))
        if polygon is None and (box is None or len(box) != 4):
            raise UserError(f"{where} has no bbox of four numbers")
        outline = np.array(box) if box is not None and len(box) == 4 else _around(polygon)  # pyright: ignore[reportArgumentType]
        objects.setdefault(images.get(image, image), []).append((name, outline, polygon))
    return objects


def _by_id(content: Mapping[str, Any], kind: str, named: str, path: Path) -> dict[str, str]:
    """Identifier → name of COCO's images or categories.

    Raises:
        UserError: not a list of objects, or two names for one identifier.
    """
    entries = content.get(kind) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: {kind} is not a list of objects", "write it as COCO does")
    names: dict[str, str] = {}
    for entry in entries:
        identifier = str(entry.get("id"))
        name = text(entry.get(named)) or (identifier if kind == "images" else "")
        if names.setdefault(identifier, name) != name:
            raise UserError(f"{path}: {kind} has the id {identifier} for {names[identifier]!r} and for {name!r}")
    return names


def _objects_of_table(path: Path) -> dict[str, list[Entry]]:
    from core_runtime.tables import read_table

    table = read_table(path)
    folded = {column.casefold(): column for column in table.columns}
    sides = next((sides for sides in _BOXES if all(side in folded for side in sides)), None)
    if sides is None:
        raise UserError(
            f"{path} has no columns of boxes",
            "name them left,top,width,height or xmin,ymin,xmax,ymax; also name and stimulus",
        )
    name, stimulus = table.column(*_NAMES, required=False), table.column(*_STIMULI, required=False)
    objects: dict[str, list[Entry]] = {}
    for row in table:
        values = [table.number(row, folded[side]) for side in sides]
        known = [value for value in values if value is not None]
        if len(known) < 4:
            raise UserError(f"{path}, line {row.line}: the box lacks a side")
        objects.setdefault(row.get(stimulus) or "", []).append((row.get(name) or "", _box(known, sides), None))
    if table.left_out:
        raise UserError(f"{path}: {table.account()}", "mend these rows")
    return objects


def _from_label_image(path: Path) -> Areas:
    from PIL import Image

    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise UserError(
            f"{path} is not a label image",
            "each pixel of one holds the whole number of its object, 0 outside (grey PNG or TIFF)",
        )
    labels = labels.astype(np.int64)
    if labels.min(initial=0) < 0 or labels.max(initial=0) > _LARGEST_LABEL:
        raise UserError(f"{path}: labels reach from {labels.min()} to {labels.max()}, expected 0 to {_LARGEST_LABEL}")
    values = np.unique(labels[labels > 0])
    if not len(values):
        raise UserError(f"{path} holds no objects: every pixel is 0")
    index_of = np.zeros(int(values[-1]) + 1, np.int32)
    index_of[values] = np.arange(1, len(values) + 1)
    indices = index_of[labels]
    rows, columns = np.nonzero(indices)
    of = indices[rows, columns] - 1
    low = np.full((len(values), 2), np.inf)
    high = np.full((len(values), 2), -np.inf)
    pixels = np.stack([columns, rows], 1)
    np.minimum.at(low, of, pixels)
    np.maximum.at(high, of, pixels)
    return Areas(
        [str(value) for value in values], np.concatenate([low, high - low + 1], 1), stimulus="", labels=indices
    )
