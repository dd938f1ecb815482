"""Masks to polygons: the mosaic is polygonised by strips, and what touches a strip's border is merged over it, one polygon an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask, shapes
from shapely.geometry import Polygon, shape
from shapely.geometry.base import BaseGeometry

from remote_sensing.maps.sheets.grid import Grid, strips

Reader = Callable[[slice, slice], NDArray]


@dataclass(frozen=True)
class Feature:
    """One object: its class number, its outline in map units, its mean probability (NaN where none is known)."""

    number: int
    geometry: BaseGeometry
    probability: float = float("nan")


def polygonise(
    read: Reader, grid: Grid, *, rows: int = 1024, connectivity: int = 8, nodata: int = 255, min_area: float = 0.0
) -> list[Feature]:
    """Polygons of the classes 1, 2, … of a mask, with holes, in pixel coordinates, one an object however many strips it crosses.

    Args:
        read: ``read(rows, columns)`` → class numbers; 0 and `nodata` are no object.
        grid: of the mask.
        rows: of a strip; memory grows with it, the result does not change.
        connectivity: 4 or 8.
        min_area: smaller objects (pixels) are left out, as early as can be.
    """
    whole: list[Feature] = []
    cut: dict[int, list[BaseGeometry]] = {}
    for strip in strips(grid.height, rows):
        mask = read(strip, slice(0, grid.width))
        inside = (mask > 0) & (mask != nodata)
        if not inside.any():
            continue
        for outline, number in shapes(mask, inside, connectivity, Affine.translation(0, strip.start)):
            made = shape(outline)
            top, bottom = made.bounds[1], made.bounds[3]
            at_border = (top == strip.start and strip.start > 0) or (bottom == strip.stop and strip.stop < grid.height)
            if at_border:
                cut.setdefault(int(number), []).append(made)
            elif made.area >= min_area:
                whole.append(Feature(int(number), _valid(made)))
    for number, pieces in cut.items():
        joined = _joined(pieces, connectivity)
        whole += [Feature(number, g) for g in joined if g.area >= min_area]
    return sorted(whole, key=lambda f: (f.number, f.geometry.bounds[1], f.geometry.bounds[0]))


def _joined(pieces: Sequence[BaseGeometry], connectivity: int) -> list[BaseGeometry]:
    """Pieces that share a border line (or a corner, with connectivity 8) as one."""
    valid = np.array([_valid(p) for p in pieces])
    tree = shapely.STRtree(valid)
    first, second = tree.query(valid, predicate="intersects")
    apart = first < second
    first, second = first[apart], second[apart]
    if connectivity == 4 and len(first):
        shared = shapely.length(shapely.intersection(valid[first], valid[second])) > 0
        first, second = first[shared], second[shared]
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(first), bool)
    _, label = connected_components(coo_matrix((ones, (first, second)), (len(valid),) * 2), directed=False)
    return [shapely.union_all(valid[label == i]) for i in range(label.max() + 1)]


def _valid(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry whose rings do not touch themselves (as they may with connectivity 8)."""
    return geometry if geometry.is_valid else shapely.make_valid(geometry)


def with_probability(feature: Feature, read: Reader, grid: Grid) -> Feature:
    """The feature with the mean of its class's probability over its pixels; of large ones at most 2,000 rows at a time."""
    left, top, right, bottom = (int(v) for v in feature.geometry.bounds)
    total, count = 0.0, 0
    for some in strips(bottom - top, 2000):
        rows = slice(top + some.start, top + some.stop)
        columns = slice(left, right)
        values = read(rows, columns)
        outside = geometry_mask([feature.geometry], values.shape, Affine.translation(left, rows.start))
        here = ~outside & np.isfinite(values)
        total, count = total + float(values[here].sum()), count + int(here.sum())
    return Feature(feature.number, feature.geometry, total / count if count else float("nan"))


def simplified(geometry: BaseGeometry, tolerance: float) -> BaseGeometry:
    """With fewer vertices, at most `tolerance` map units away, holes kept."""
    return shapely.simplify(geometry, tolerance, preserve_topology=True) if tolerance > 0 else geometry


def polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of a polygon or multi-polygon."""
    return [p for p in shapely.get_parts(geometry) if isinstance(p, Polygon) and not p.is_empty]
