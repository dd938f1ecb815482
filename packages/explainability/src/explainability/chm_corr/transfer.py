"""Where 49 points of the query are in a support image, from a dense correlation."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

GRID = 7  # cells a side, and points
MARGIN = 18  # pixels between the border of a 240-pixel image and its first point
SIGMA = 17.0  # of the window around the best target, cells
REACH = 0.1  # how far from a point source cells count, in half images
# cell in row-major order of each point, whose slow index is x
CELLS_OF_POINTS = torch.arange(GRID * GRID).view(GRID, GRID).T.flatten()


def source_keypoints(image_size: int = 240) -> Float[Tensor, "2 49"]:
    """The points as (x, y) in [−1, 1]; **x is the slow index**: point k has x of k // 7 and y of k % 7."""
    margin = MARGIN * image_size / 240
    axis = (torch.linspace(margin, image_size - margin, GRID, dtype=torch.float64) - image_size / 2) / (image_size / 2)
    if image_size == 240:
        # as published: the last point is at 222, the first at 18
        axis = (torch.linspace(18, 222, GRID, dtype=torch.float64) - 120) / 120
    x = axis.repeat_interleave(GRID)
    return torch.stack([x, axis.repeat(GRID)])


def transfer_keypoints(
    correlation: Float[Tensor, "b n n"], keypoints: Float[Tensor, "2 points"]
) -> Float[Tensor, "b 2 points"]:
    """Points of the target that points of the source go to, (x, y) in [−1, 1].

    Each source cell's targets are weighed by a Gaussian window around the best one, and their softmax gives an expected place. A point
    goes to the mean of the expected places of the source cells near it, the nearest counting most.

    Raises:
        ValueError: the correlation is not of a square grid with itself, or the grid is too coarse (fewer than about 16 cells a side).
    """
    cells = correlation.shape[-1]
    side = round(cells**0.5)
    if side * side != cells or correlation.shape[-2] != cells:
        raise ValueError(f"needs a correlation (batch, side², side²), got {tuple(correlation.shape)}")
    index = torch.arange(cells, device=correlation.device)
    row, column = index // side, index % side
    best = correlation.argmax(2)
    away = (row - row[best][..., None]) ** 2 + (column - column[best][..., None]) ** 2
    windowed = correlation * torch.exp(-away.to(correlation) / (2 * SIGMA**2))
    shares = windowed.softmax(2)
    axis = torch.linspace(-1, 1, side, dtype=correlation.dtype, device=correlation.device)
    places = torch.stack([axis[column], axis[row]], -1)  # (cells, 2) as (x, y)
    expected = shares @ places
    distance = (keypoints.T.to(places)[:, None] - places).square().sum(-1)
    near = (REACH - (distance + 1e-5).sqrt()).clamp(min=0)
    if not bool((near.sum(1) > 0).all()):
        raise ValueError(f"a grid of {side} × {side} cells is too coarse: some points have no cell within {REACH}")
    near = near / near.sum(1, keepdim=True)
    return (near @ expected).mT


def target_cells(points: Float[Tensor, "b 2 points"]) -> Int[Tensor, "b points 2"]:
    """The 7 × 7 cell (x, y) of each point; a point on the far border belongs to the last cell."""
    return ((points + 1) / 2 * GRID).trunc().long().clamp(0, GRID - 1).mT
