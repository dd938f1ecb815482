"""From a scene to a land-use map: tiles slide over it, and each cell of the map is the average of the tiles that cover it.

One strip of tile height is in memory at a time, whatever the size of the scene. The map has a cell for every `stride` pixels of the scene; beyond
its edges the scene is continued by reflection, so that every cell is covered by the same number of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.terminal import track
from remote_sensing.landuse.model.attention_maps import with_attention
from remote_sensing.landuse.model.inference import LandUseModel
from remote_sensing.landuse.scenes.classes import NODATA
from remote_sensing.landuse.scenes.scene import Scene

GATE = 8  # pixels of the scene per cell of the attention, which is finer than land use


@dataclass(frozen=True)
class Layers:
    """The layers of a map (rows, columns).

    Attributes:
        classes: class number; `NODATA` where the scene holds no data.
        confidence: probability of that class; NaN where there is no data.
        attention: share of its features that a pixel keeps, 1 meaning as much as elsewhere in its tile, in cells of about `GATE` pixels (a whole
            number of them in each cell of the map); None for a network without attention.
    """

    classes: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    attention: NDArray[np.float32] | None


def check_stride(stride: int | None, side: int) -> int:
    """The pixels between tiles; by default half a tile.

    Raises:
        UserError: they do not divide the tile's side.
    """
    if stride is None:
        return side // 2
    if stride < 1 or side % stride:
        hint = f"try {side // 2} or {side // 4}"
        raise UserError(f"--stride {stride} does not divide the tile's {side} pixels", hint)
    return stride


def tile_weights(cells: int) -> NDArray[np.float32]:
    """The weight of each cell of a tile (cells, cells): greatest in the middle, a tenth of it at the rim, where a tile lacks context."""
    distance = np.abs((np.arange(cells) + 0.5) / cells * 2 - 1)
    taper = 1.0 - 0.9 * distance
    return np.outer(taper, taper).astype(np.float32)


def map_scene(model: LandUseModel, scene: Scene, *, stride: int, batch: int = 128) -> Layers:
    """Class, confidence and attention of every cell of a scene.

    Args:
        model: classifies the tiles.
        scene: opened, with the bands that the model takes.
        stride: pixels between tiles, and a cell's side; divides the tile's side.
        batch: tiles per step.
    """
    side, n = model.tile_size, model.tile_size // stride
    rows, columns = -(-scene.height // stride), -(-scene.width // stride)  # rounded up
    weight = tile_weights(n)
    # finer cells per cell of the map: the greatest divisor of the stride that leaves at least GATE pixels in each
    fine = max(1, stride // GATE)
    while stride % fine:
        fine -= 1
    fine_weight = np.kron(weight, np.ones((fine, fine), np.float32))
    classes = np.full((rows, columns), NODATA, np.uint8)
    confidence = np.full((rows, columns), np.nan, np.float32)
    attention = np.full((rows * fine, columns * fine), np.nan, np.float32)
    # Sums for the n rows of cells that a strip of tiles touches; the first row is complete after the strip.
    wide = columns + 2 * (n - 1)
    total = np.zeros((n, wide, len(model.classes) + 1), np.float32)  # classes, and the sum of weights
    gates = np.zeros((n * fine, wide * fine), np.float32)
    data = np.zeros((n, columns), bool)
    starts = range(-(n - 1), rows)  # the first strips begin above the scene
    for start in track(starts, "Mapping", len(starts)):
        strip, valid = scene.read(
            model.preprocessing.bands,
            slice(start * stride, start * stride + side),
            slice(-(n - 1) * stride, (columns - 1) * stride + side),
        )
        # every tile of the strip, as views: (tiles, bands, side, side)
        tiles = sliding_window_view(strip, (side, side), (1, 2))[:, 0, ::stride].transpose(1, 0, 2, 3)
        # side × (cells) of validity: a tile counts if half of it or more holds data
        cells: NDArray[np.bool_] = np.any(valid.reshape(n, stride, -1, stride), axis=(1, 3))
        full = sliding_window_view(np.asarray(valid, np.float32).mean(0), side)[::stride].mean(1) >= 0.5
        data |= cells[:, n - 1 : n - 1 + columns]
        steps = max(1, -(-int(full.sum()) // batch))
        for positions in np.array_split(np.flatnonzero(full), steps):
            if not len(positions):
                continue
            probabilities, maps = _classify(model, tiles[positions], n * fine)
            for i, at in enumerate(positions):
                window = total[:, at : at + n]
                window[..., :-1] += weight[..., None] * probabilities[i]
                window[..., -1] += weight
                gates[:, at * fine : (at + n) * fine] += fine_weight * maps[i]
        if start >= 0:
            sums = total[0, n - 1 : n - 1 + columns]
            there = (sums[:, -1] > 0) & data[0]  # covered by a tile, and with data of its own
            average = sums[there, :-1] / sums[there, -1:]
            classes[start, there] = average.argmax(1)
            confidence[start, there] = average.max(1)
            # the weights of a cell are those of the finer cells in it
            fine_weights = np.where(there, sums[:, -1], np.nan).repeat(fine)
            row = slice(start * fine, (start + 1) * fine)
            attention[row] = gates[:fine, (n - 1) * fine : (n - 1 + columns) * fine] / fine_weights
        # one row further down: the complete row leaves, an empty one joins
        total = np.concatenate([total[1:], np.zeros_like(total[:1])])
        gates = np.concatenate([gates[fine:], np.zeros_like(gates[:fine])])
        data = np.concatenate([data[1:], np.zeros_like(data[:1])])
    if not np.nan_to_num(attention).any():
        return Layers(classes, confidence, None)
    return Layers(classes, confidence, attention)


def _classify(model: LandUseModel, tiles: NDArray, cells: int) -> tuple[NDArray, NDArray]:
    """Probabilities (tiles, classes) and attention (tiles, cells, cells; 0 for a network without attention)."""
    device = next(model.network.parameters()).device
    raw = torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32)).to(device)
    logits, maps = with_attention(model.network, model.preprocessing(raw), max(cells, 8))
    probabilities = logits.float().softmax(1).cpu().numpy()
    if maps is None:
        return probabilities, np.zeros((len(tiles), cells, cells), np.float32)
    return probabilities, torch.nn.functional.adaptive_avg_pool2d(maps.float(), cells).cpu().numpy()
