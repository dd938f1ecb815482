"""A picture and its objects as a scene."""

from pathlib import Path

import numpy as np

from core_runtime.errors import UserError
from core_runtime.pictures import DAMAGED
from gaze.scanpaths.aoi_files import areas_of, read_areas
from gaze.scenes.grids import equal_grid
from gaze.scenes.scene import Layout, Scene, cut_crops, free_layout, read_crops

_OVERSHOOT = 1.02  # detectors' boxes may reach a little over the edge


def picture_size(picture: Path) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(picture) as image:
            return image.size
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(f"{picture} cannot be read as a picture: {error}") from None


def read_scene(
    picture: Path,
    *,
    areas: Path | None = None,
    grid: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    crops: Path | None = None,
    table_rows: int | None = None,
) -> Scene:
    """Reads a picture's objects from a file, or takes the cells of a grid.

    Args:
        picture: the file.
        areas: boxes, polygons, COCO JSON or a label image; with several pictures, those of this one's name.
        grid: rows and columns of equal cells.
        crop: height and width of the looks; None: none are needed.
        crops: folder of the objects' own pictures, as `read_crops` takes them; None: they are cut out of the picture.
        table_rows: rows of the model's position table, into which a grid must fit.

    Raises:
        UserError: the picture cannot be read, or nothing says where its objects are.
    """
    size = picture_size(picture)
    if grid is not None:
        cells = equal_grid(*grid, size)
        boxes = cells.boxes()
        names = [f"{i // grid[1] + 1},{i % grid[1] + 1}" for i in range(len(boxes))]
        layout = Layout.of_grid(cells)
        if table_rows is not None and max(grid) > table_rows:
            raise UserError(
                f"a grid of {grid[0]} × {grid[1]} is larger than the model knows ({table_rows} rows or columns)",
                "give a smaller --grid, or train on such grids",
            )
    elif areas is not None:
        known = read_areas(areas)
        objects = areas_of(picture.name, known)
        if objects is None:
            raise UserError(
                f"{areas} names no objects of {picture.name}", f"it names those of {', '.join(list(known)[:5])}"
            )
        boxes, names = objects.boxes, list(objects.names)
        reach = (boxes[:, :2] + boxes[:, 2:]).max(0)
        if (reach > np.asarray(size) * _OVERSHOOT).any():
            raise UserError(
                f"objects of {picture.name} reach to {reach[0]:g}, {reach[1]:g}, the picture has {size[0]} × {size[1]} pixels",
                "give the picture in the size in which the objects were marked",
            )
        layout = free_layout(boxes)
    else:
        raise UserError("nothing says where the objects are", "give --areas FILE or --grid ROWS,COLUMNS")
    looks = None
    if crop is not None and crops is not None:
        looks = read_crops(crops, picture.name, names, crop)
    elif crop is not None:
        looks = cut_crops(picture, boxes, crop, size)
    return Scene(picture.name, size, names, boxes, layout, looks, picture)
