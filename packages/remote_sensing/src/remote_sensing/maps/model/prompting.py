"""A user's points and boxes over a whole folder of sheets, through plain SAM: one object a prompt."""

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
    """One object: points (n, 2) with labels (1 it, 0 not it), or a box (left, top, right, bottom); all in pixels of the sheet."""

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
    """The prompts that lie on a sheet: a polygon is a box; points of one value in the column ``object`` belong together, ``label`` 0 says "not this"."""
    grid = sheet.grid
    frame = shapely.box(0, 0, grid.width, grid.height)
    placed = [to_map(g, ~grid.transform) for g in in_crs(layer, grid.crs, "the prompts")]
    made: list[Prompt] = []
    groups: dict[Any, list[tuple[float, float, int]]] = {}
    for i, geometry in enumerate(placed):
        if not geometry.intersects(frame):
            continue
        if geometry.area > 0:
            left, top, right, bottom = geometry.bounds
            made.append(Prompt(None, None, (left, top, right, bottom)))
            continue
        name = layer.columns["object"][i] if "object" in layer.columns else i
        label = int(layer.columns["label"][i]) if "label" in layer.columns else 1
        groups.setdefault(name, []).extend(
            (p.x, p.y, label) for p in shapely.get_parts(shapely.points(shapely.get_coordinates(geometry)))
        )
    for points in groups.values():
        array = np.array(points)
        if (array[:, 2] == 1).any():
            made.append(Prompt(array[:, :2], array[:, 2].astype(np.int64), None))
    return made


@torch.inference_mode()
def answer(network: Sam, sheet: Sheet, prompt: Prompt, side: int) -> tuple[Any, float]:
    """SAM's outline of one object (pixels of the sheet; None where it sees nothing), and the quality that it predicts.

    Args:
        side: pixels of the sheet around the prompt that the network sees.
    """
    x, y = prompt.middle
    if prompt.box is not None:
        side = max(side, int(1.5 * max(prompt.box[2] - prompt.box[0], prompt.box[3] - prompt.box[1])))
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
    low, quality = network.decode(embedding, *network.prompt(points, boxes), multimask=points is not None)
    best = int(quality[0].argmax())
    logits = resized_masks(low[:, best : best + 1], size, (size, size), (side, side))[0, 0].cpu().numpy()
    mask = (logits > 0) & valid
    outlines = [shape(g) for g, _ in shapes(mask.astype(np.uint8), mask, 8, Affine.translation(left, top))]
    return (shapely.union_all(outlines) if outlines else None), float(quality[0, best])


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
    """Writes ``NAME_objects.gpkg`` for every sheet that prompts lie on: an outline a prompt, with area and predicted quality.

    Raises:
        UserError: no prompt lies on any sheet, or results that are already there.
    """
    layer, rows = read_layer(prompts), []
    for path in sheets:
        target = out / f"{path.stem}_objects.gpkg"
        with Sheet(path) as sheet:
            asked = prompts_of(layer, sheet)
            if not asked:
                continue
            if target.exists() and not overwrite:
                raise UserError(f"{target} is already there", "--overwrite replaces it, --out names another folder")
            found = []
            for prompt in track(asked, f"Prompts on {path.name}", len(asked)) if progress else asked:
                outline, quality = answer(network, sheet, prompt, side)
                if outline is not None:
                    found.append((outline, quality))
            grid = sheet.grid
        shapes_out = [shapely.multipolygons(polygons_of(to_map(g, grid.transform))) for g, _ in found]
        columns = {"area": [g.area for g in shapes_out], "quality": [q for _, q in found]}
        write_layer(target, NewLayer("objects", "MultiPolygon", shapes_out, columns), crs=grid.crs)
        rows.append({"sheet": path.name, "prompts": len(asked), "objects": len(found), "file": str(target)})
    if not rows:
        raise UserError(f"{prompts}: no prompt lies on any of the {len(sheets)} sheets", "check the coordinate systems")
    return rows
