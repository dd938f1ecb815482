"""The simplest detector, to compare a model with: more power than usual."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ieeg.metrics.measures import Judged, count, total
from ieeg.recordings.prepared import Prepared
from ieeg.results.options import EventOptions

BAND = (3.0, 40.0)  # Hz: the rhythms of seizures, below muscle artefacts


def power_trace(prepared: Prepared) -> NDArray[np.float64]:
    """How far each segment's log power (3 to 40 Hz, mean over channels) is above the recording's median, in robust standard deviations."""
    from scipy import fft

    rate = prepared.settings.rate
    parts = []
    for _, segments in prepared.blocks():
        spectrum = np.asarray(fft.rfft(segments, axis=-1))
        frequencies = np.arange(spectrum.shape[-1]) * rate / segments.shape[-1]
        band = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
        power = np.square(np.abs(spectrum[..., band])).mean(-1)
        parts.append(np.log(power + 1e-6).mean(-1))
    trace = np.concatenate(parts).astype(np.float64)
    # The median and its absolute deviation: seizures would inflate mean and deviation. 1.4826 makes it a standard deviation of a normal one.
    middle = np.median(trace)
    return (trace - middle) / max(1.4826 * float(np.median(np.abs(trace - middle))), 1e-6)


def as_probability(trace: NDArray[np.float64], threshold: float) -> NDArray[np.float32]:
    """A number from 0 to 1 that is one half at the threshold, so that the same measures apply. It is not a calibrated probability."""
    return (1 / (1 + np.exp(-np.clip(trace - threshold, -30, 30)))).astype(np.float32)


def best_threshold(judged: Sequence[Judged], traces: Sequence[NDArray[np.float64]], options: EventOptions) -> float:
    """The threshold with the greatest sum of event and window F1 over recordings with known seizures."""
    greatest, best = -1.0, 3.0
    for threshold in np.arange(0.5, 15, 0.25):
        counts = []
        for recording, trace in zip(judged, traces, strict=True):
            probability = as_probability(trace, threshold)
            counts.append(count(replace(recording, probability=probability, events=None), options))
        measures = total(counts).measures()
        value = float(np.nan_to_num(measures["event_f1"]) + np.nan_to_num(measures["window_f1"]))
        if value > greatest:
            greatest, best = value, float(threshold)
    return best
