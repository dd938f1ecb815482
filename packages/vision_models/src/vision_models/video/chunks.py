"""Blocks for a latent grid: about as many as the paper's, of sides that divide where there are any."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SLABS, TILES, CUBES = 7, 40, 60  # blocks of the paper's three kinds of layers
NEAR = 0.5  # in the logarithm of their number: blocks that divide are taken where they are that near

Grid = tuple[int, int, int]


@lru_cache(64)
def auto_chunks(grid: Grid) -> tuple[float | tuple[int, ...], ...]:
    """Chunks of the three kinds of layers, 1D, 2D and 3D.

    A tile or cube is the one whose number of blocks is nearest the paper's, with little padding and sides that are alike. A grid that no
    sensible block divides gets one that pads: padded keys have no weight, and nothing changes where sides divide.

    Args:
        grid: (time, height, width) of the tokens.
    """
    time, height, width = grid
    slab = max(1, round(time / SLABS))
    return float(slab), _best((height, width), TILES), _best((time, height, width), CUBES)


def _best(sides: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    ranges = [np.arange(1, side + 1) for side in sides]
    lengths = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")])
    whole = np.array(sides)[:, None]
    counts = -(-whole // lengths)
    padded = (counts * lengths / whole).prod(0) - 1
    # more blocks than the grid has tokens to fill them with is no aim
    target = min(blocks, max(1, int(np.prod(sides)) // 4))
    ratio = np.abs(np.log(counts.prod(0) / target))
    shape = np.log(lengths[-2:].max(0) / lengths[-2:].min(0))
    cost = ratio + 3 * padded + 0.15 * shape
    divides = (whole % lengths == 0).all(0)
    if (divides & (ratio < NEAR)).any():
        cost = np.where(divides, cost, np.inf)
    return tuple(int(side) for side in lengths[:, int(cost.argmin())])
