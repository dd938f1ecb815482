"""A display as the model sees it: objects with a place, a look and a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.pictures import open_picture
from gaze.scanpaths.scanpath import Scanpath
from gaze.scenes.grids import Grid

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
LARGEST_FREE = 14  # rows and columns of a free layout: those of the largest published table


@dataclass(frozen=True)
class Layout:
    """How pixels become the rows and columns of the position table.

    A cell is one step of the table: in a grid of objects a cell of the grid; in a free layout about the distance between neighbours.

    Attributes:
        rows, columns: of the whole layout.
        cell: height and width of one cell, in pixels.
        top, left: of the first, in pixels.
    """

    rows: int
    columns: int
    cell: tuple[float, float]
    top: float = 0.0
    left: float = 0.0

    @classmethod
    def of_grid(cls, grid: Grid) -> "Layout":
        return cls(grid.rows, grid.columns, grid.cell, grid.top, grid.left)

    def places(self, centres: NDArray[np.float64]) -> NDArray[np.float64]:
        """(objects, 2): row and column of points (objects, 2) given as x and y; whole numbers in the middle of a cell."""
        rows = (centres[:, 1] - self.top) / self.cell[0] - 0.5
        columns = (centres[:, 0] - self.left) / self.cell[1] - 0.5
        places = np.stack([rows, columns], 1)
        # a grid's own centres are whole numbers, which divisions may miss by a rounding error
        whole = np.round(places)
        # the table begins at 0: an object at the very edge of a free layout takes its first row
        return np.where(np.abs(places - whole) < 1e-6, whole, places).clip(0)

    def specials(self, count: int) -> NDArray[np.float64]:
        """(4, 2): rows and columns of the stop, padding and begin tokens and an unused one, as a grid of `count` objects has them.

        Where there are more objects than cells, stop and padding stand below the last row: no step reads them.
        """
        index = np.arange(count, count + 4)
        places = np.stack([np.minimum(index // self.columns, self.rows), index % self.columns], 1).astype(np.float64)
        places[2] = (self.rows // 2, self.columns // 2)
        return places


@dataclass(frozen=True, eq=False)
class Scene:
    """One display.

    Attributes:
        name: of the picture.
        size: width and height in pixels.
        names: of the objects, unique.
        boxes: (objects, 4) with left, top, width and height in pixels.
        layout: of their places.
        crops: (objects, 3, height, width) between 0 and 1, each stretched to its own darkest and brightest value; None: looks are not known,
            and the model sees places alone.
        picture: the file, for figures.
    """

    name: str
    size: tuple[int, int]
    names: Sequence[str]
    boxes: NDArray[np.float64]
    layout: Layout
    crops: NDArray[np.float32] | None = None
    picture: Path | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(objects, 2): x and y."""
        return self.boxes[:, :2] + self.boxes[:, 2:] / 2

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """(objects, 2): row and column."""
        return self.layout.places(self.centres)


def free_layout(boxes: NDArray[np.float64], *, largest: int = LARGEST_FREE) -> Layout:
    """A layout for objects anywhere: about as many cells as objects over the part of the display that holds them, as square as they can be.

    Args:
        boxes: (objects, 4) with left, top, width and height in pixels.
        largest: rows and columns of the layout at most; the same for training and prediction, whatever the model's table is.
    """
    left, top = boxes[:, :2].min(0)
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(0)
    width, height = max(right - left, 1.0), max(bottom - top, 1.0)
    across, down = np.median(boxes[:, 2:], axis=0)
    # objects side by side fill width / across columns; of scattered ones there are fewer than cells
    crowding = (len(boxes) * max(across, 1.0) * max(down, 1.0) / (width * height)) ** 0.5
    columns = min(largest, max(1, round(width / max(across, 1.0) * crowding)))
    rows = min(largest, max(1, round(height / max(down, 1.0) * crowding)))
    return Layout(rows, columns, (height / rows, width / columns), float(top), float(left))


def cut_crops(
    picture: Path, boxes: NDArray[np.float64], crop: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """The objects of a picture, (objects, 3, height, width), each resized and stretched to values between 0 and 1.

    Args:
        picture: the file; larger or smaller than the display, but of its shape.
        boxes: in pixels of the display.
        crop: height and width of the results.
        size: width and height of the display, in pixels.

    Raises:
        UserError: the picture cannot be read, has another shape than the display, or a box lies outside.
    """
    from PIL import Image

    image = open_picture(picture).image
    scale = np.array([image.width / size[0], image.height / size[1]])
    if abs(scale[0] / scale[1] - 1) > 0.02:
        raise UserError(
            f"{picture} has {image.width} × {image.height} pixels, the display {size[0]} × {size[1]}: another shape",
            "give the pictures as they were shown, or --screen WIDTH,HEIGHT",
        )
    boxes = boxes * np.tile(scale, 2)
    crops = np.empty((len(boxes), 3, *crop), np.float32)
    for i, (left, top, width, height) in enumerate(boxes):
        box = (max(0, left), max(0, top), min(image.width, left + width), min(image.height, top + height))
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise UserError(f"object {i + 1} of {picture} lies outside the picture ({image.width} × {image.height})")
        cut = image.resize((crop[1], crop[0]), Image.Resampling.BILINEAR, box=box)
        crops[i] = np.asarray(cut, np.float32).transpose(2, 0, 1)
    return _stretched(crops)


def read_crops(folder: Path, stimulus: str, names: Sequence[str], crop: tuple[int, int]) -> NDArray[np.float32]:
    """The objects' own pictures, ``FOLDER/STIMULUS/OBJECT.png`` or ``FOLDER/OBJECT.png``, as `cut_crops` gives them.

    Args:
        folder: of the pictures.
        stimulus: name of the scene; its ending does not matter.
        names: of the objects.
        crop: height and width of the results.

    Raises:
        UserError: no such folder, an object without a picture, or one that cannot be read.
    """
    from PIL import Image

    if not folder.is_dir():
        raise UserError(f"--crops {folder}: no such folder")
    places = [folder / Path(stimulus).stem, folder / stimulus, folder]
    crops = np.empty((len(names), 3, *crop), np.float32)
    for number, name in enumerate(names):
        files = [place / f"{name}{ending}" for place in places for ending in PICTURES]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise UserError(
                f"--crops {folder} holds no picture of {name!r}" + (f" of {stimulus}" if stimulus else ""),
                "name them STIMULUS/OBJECT.png, or OBJECT.png where an object looks the same in all scenes",
            )
        cut = open_picture(file).image.resize((crop[1], crop[0]), Image.Resampling.BILINEAR)
        crops[number] = np.asarray(cut, np.float32).transpose(2, 0, 1)
    return _stretched(crops)


def _stretched(crops: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each to its own darkest and brightest value."""
    low = crops.min(axis=(1, 2, 3), keepdims=True)
    span = crops.max(axis=(1, 2, 3), keepdims=True) - low
    return (crops - low) / np.where(span > 0, span, 1)


def screen_of(scanpath: Scanpath, picture: Path | None = None) -> Scene:
    """A scanpath's display without objects, for figures; where its size is not known, as large as the fixations reach."""
    size = scanpath.display.size
    if size is None:
        far = scanpath.points.max(0) if len(scanpath) else np.array([1.0, 1.0])
        size = (max(1, int(np.ceil(far[0] * 1.05))), max(1, int(np.ceil(far[1] * 1.05))))
    layout = Layout(1, 1, (float(size[1]), float(size[0])))
    return Scene(scanpath.stimulus, size, [], np.zeros((0, 4)), layout, None, picture)
