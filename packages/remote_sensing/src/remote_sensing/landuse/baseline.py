"""The plain peer: colour histograms and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remote_sensing.landuse.metrics import Metrics, measure


def histograms(tiles: NDArray, bins: int = 16) -> NDArray[np.float32]:
    """(tiles, bands · bins) shares of the pixels by value, 0 to 255, of 8-bit tiles (tiles, bands, height, width)."""
    n, bands = tiles.shape[:2]
    bin_of = np.asarray(tiles, np.int64).reshape(n, bands, -1) * bins // 256
    shares = []
    for number in range(bins):
        shares.append((bin_of == number).mean(2))
    return np.stack(shares, 2).reshape(n, -1).astype(np.float32)


def fit_baseline(tiles: NDArray, labels: Sequence[int], seed: int = 0) -> Any:
    """A logistic regression on the histograms of tiles."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500, random_state=seed))
    return model.fit(histograms(tiles), labels)


def judge_baseline(model: Any, tiles: NDArray, labels: Sequence[int], classes: Sequence[str]) -> Metrics:
    """The measures of the regression on tiles."""
    probabilities = torch.from_numpy(model.predict_proba(histograms(tiles))).float()
    return measure(probabilities, torch.as_tensor(labels), classes)
