"""Measures of an embedding: clusters against classes (NMI), neighbours of the right class (Recall@K, mAP@R)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1024  # queries at a time


def nearest(
    queries: Float[Tensor, "q d"],
    gallery: Float[Tensor, "n d"],
    k: int,
    *,
    exclude_self: bool = False,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Euclidean distances and numbers of the k nearest, in chunks of queries; equal distances by number.

    Args:
        exclude_self: query i is gallery item i, and is not its own neighbour.

    Raises:
        ValueError: the gallery has fewer than k (others).
    """
    available = len(gallery) - int(exclude_self)
    if k > available:
        raise ValueError(f"{k} neighbours were asked for, the gallery has {available}")
    distances, numbers = [], []
    squares = gallery.square().sum(1)
    for begin in range(0, len(queries), CHUNK):
        part = queries[begin : begin + CHUNK]
        far = part.square().sum(1)[:, None] + squares[None] - 2 * part @ gallery.T
        if exclude_self:
            rows = torch.arange(len(part))
            far[rows, rows + begin] = float("inf")
        ordered = torch.sort(far, dim=1, stable=True)
        distances.append(ordered.values[:, :k].clamp(min=0).sqrt())
        numbers.append(ordered.indices[:, :k])
    return torch.cat(distances), torch.cat(numbers)


def recall_hits(neighbour_labels: NDArray, labels: NDArray, ks: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each query has one of its class among its k nearest: (queries, ks)."""
    hits = neighbour_labels == labels[:, None]
    return np.stack([hits[:, :k].any(1) for k in ks], 1)


def average_precision_at_r(neighbour_labels: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """mAP@R of each query (Musgrave et al. 2020): precision at every hit among the R nearest, R being the others of its class.

    Args:
        neighbour_labels: classes of neighbours in order; at least R of each.
        labels: classes of the queries, the same set as the gallery. NaN for a class of one.
    """
    values, counts = np.unique(labels, return_counts=True)
    others = dict(zip(values.tolist(), (counts - 1).tolist(), strict=True))
    scores = np.full(len(labels), np.nan)
    for row, label in enumerate(labels.tolist()):
        r = others[label]
        if r:
            hits = neighbour_labels[row, :r] == label
            precision = np.cumsum(hits) / np.arange(1, r + 1)
            scores[row] = float((precision * hits).sum() / r)
    return scores


def nmi(labels: NDArray, clusters: NDArray) -> float:
    """Normalised mutual information with the arithmetic mean."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels, clusters))


def cluster(embeddings: NDArray, clusters: int, seed: int, *, starts: int = 10) -> NDArray[np.int64]:
    """K-means with several starts.

    Raises:
        ValueError: fewer images than clusters.
    """
    from sklearn.cluster import KMeans

    if len(embeddings) < clusters:
        raise ValueError(f"{len(embeddings)} images cannot form {clusters} clusters")
    means: Any = KMeans(clusters, n_init=starts, max_iter=100, random_state=seed)  # pyright: ignore[reportArgumentType]
    return means.fit_predict(embeddings).astype(np.int64)
