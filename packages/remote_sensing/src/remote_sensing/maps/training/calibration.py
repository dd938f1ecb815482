"""Calibration of a trained network: one temperature for its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from remote_sensing.maps.metrics import calibration_error
from remote_sensing.maps.model.folder import SheetModel
from remote_sensing.maps.sheets.examples import Example


class Calibration(NamedTuple):
    """A temperature, and the expected calibration error without and with it."""

    temperature: float
    error_before: float
    error: float


def calibrate(model: SheetModel, examples: Sequence[Example]) -> Calibration:
    """The temperature with the least negative log-likelihood on tiles."""
    logits, truth = [], []
    classes = torch.arange(1, len(model.classes) + 1)[:, None, None]
    for image, label in examples:
        logits.append(model.logits(torch.from_numpy(image)[None])[0].flatten())
        truth.append((torch.from_numpy(label)[None] == classes).float().flatten())
    x, y = torch.cat(logits), torch.cat(truth)
    step = max(1, len(x) // 1_000_000)  # more pixels do not change the temperature
    x, y = x[::step].double(), y[::step].double()
    candidates = torch.linspace(-1.5, 2.5, 81, dtype=torch.float64).exp()
    # a grid instead of an optimiser: temperatures of 0.22 to 12, 5 % apart, are fine enough and cannot diverge
    losses = torch.stack([F.binary_cross_entropy_with_logits(x / t, y) for t in candidates])
    best = float(candidates[int(losses.argmin())])
    return Calibration(best, calibration_error(x.sigmoid(), y), calibration_error((x / best).sigmoid(), y))
