"""Synthetic searches: shelves of products, drawn, and observers with known strategies, in the field's own file formats.

Layouts are random orders of the products; an observer searches one product in each. Three observers, each with one strategy: *raster* goes row by
row, *saliency* goes by what stands out, *memory* goes to near objects and never comes back. All of them see the target from a neighbouring cell.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing

ROWS, COLUMNS = 3, 6
WIDTH, HEIGHT = 280, 350  # of a cell, in pixels: the display of COCO-Search18 is 1680 × 1050
SCALE = 3  # products are drawn at a third of the display's size, then enlarged
PRODUCTS = (
    "tea", "milk", "rice", "salt", "oats", "soap", "cocoa", "flour", "honey",
    "beans", "juice", "yeast", "pasta", "sugar", "cream", "lentils", "coffee", "vinegar",
)  # fmt: skip
OBSERVERS = ("raster", "saliency", "memory")
_NOTICED = 0.6  # chance that a target in a neighbouring cell is looked at next
_SLIP = 0.08  # of the steps that follow no strategy


@dataclass(frozen=True)
class Made:
    """What `make_samples` wrote.

    Attributes:
        scanpaths: in the format of COCO-Search18.
        areas: the products' boxes and names, in COCO's format.
        pictures: a folder.
        recordings: a folder with an EyeLink ASC file per observer.
        bids: a folder in the layout of eye-tracking BIDS.
    """

    scanpaths: Path
    areas: Path
    pictures: Path
    recordings: Path
    bids: Path


def make_samples(
    out: Path,
    *,
    layouts: int = 24,
    searches: int = 2,
    targets: Sequence[str] | None = None,
    other_formats: bool = True,
    seed: int = 0,
    overwrite: bool = False,
) -> Made:
    """Writes pictures, boxes and scanpaths, the same under a seed.

    Args:
        out: folder.
        layouts: pictures.
        searches: targets that every observer searches in each picture.
        targets: names of the products that are searched; None: all.
        other_formats: write the same trials as EyeLink ASC files and as BIDS, too.
        seed: of everything.
        overwrite: replace samples that are there.

    Raises:
        UserError: `out` holds samples already and `overwrite` is off.
    """
    files = Made(out / "fixations.json", out / "areas.json", out / "pictures", out / "recordings", out / "bids")
    if files.scanpaths.exists() and not overwrite:
        raise UserError(f"{out} already holds samples", "--overwrite replaces them")
    from gaze.scenes.saliency import object_saliency

    rng = np.random.default_rng(seed)
    searched = list(targets or PRODUCTS)
    records, orders = [], {}
    for number in range(layouts):
        order = rng.permutation(len(PRODUCTS))
        name = f"shelf_{number + 1:02}.png"
        orders[name] = order
        _write_picture(draw_shelf(order), files.pictures / name)
        saliency = object_saliency(files.pictures / name, _boxes(), (COLUMNS * WIDTH, ROWS * HEIGHT))
        for target in rng.choice(len(searched), min(searches, len(searched)), replace=False):
            place = int(np.flatnonzero(order == PRODUCTS.index(searched[target]))[0])
            for subject, observer in enumerate(OBSERVERS, 1):
                path = search(observer, place, saliency, rng)
                records.append(_record(name, subject, searched[target], place, path, rng))
    write_text(files.areas, json.dumps(_coco(orders)) + "\n")
    write_text(files.scanpaths, json.dumps(records) + "\n")
    if other_formats:
        _write_other_formats(files)
    return files


def _write_other_formats(files: Made) -> None:
    """The same trials as EyeLink ASC files and as eye-tracking BIDS."""
    from gaze.scanpaths.opening import read_scanpaths
    from gaze.scanpaths.writing import write_asc, write_bids

    scanpaths = read_scanpaths(files.scanpaths).scanpaths
    for subject, observer in enumerate(OBSERVERS, 1):
        own = [scanpath for scanpath in scanpaths if scanpath.subject == str(subject)]
        write_asc(own, files.recordings / f"observer_{subject}_{observer}.asc")
    write_bids(scanpaths, files.bids)


def search(observer: str, target: int, saliency: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    """Cells in the order in which an observer looks at them, until the target is found."""
    cells = ROWS * COLUMNS
    rows, columns = np.divmod(np.arange(cells), COLUMNS)
    path = [_first(observer, saliency, rng)]
    while path[-1] != target and len(path) < 2 * cells:
        last = path[-1]
        distance = np.hypot(rows - rows[last], columns - columns[last])
        if distance[target] < 1.5 and rng.random() < _NOTICED:
            path.append(target)
            break
        new = np.ones(cells, bool)
        new[path] = False
        weights = new / new.sum()
        if rng.random() > _SLIP:
            weights = _strategy(observer, last, new, saliency, distance)
        path.append(int(rng.choice(cells, p=weights)))
        if rng.random() < 0.12:  # a second look at the same product
            path.append(path[-1])
    if rng.random() < 0.4:  # the find is checked
        path.append(target)
    return path


def _first(observer: str, saliency: NDArray[np.float64], rng: np.random.Generator) -> int:
    if observer == "raster":
        return 0
    if observer == "saliency":
        weights = np.exp(8 * saliency)
        return int(rng.choice(len(saliency), p=weights / weights.sum()))
    return (ROWS // 2) * COLUMNS + COLUMNS // 2 - int(rng.integers(2))


def _strategy(
    observer: str, last: int, new: NDArray[np.bool_], saliency: NDArray[np.float64], distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities of the next cell."""
    if observer == "raster":
        ahead = (np.arange(len(new)) - last) % len(new)
        weights = np.where(new, np.exp(-2.5 * ahead), 0)
    elif observer == "saliency":
        weights = np.where(new, np.exp(8 * saliency), 0)
    else:
        weights = np.where(new, np.exp(-1.5 * distance), 0)
    return weights / weights.sum()


def draw_shelf(order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A shelf of boxes, (height, width, 3): every product has a colour and a mark of its own; every third is loud, the others are pale."""
    from PIL import Image, ImageDraw

    width, height = WIDTH // SCALE, HEIGHT // SCALE
    image = Image.new("RGB", (COLUMNS * WIDTH // SCALE, ROWS * HEIGHT // SCALE), (205, 200, 190))
    canvas = ImageDraw.Draw(image)
    for place, product in enumerate(order):
        row, column = divmod(place, COLUMNS)
        left, top = round(column * WIDTH / SCALE) + 12, round(row * HEIGHT / SCALE) + 10
        _draw_product(canvas, int(product), (left, top, left + width - 24, top + height - 20))
    for row in range(1, ROWS + 1):
        bottom = round(row * HEIGHT / SCALE)
        canvas.rectangle((0, bottom - 9, image.width, bottom - 5), fill=(120, 95, 70))
    return np.asarray(image.resize((COLUMNS * WIDTH, ROWS * HEIGHT), Image.Resampling.NEAREST))


def _draw_product(canvas, product: int, box: tuple[int, int, int, int]) -> None:
    import colorsys

    hue = product * 0.618 % 1
    loud = product % 3 == 0
    strength, brightness = (0.95, 0.95) if loud else (0.18, 0.72)
    colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, strength, brightness))
    canvas.rectangle(box, fill=colour, outline=(70, 70, 70))
    left, top, right, bottom = box
    middle = ((left + right) // 2, (top + bottom) // 2)
    ink = tuple(round(255 * part) for part in colorsys.hsv_to_rgb((hue + 0.45) % 1, 0.6, 0.35))
    mark = product % 6
    reach = 10 + 3 * (product // 6)
    around = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
    if mark == 0:
        canvas.ellipse(around, fill=ink)
    elif mark == 1:
        canvas.rectangle(around, fill=ink)
    elif mark == 2:
        canvas.polygon([(middle[0], around[1]), (around[2], around[3]), (around[0], around[3])], fill=ink)
    elif mark == 3:
        canvas.line([(left, top), (right, bottom)], fill=ink, width=4 + product // 6)
    elif mark == 4:
        canvas.ellipse(around, outline=ink, width=4)
    else:
        for offset in range(-reach, reach + 1, 7):
            canvas.line([(left + 4, middle[1] + offset), (right - 4, middle[1] + offset)], fill=ink, width=2)


def _write_picture(image: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    with writing(path) as part:
        Image.fromarray(image).save(part, format="PNG", compress_level=1)


def _boxes() -> NDArray[np.float64]:
    """(cells, 4): left, top, width and height of each, in pixels of the display."""
    rows, columns = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    size = np.broadcast_to([WIDTH, HEIGHT], (len(rows), 2))
    return np.column_stack([columns * WIDTH, rows * HEIGHT, size]).astype(np.float64)


def _record(
    name: str, subject: int, task: str, target: int, path: Sequence[int], rng: np.random.Generator
) -> dict[str, object]:
    """A trial in the format of COCO-Search18."""
    rows, columns = np.divmod(np.array(path), COLUMNS)
    noise = rng.normal(0, 0.1, (2, len(path))).clip(-0.48, 0.48)
    x, y = (columns + 0.5 + noise[0]) * WIDTH, (rows + 0.5 + noise[1]) * HEIGHT
    duration = np.clip(rng.gamma(4, 55, len(path)), 80, 900)
    row, column = divmod(target, COLUMNS)
    return {
        "name": name,
        "subject": subject,
        "task": task,
        "condition": "present",
        "bbox": [column * WIDTH, row * HEIGHT, WIDTH, HEIGHT],
        "X": x.round(1).tolist(),
        "Y": y.round(1).tolist(),
        "T": duration.round().astype(int).tolist(),
        "length": len(path),
        "correct": 1,
        "fixOnTarget": True,
        "RT": int(duration.sum()),
        "split": "train",
    }


def _coco(orders: dict[str, NDArray[np.int64]]) -> dict[str, object]:
    """Boxes and names of all products, in COCO's format."""
    images, annotations = [], []
    for image, (name, order) in enumerate(orders.items(), 1):
        images.append({"id": image, "file_name": name, "width": COLUMNS * WIDTH, "height": ROWS * HEIGHT})
        for place, product in enumerate(order):
            row, column = divmod(place, COLUMNS)
            box = [column * WIDTH, row * HEIGHT, WIDTH, HEIGHT]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(product) + 1, "bbox": box}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(PRODUCTS, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
