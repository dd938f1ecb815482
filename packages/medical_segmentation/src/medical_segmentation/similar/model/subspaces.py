"""Learners of an embedding: which training images each has, and how a new one is split off (Adiga et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

Range = tuple[int, int]
NONE = -1  # cluster of an image that no learner trains on
MIN_IMPORTANT = 5  # important coordinates that a split needs
MIN_COORDINATES = 10  # the newest learner must have more than these


def cluster_costs(current: NDArray, previous: NDArray, clusters: int) -> NDArray[np.float32]:
    """``costs[i, j]``: images that are in exactly one of current cluster i and previous cluster j."""
    now = current[None] == np.arange(clusters)[:, None]
    before = previous[None] == np.arange(clusters)[:, None]
    common = now.astype(np.int64) @ before.astype(np.int64).T
    return (now.sum(1)[:, None] + before.sum(1)[None] - 2 * common).astype(np.float32)


def reassign_clusters(
    current: NDArray, previous: NDArray, clusters: int, *, published: bool = False
) -> NDArray[np.int64]:
    """New clusters under the numbers of the old ones that they resemble most, so that a learner keeps its images.

    Args:
        current, previous: cluster of every image; -1 for none.
        clusters: their number.
        published: apply the inverse of the matching, as the published code does by mistake: learners then swap images.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cluster_costs(current, previous, clusters))
    new_number = np.empty(clusters, dtype=np.int64)
    if published:
        new_number[columns] = rows
    else:
        new_number[rows] = columns
    known = current >= 0
    return np.where(known, new_number[np.where(known, current, 0)], NONE)


def without_singletons(clusters: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """A class with one image in a cluster has no pair there: that image leaves the cluster (-1)."""
    pairs = np.stack([clusters, labels], 1)
    _, place, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    return np.where(counts[place.ravel()] == 1, NONE, clusters).astype(np.int64)


def importance(mean_product: Float[Tensor, " size"], learner: Range) -> Float[Tensor, " size"]:
    """Taylor scores of one learner's coordinates, from 0 to 1; 0 outside of it.

    Args:
        mean_product: mean over the images of an epoch of activation times gradient.
        learner: its coordinates.
    """
    start, stop = learner
    scores = torch.zeros_like(mean_product)
    own = mean_product[start:stop].abs()
    own = own / own.norm().clamp(min=1e-12)
    span = (own.max() - own.min()).clamp(min=1e-12)
    scores[start:stop] = (own - own.min()) / span
    return scores


class Split(NamedTuple):
    """A learner taken apart.

    Attributes:
        scores: of every coordinate.
        selected: the important coordinates, most important first.
        kept: where their rows go: the front of the learner's range.
        reset: coordinates of the new learner, to be initialised anew.
    """

    scores: Float[Tensor, " size"]
    selected: Int[Tensor, " n"]
    kept: Int[Tensor, " n"]
    reset: Int[Tensor, " m"]


def plan_split(mean_product: Float[Tensor, " size"], learner: Range, *, threshold: float = 0.5) -> Split:
    """Which rows the newest learner keeps, and which become a new one."""
    start, stop = learner
    scores = importance(mean_product, learner)
    order = torch.sort(scores, descending=True, stable=True).indices
    selected = order[scores[order] > threshold]
    border = start + len(selected)
    positions = torch.arange(len(scores), device=scores.device)
    return Split(scores, selected, positions[start:border], positions[border:stop])


def can_split(split: Split, learner: Range) -> bool:
    """Whether enough coordinates matter, some are left over, and the learner is large enough."""
    start, stop = learner
    return stop - start > MIN_COORDINATES and len(split.selected) >= MIN_IMPORTANT and len(split.reset) > 0


@torch.no_grad()
def split_rows(layer: nn.Linear, split: Split, *, published: bool = False) -> None:
    """Moves the important rows of W and b to the front of the range and initialises the rest anew.

    Args:
        layer: the embedding layer.
        split: of its newest learner.
        published: copy row by row in place, as the published code does: a row may be overwritten while it is still needed.
    """
    for parameter in (layer.weight, layer.bias):
        if published:
            for place, row in zip(split.kept.tolist(), split.selected.tolist(), strict=True):
                parameter[place] = parameter[row]
        else:
            parameter[split.kept] = parameter[split.selected]
    fresh = nn.Linear(layer.in_features, max(1, len(split.reset)), device=layer.weight.device, dtype=layer.weight.dtype)
    nn.init.xavier_normal_(fresh.weight)
    if len(split.reset):
        layer.weight[split.reset], layer.bias[split.reset] = fresh.weight, fresh.bias


@torch.no_grad()
def split_moments(optimiser: torch.optim.Optimizer, layer: nn.Linear, split: Split) -> None:
    """Moves Adam's moments with their rows and forgets those of the new learner."""
    for parameter in (layer.weight, layer.bias):
        state = optimiser.state.get(parameter, {})
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            if name in state:
                state[name][split.kept] = state[name][split.selected]
                state[name][split.reset] = 0


def split_ranges(learners: list[Range], kept: int) -> list[Range]:
    """The ranges after the newest learner kept its first `kept` coordinates."""
    start, stop = learners[-1]
    return [*learners[:-1], (start, start + kept), (start + kept, stop)]
