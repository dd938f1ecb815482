"""A user's points and boxes over a whole folder of sheets, through plain SAM: one object per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import shapes
from shapely.geometry import shape

from core_attention.checkpoints.folders import read_official
from core_attention.systems import load_strictly
from core_runtime.errors import UserError
from core_runtime.terminal import track
from remote_sensing.maps.model.checkpoints import plain_keys, resized_tables, variant_of
from remote_sensing.maps.model.sam import VARIANTS, Sam, SamConfig, resized_masks
from remote_sensing.maps.sheets.grid import to_map
from remote_sensing.maps.sheets.sheet import Sheet
from remote_sensing.maps.sheets.vector_files import Layer, NewLayer, in_crs, read_layer, write_layer
from remote_sensing.maps.vectors.polygons import polygons_of


@dataclass(frozen=True)
class Prompt:
    """One object: points (n, 2) with labels (1: the object, 0: not the object), or a box (left, top, right, bottom); all in pixels of the sheet."""

    points: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None
    box: tuple[float, float, float, float] | None

    @property
    def middle(self) -> tuple[float, float]:
        if self.box is not None:
            return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2
        assert self.points is not None
        x, y = self.points.mean(0)
        return float(x), float(y)


def load_prompted(path: Path, *, image_size: int = 1024, device: str = "cpu") -> Sam:
    """Plain SAM from its checkpoint, strictly, at any image size that 16 divides.

    Raises:
        UserError: not a checkpoint of SAM.
    """
    try:
        state = plain_keys(read_official(path))
        config = SamConfig(image_size=image_size, **VARIANTS[variant_of(state)])
        network = Sam(config)
        load_strictly(network, resized_tables(state, image_size // 16, config.global_attn_indexes))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", "'remote-sensing maps models' lists SAM's checkpoints") from None
    return network.to(device).eval()


def prompts_of(layer: Layer, sheet: Sheet) -> list[Prompt]:
    """The prompts on a sheet: a polygon is a box; points of one value in the column ``object`` belong together, ``label`` 0 means "not this"."""
    grid = sheet.grid
    frame = shapely.box(0, 0, grid.width, grid.height)
    prompts: list[Prompt] = []
    groups: dict[Any, list[tuple[float, float, int]]] = {}
    for i, on_map in enumerate(in_crs(layer, grid.crs, "the prompts")):
        geometry = to_map(on_map, ~grid.transform)  # the inverse: from map coordinates to pixels
        if not geometry.intersects(frame):
            continue
        if geometry.area > 0:
            left, top, right, bottom = geometry.bounds
            prompts.append(Prompt(None, None, (left, top, right, bottom)))
            continue
        # without the column "object" every row is an object of its own, without "label" every point is inside
        name = layer.columns["object"][i] if "object" in layer.columns else i
        label = int(layer.columns["label"][i]) if "label" in layer.columns else 1
        group = groups.setdefault(name, [])
        for x, y in shapely.get_coordinates(geometry):
            group.append((x, y, label))
    for points in groups.values():
        array = np.array(points)
        # points that only exclude do not describe an object
        if (array[:, 2] == 1).any():
            prompts.append(Prompt(array[:, :2], array[:, 2].astype(np.int64), None))
    return prompts


@torch.inference_mode()
def answer(network: Sam, sheet: Sheet, prompt: Prompt, side: int) -> tuple[Any, float]:
    """SAM's outline of one object (pixels of the sheet; None where it sees nothing), and the quality that it predicts.

    Args:
        side: pixels of the sheet around the prompt that the network sees.
    """
    x, y = prompt.middle
    if prompt.box is not None:
        # a large box still has a quarter of its side as context on either side
        longest = max(prompt.box[2] - prompt.box[0], prompt.box[3] - prompt.box[1])
        side = max(side, int(1.5 * longest))
    left, top = round(x - side / 2), round(y - side / 2)
    rgb, valid = sheet.read(slice(top, top + side), slice(left, left + side))
    size = network.config.image_size
    factor = size / side
    device = next(network.parameters()).device
    image = F.interpolate(
        torch.from_numpy(rgb)[None].float().to(device), (size, size), mode="bilinear", align_corners=False
    )
    embedding = network.embed(network.preprocess(image))
    points = boxes = None
    if prompt.box is not None:
        moved = (np.array(prompt.box) - [left, top, left, top]) * factor
        boxes = torch.from_numpy(moved)[None].float().to(device)
    else:
        assert prompt.points is not None
        coords = torch.from_numpy((prompt.points - [left, top]) * factor)[None].float().to(device)
        points = coords, torch.from_numpy(prompt.labels)[None].to(device)
    # points are ambiguous (part, whole, more): of three masks the one of the best predicted quality counts; a box is not ambiguous
    low, quality = network.decode(embedding, *network.prompt(points, boxes), multimask=points is not None)
    best = int(quality[0].argmax())
    logits = resized_masks(low[:, best : best + 1], size, (size, size), (side, side))[0, 0].cpu().numpy()
    mask = (logits > 0) & valid
    to_sheet = Affine.translation(left, top)
    outlines = [shape(polygon) for polygon, _ in shapes(mask.astype(np.uint8), mask, 8, to_sheet)]
    outline = None
    if outlines:
        outline = shapely.union_all(outlines)
    return outline, float(quality[0, best])


def prompt_sheets(
    network: Sam,
    sheets: Sequence[Path],
    prompts: Path,
    out: Path,
    *,
    side: int = 512,
    overwrite: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Writes ``NAME_objects.gpkg`` for every sheet with prompts on it: one outline per prompt, with area and predicted quality.

    Raises:
        UserError: no prompt is on any sheet, or results that are already there.
    """
    layer, rows = read_layer(prompts), []
    for path in sheets:
        target = out / f"{path.stem}_objects.gpkg"
        with Sheet(path) as sheet:
            on_sheet = prompts_of(layer, sheet)
            if not on_sheet:
                continue
            if target.exists() and not overwrite:
                raise UserError(f"{target} is already there", "--overwrite replaces it, --out names another folder")
            grid = sheet.grid
            objects: list[Any] = []
            columns: dict[str, list[float]] = {"area": [], "quality": []}
            steps = on_sheet
            if progress:
                steps = track(on_sheet, f"Prompts on {path.name}", len(on_sheet))
            for prompt in steps:
                outline, quality = answer(network, sheet, prompt, side)
                if outline is None:
                    continue
                # areas are measured on the map, not in pixels
                on_map = shapely.multipolygons(polygons_of(to_map(outline, grid.transform)))
                objects.append(on_map)
                columns["area"].append(on_map.area)
                columns["quality"].append(quality)
        write_layer(target, NewLayer("objects", "MultiPolygon", objects, columns), crs=grid.crs)
        rows.append({"sheet": path.name, "prompts": len(on_sheet), "objects": len(objects), "file": str(target)})
    if not rows:
        raise UserError(f"{prompts}: no prompt is on any of the {len(sheets)} sheets", "check the coordinate systems")
    return rows
