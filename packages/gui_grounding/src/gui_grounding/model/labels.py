"""Which cells of the image a target box covers: the three published label styles, as outer products of two short vectors.

A screenshot is resized to a multiple of 28 pixels; each cell of 28 × 28 is one visual token, in row-major order.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

CELL = 28  # pixels of a cell: patches of 14, merged 2 × 2
LabelStyle = Literal["all", "center", "gauss"]
STYLES: tuple[LabelStyle, ...] = ("all", "center", "gauss")


def multi_patch_labels(
    boxes: Float[Tensor, "boxes 4"],
    width: int,
    height: int,
    *,
    style: LabelStyle = "gauss",
    sigma_factor: float = 1.0,
    cell: int = CELL,
) -> Float[Tensor, "boxes cells"]:
    """The labels y of target boxes over the cells of a resized image (V2P, arXiv 2508.13634; ``all`` is GUI-Actor's).

    - ``all``: 1 where a cell's open interior meets the box.
    - ``center``: 1 for the cell that holds the box's centre.
    - ``gauss``: ``[Φ((b−m)/s) − Φ((a−m)/s)]`` per axis, multiplied, where [a, b] is the part of the cell inside the box, m the box's
      centre and s its size over `sigma_factor`; 0 for cells outside the box.

    Args:
        boxes: x1, y1, x2, y2 as shares of the image; what reaches beyond the image is cut off.
        width, height: of the resized image in pixels, multiples of `cell`.
        style: which labels.
        sigma_factor: box size over the standard deviation of ``gauss``; 1 in the published launch scripts, 4.1325 in the function.
        cell: pixels of a cell.

    Returns:
        float32; `rows · columns` cells, row by row.

    Raises:
        ValueError: a size that is not a multiple of the cell, or for ``gauss`` a box without area inside the image.
    """
    if width <= 0 or height <= 0 or width % cell or height % cell:
        raise ValueError(f"the resized image is {width} × {height} pixels, expected multiples of {cell}")
    exact = boxes.double()
    size = exact.new_tensor([width, height, width, height])
    pixels = (exact * size).minimum(size).clamp(min=0)
    x1, y1, x2, y2 = pixels.unbind(-1)
    across = _axis_labels(x1, x2, width // cell, cell, style, sigma_factor)
    down = _axis_labels(y1, y2, height // cell, cell, style, sigma_factor)
    return (down[:, :, None] * across[:, None, :]).flatten(1).float()


def _axis_labels(
    low: Tensor, high: Tensor, cells: int, cell: int, style: LabelStyle, sigma_factor: float
) -> Float[Tensor, "boxes cells_of_axis"]:
    """One factor of the labels: along one axis."""
    low, high = low[:, None], high[:, None]
    begin = torch.arange(cells, dtype=torch.float64, device=low.device) * cell
    end = begin + cell
    if style == "center":
        holds = ((low + high) / 2 / cell).floor().clamp(0, cells - 1)
        return (holds == torch.arange(cells, device=low.device)).double()
    inside = (end > low) & (begin < high)
    if style == "all":
        return inside.double()
    if not bool((high > low).all()):
        raise ValueError("a target box has no area inside the image, so it has no Gaussian label")
    middle, sigma = (low + high) / 2, (high - low) / sigma_factor
    first = torch.special.ndtr((begin.maximum(low) - middle) / sigma)
    last = torch.special.ndtr((end.minimum(high) - middle) / sigma)
    return torch.where(inside, last - first, 0.0)


def token_index(
    points: Float[Tensor, "points 2"], width: int, height: int, *, cell: int = CELL
) -> Int[Tensor, " points"]:
    """The cell that holds each point (x, y as shares of the image), row by row."""
    columns, rows = width // cell, height // cell
    x = (points[:, 0].double() * width / cell).floor().long().clamp(0, columns - 1)
    y = (points[:, 1].double() * height / cell).floor().long().clamp(0, rows - 1)
    return y * columns + x
