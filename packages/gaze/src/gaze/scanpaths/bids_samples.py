"""Samples of eye-tracking BIDS: ``_physio.tsv.gz``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.fields import read_field
from gaze.scanpaths.assembly import MS_PER, Account
from gaze.scanpaths.bids_files import read_cells, to_numbers
from gaze.scanpaths.samples import Samples
from gaze.scanpaths.scanpath import Eye


def read_samples(
    path: Path, columns: Sequence[str], sidecar: Mapping[str, Any], time_unit: str, eye: Eye, account: Account
) -> Samples:
    for name in ("x_coordinate", "y_coordinate"):
        if name not in columns:
            raise UserError(f"{path}: its JSON names no column {name}", f"its columns are {', '.join(columns)}")
    rate = read_field(sidecar, "SamplingFrequency", float, where=path, default=None, low=0.1, high=100_000)
    if "timestamp" in columns:
        values = to_numbers(read_cells(path, columns, ("timestamp", "x_coordinate", "y_coordinate"), account), 3)
        values[:, 0] *= MS_PER[time_unit]
    else:
        points = to_numbers(read_cells(path, columns, ("x_coordinate", "y_coordinate"), account), 2)
        if rate is None:
            raise UserError(f"{path} has no timestamps and its JSON no SamplingFrequency")
        start = read_field(sidecar, "StartTime", float, where=path, default=0.0)
        values = np.column_stack([start * 1000 + np.arange(len(points)) * 1000 / rate, points])
    values = values[np.isfinite(values[:, 0])]
    samples = Samples(values[:, 0], {eye: values[:, 1:]}, np.zeros(len(values), np.int64))
    if rate is not None and len(samples) > 2:
        measured_rate = samples.rate()
        if abs(measured_rate / rate - 1) > 0.02:
            account.note(
                f"{path.name}: its JSON says {rate:g} Hz, the timestamps are {1000 / measured_rate:g} ms apart ({measured_rate:g} Hz): the timestamps are used"
            )
    return samples


def mean_positions(samples: Samples, onset: NDArray[np.float64], duration: NDArray[np.float64]) -> NDArray[np.float64]:
    """(fixations, 2): the mean position of the samples of each; NaN where there are none."""
    order = np.argsort(samples.time, kind="stable")
    time, points = samples.time[order], next(iter(samples.points.values()))[order]
    means = np.full((len(onset), 2), np.nan)
    first = np.searchsorted(time, onset, "left")
    last = np.searchsorted(time, onset + np.nan_to_num(duration), "left")
    for place, (a, b) in enumerate(zip(first, last, strict=True)):
        inside = points[a:b]
        visible = np.isfinite(inside).all(1)
        if visible.any():
            means[place] = inside[visible].mean(0)
    return means
