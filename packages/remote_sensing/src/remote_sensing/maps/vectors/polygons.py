"""Masks to polygons: the mosaic is polygonised by strips, and pieces that touch a strip's border are merged over it, one polygon per object."""

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
    """Polygons of the classes 1, 2, … of a mask, with holes, in pixel coordinates, one per object, even across strips.

    Args:
        read: ``read(rows, columns)`` → class numbers; 0 and `nodata` are not objects.
        grid: of the mask.
        rows: of a strip; memory grows with it, the result does not change.
        connectivity: 4 or 8.
        min_area: smaller objects (pixels) are left out, as early as possible.
    """
    whole: list[Feature] = []
    cut: dict[int, list[BaseGeometry]] = {}
    for strip in strips(grid.height, rows):
        mask = read(strip, slice(0, grid.width))
        inside = (mask > 0) & (mask != nodata)
        if not inside.any():
            continue
        for outline, number in shapes(mask, inside, connectivity, Affine.translation(0, strip.start)):
            polygon = shape(outline)
            top, bottom = polygon.bounds[1], polygon.bounds[3]
            # the edges of the sheet are not borders between strips
            at_top = top == strip.start and strip.start > 0
            at_bottom = bottom == strip.stop and strip.stop < grid.height
            if at_top or at_bottom:
                cut.setdefault(int(number), []).append(polygon)
            elif polygon.area >= min_area:
                whole.append(Feature(int(number), _valid(polygon)))
    for number, pieces in cut.items():
        # only whole objects are compared with the least area: each piece may be small
        for outline in _joined(pieces, connectivity):
            if outline.area >= min_area:
                whole.append(Feature(number, outline))
    return sorted(whole, key=lambda f: (f.number, f.geometry.bounds[1], f.geometry.bounds[0]))


def _joined(pieces: Sequence[BaseGeometry], connectivity: int) -> list[BaseGeometry]:
    """Pieces that share a border line (or a corner, with connectivity 8) as one."""
    valid = np.array([_valid(piece) for piece in pieces])
    tree = shapely.STRtree(valid)
    first, second = tree.query(valid, predicate="intersects")
    # each pair once, and none with itself
    once = first < second
    first, second = first[once], second[once]
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
    if geometry.is_valid:
        return geometry
    return shapely.make_valid(geometry)


def with_probability(feature: Feature, read: Reader, grid: Grid) -> Feature:
    """The feature with the mean of its class's probability over its pixels; of large ones at most 2,000 rows at a time."""
    # outlines of pixels have whole coordinates
    left, top, right, bottom = map(int, feature.geometry.bounds)
    total, count = 0.0, 0
    for some in strips(bottom - top, 2000):
        rows = slice(top + some.start, top + some.stop)
        columns = slice(left, right)
        values = read(rows, columns)
        outside = geometry_mask([feature.geometry], values.shape, Affine.translation(left, rows.start))
        here = ~outside & np.isfinite(values)
        total, count = total + float(values[here].sum()), count + int(here.sum())
    mean = float("nan")
    if count:
        mean = total / count
    return Feature(feature.number, feature.geometry, mean)


def simplified(geometry: BaseGeometry, tolerance: float) -> BaseGeometry:
    """With fewer vertices, at most `tolerance` map units away, holes kept."""
    if tolerance <= 0:
        return geometry
    return shapely.simplify(geometry, tolerance, preserve_topology=True)


def polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of a polygon or multi-polygon."""
    return [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon) and not part.is_empty]
