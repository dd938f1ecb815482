"""Attention of the tiles of a slide, from a model and features or from a file of scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from core_runtime.arrays import DAMAGED
from core_runtime.errors import UserError
from pathology_mil.features.bags import Bag
from pathology_mil.model.inference import Predictor
from pathology_mil.slides.tiles import checked_coords, level0_side, open_h5, plain_attributes


@dataclass(frozen=True)
class Scored:
    """The tiles of a slide with their attention.

    Attributes:
        coords: (N, 2) top left corners, level-0 pixels.
        side: side of a tile in level-0 pixels.
        attention: (N,) sums to 1.
        branches: (M, N), each row sums to 1; None where only the mean is known.
        label: the predicted class, if a model predicted one.
        probabilities: of each class.
        facts: encoder and the like, for readers of the result.
        notes: what a user should know about how this was read.
    """

    coords: NDArray[np.int64]
    side: int
    attention: NDArray[np.float64]
    branches: NDArray[np.float64] | None = None
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def score_with(predictor: Predictor, bag: Bag) -> Scored:
    """Attention of a model on a bag of features.

    Raises:
        UserError: no coordinates or tile size with the features, or a bag that the predictor cannot use.
    """
    if bag.coords is None or bag.side is None:
        raise UserError(
            f"{bag.slide_id}: without coordinates in the features a label can be predicted, but no heat map drawn"
        )
    prediction = predictor(bag)
    return Scored(
        bag.coords,
        bag.side,
        np.asarray(prediction.attention, np.float64),
        np.asarray(prediction.branch_attention, np.float64),
        prediction.label,
        prediction.probabilities,
        prediction.facts,
        tuple(bag.notes),
    )


def read_scores(path: Path, *, coords_from: Path | None = None) -> Scored:
    """Reads scores written by `predict`, CLAM or another model: HDF5 with `attention_scores` (or `scores`, `attention`), or `.npz`, `.npy`.

    Scores that are not a distribution (they do not sum to 1, or are negative) are taken as raw scores and go through a softmax.

    Args:
        path: the file. (N,), (N, 1), (1, N) or (branches, N).
        coords_from: a file of tiles or features for the coordinates, where `path` has none.

    Raises:
        UserError: damaged, without scores or coordinates, or of another number of tiles.
    """
    content = _read_arrays(path)
    name = next((name for name in ("attention_scores", "scores", "attention") if name in content), None)
    if name is None:
        raise UserError(f"{path.name}: no 'attention_scores', 'scores' or 'attention' in this file")
    coords, attributes = content.get("coords"), content.get("coords attributes", {})
    if coords_from is not None:
        tiles = _read_arrays(coords_from)
        coords, attributes = tiles.get("coords"), tiles.get("coords attributes", {})
    if coords is None:
        raise UserError(f"{path.name}: scores without coordinates", "give the file of the tiles with --coords FILE.h5")
    coords = checked_coords(np.asarray(coords), path.name)
    side, notes = level0_side(attributes, coords, path.name)
    if side is None:
        raise UserError(f"{path.name}: the size of a tile is unknown", "give the tiles' own file with --coords FILE.h5")
    if np.asarray(content[name]).dtype.kind not in "fiu":
        raise UserError(f"{path.name}: {name!r} holds values that are not numbers")
    scores = np.asarray(content[name], np.float64)
    if scores.shape == (len(coords), 1):  # CLAM's
        scores = scores.T
    scores = np.atleast_2d(scores)
    if scores.shape[1] != len(coords):
        raise UserError(f"{path.name}: {scores.shape[1]} scores but {len(coords)} coordinates")
    if not np.isfinite(scores).all():
        raise UserError(f"{path.name}: the scores hold NaN or infinite values")
    # 1e-2: attention that was stored as float16 does not sum to exactly 1
    if scores.shape[1] and (scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > 1e-2):
        scores = softmax(scores)
        notes = [*notes, "the scores were taken as raw scores (before softmax)"]
    branches = None
    if "branch_attention" in content:
        branches = np.asarray(content["branch_attention"], np.float64)
    elif len(scores) != 1:
        branches = scores
    return Scored(coords, side, scores.mean(axis=0), branches, notes=tuple(notes))


def _read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file by name, with the attributes of `coords`.

    Raises:
        UserError: not a NumPy or HDF5 file, or damaged.
    """
    if path.suffix in (".npz", ".npy"):
        try:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"scores": loaded}
            return dict(loaded)
        except DAMAGED as error:
            raise UserError(
                f"{path.name}: not a readable NumPy file (files that would run code are refused)"
            ) from error
    with open_h5(path) as file:
        arrays: dict[str, Any] = {}
        for name, entry in file.items():
            if name in ("features", "feat", "imgs"):  # large, and without scores
                continue
            if isinstance(entry, h5py.Dataset) and entry.ndim:
                arrays[name] = entry[:]
        if "coords" in arrays:
            arrays["coords attributes"] = plain_attributes(file["coords"].attrs)
    return arrays


def softmax(scores: ArrayLike) -> NDArray[np.float64]:
    """Attention from raw scores over the last axis, in float64."""
    raw = np.asarray(scores, np.float64)
    if raw.shape[-1] == 0:
        return raw
    weights = np.exp(raw - raw.max(axis=-1, keepdims=True))  # without the maximum, exp overflows
    return weights / weights.sum(axis=-1, keepdims=True)


def auprc(attention: NDArray, truth: NDArray) -> float:
    """Area under the precision-recall curve of the attention against the tumour tiles; NaN where no tile or every tile is tumour.

    Chance is the share of tumour tiles.
    """
    from sklearn.metrics import average_precision_score

    truth = np.asarray(truth, bool)
    if not truth.any() or truth.all():
        return float("nan")
    return float(average_precision_score(truth, attention))
