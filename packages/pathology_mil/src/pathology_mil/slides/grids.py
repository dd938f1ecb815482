"""Where the tiles are: grids over the tissue, as arrays of level-0 corners. Pure geometry, no files."""

from typing import get_args

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from core_runtime.errors import UserError
from pathology_mil.slides.options import ContourFn
from pathology_mil.slides.tissue import Contour, Tissue

Coords = NDArray[np.int64]  # (tiles, 2): x and y of the top left corner

_ROWS = 64  # rows of the global grid that are tested at once


def contour_grid(
    tissue: Tissue,
    *,
    dimensions: tuple[int, int],
    side: tuple[int, int],
    step: tuple[int, int],
    contour_fn: ContourFn = "four_pt",
    use_padding: bool = True,
) -> Coords:
    """CLAM's grid: one per contour, starting at the corner of its bounding box; x is the slow axis.

    Neighbouring contours have grids of their own, so that their tiles may overlap.

    Args:
        tissue: contours and holes.
        dimensions: width and height of the slide.
        side: width and height of a tile.
        step: from one tile to the next.
        contour_fn: when a tile belongs to a contour: `basic` if its corner lies inside, `center` its centre, `four_pt` at least
            one of the four points half-way between centre and edges, `four_pt_hard` all four. The boundary counts as inside.
        use_padding: whether tiles may extend beyond the slide.
    """
    if contour_fn not in get_args(ContourFn):
        raise UserError(f"unknown contour function {contour_fn!r}", f"choose from {', '.join(get_args(ContourFn))}")
    grids = [np.zeros((0, 2), np.int64)]  # for slides without tissue
    for outer, holes in zip(tissue.contours, tissue.holes, strict=True):
        grids.append(_grid_of_contour(outer, holes, dimensions, side, step, contour_fn, use_padding))
    return np.concatenate(grids)


def _grid_of_contour(
    outer: Contour,
    holes: list[Contour],
    dimensions: tuple[int, int],
    side: tuple[int, int],
    step: tuple[int, int],
    contour_fn: ContourFn,
    use_padding: bool,
) -> Coords:
    left, top, width, height = cv2.boundingRect(outer)
    right, bottom = left + width, top + height
    if not use_padding:
        right, bottom = min(right, dimensions[0] - side[0] + 1), min(bottom, dimensions[1] - side[1] + 1)
    xs = np.arange(left, right, step[0], dtype=np.int64)
    ys = np.arange(top, bottom, step[1], dtype=np.int64)
    corners = np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2)
    # CLAM takes the width of a tile for both axes, and halves it with // here, with / for holes.
    centre = corners + side[0] // 2
    shift = int(side[0] // 2 * 0.5)
    if contour_fn == "basic":
        inside = _within(outer, corners)
    elif contour_fn == "center" or shift == 0:
        inside = _within(outer, centre)
    else:
        signs = [(-1, -1), (1, 1), (1, -1), (-1, 1)]
        points = np.stack([_within(outer, centre + shift * np.array(sign)) for sign in signs])
        if contour_fn == "four_pt_hard":
            inside = points.all(axis=0)
        else:
            inside = points.any(axis=0)
    tiles = corners[inside]
    for hole in holes:
        tiles = tiles[~_within(hole, tiles + side[0] / 2, boundary=False)]
    return tiles


def _within(contour: Contour, points: NDArray, *, boundary: bool = True) -> NDArray[np.bool_]:
    """Which points lie inside a contour; equals cv2.pointPolygonTest for each, many times faster."""
    if len(contour) < 3:
        if not boundary:  # a point or a line has no inside
            return np.zeros(len(points), bool)
        return (points[:, None, :] == contour[None]).all(axis=-1).any(axis=-1)
    polygon = shapely.Polygon(contour)
    shapely.prepare(polygon)
    # intersects: the boundary counts; contains: it does not
    test = shapely.intersects_xy if boundary else shapely.contains_xy
    return test(polygon, points[:, 0], points[:, 1])


def global_grid(
    tissue: Tissue, *, dimensions: tuple[int, int], side: int, step: int, min_tissue: float = 0.0, holes: bool = True
) -> Coords:
    """TRIDENT's grid: one over the whole slide from (0, 0), row after row; the last tiles extend beyond the slide.

    Args:
        tissue: contours and holes.
        dimensions: width and height of the slide.
        side: side of a tile.
        step: from one tile to the next.
        min_tissue: the share of a tile that must be tissue; at 0 it is enough that they touch.
        holes: whether holes are left out (False: they count as tissue).
    """
    if not 0 <= min_tissue <= 1:
        raise UserError(f"the share of tissue in a tile must be between 0 and 1, got {min_tissue}")
    pieces = shapely.get_parts(tissue.polygons(holes=holes))
    if not len(pieces):
        return np.zeros((0, 2), np.int64)
    shapely.prepare(pieces)
    xs = np.arange(0, dimensions[0], step, dtype=np.int64)
    ys = np.arange(0, dimensions[1], step, dtype=np.int64)
    tiles = []
    for start in range(0, len(ys), _ROWS):
        # Some rows at once: few enough that millions of boxes do not stand in memory, many enough to be worth the call.
        rows = ys[start : start + _ROWS]
        grid = np.stack(np.meshgrid(rows, xs, indexing="ij"), axis=-1).reshape(-1, 2)[:, ::-1]
        boxes = shapely.box(grid[:, 0], grid[:, 1], grid[:, 0] + side, grid[:, 1] + side)
        covered = np.zeros(len(grid))
        touched = np.zeros(len(grid), bool)
        for piece in pieces:
            # the box around a piece is tested first, by plain comparisons; its outline may have 100,000 points
            near = _tiles_near(piece, grid, side)
            near = near[shapely.intersects(piece, boxes[near])]
            touched[near] = True
            if min_tissue > 0 and len(near):
                covered[near] += _covered_area(piece, grid[near], boxes[near], side, step)
        tiles.append(grid[touched & (covered >= min_tissue * side**2 * (1 - 1e-9))])
    return np.concatenate(tiles)


def _tiles_near(piece: shapely.Geometry, grid: Coords, side: int) -> NDArray[np.int64]:
    """The tiles that meet the bounding box of a piece."""
    left, top, right, bottom = shapely.bounds(piece)
    x, y = grid[:, 0], grid[:, 1]
    return np.flatnonzero((x <= right) & (x + side >= left) & (y <= bottom) & (y + side >= top))


def _covered_area(piece: shapely.Geometry, tiles: Coords, boxes: NDArray, side: int, step: int) -> NDArray[np.float64]:
    """Area of each tile that lies in a piece.

    Only tiles on its outline are intersected, and many in one call: tiles that lie apart are one shape, whose parts are told apart afterwards.
    """
    area = np.full(len(tiles), float(side**2))
    on_outline = np.flatnonzero(~shapely.covers(piece, boxes))
    area[on_outline] = 0
    places = tiles[on_outline] // step
    apart = side // step + 1  # from one tile to the next that neither overlaps nor touches it
    column, row = places[:, 0], places[:, 1]
    for x in range(apart):
        for y in range(apart):
            apart_from_another = on_outline[(column % apart == x) & (row % apart == y)]
            if not len(apart_from_another):
                continue
            shared = shapely.get_parts(shapely.intersection(piece, shapely.multipolygons(boxes[apart_from_another])))
            tree = shapely.STRtree(boxes[apart_from_another])
            part, tile = tree.query(shapely.point_on_surface(shared), predicate="intersects")
            np.add.at(area, apart_from_another[tile], shapely.area(shared[part]))
    return area
