"""Channels that are not to be trusted, each with its reason, from a few seconds here and there of a recording; mains hum; impossible units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from ieeg.recordings.recording import Recording

PROBES, PROBE_SECONDS = 12, 5.0
LOUD, CLIPPED, HUM, MISSING = 5.0, 0.02, 0.5, 0.05  # robust z; shares of samples, of power, of samples


@dataclass(frozen=True)
class Quality:
    """What the probes say.

    Attributes:
        bads: name → reason, of neural channels.
        microvolts: median over channels of the standard deviation.
        line: mains frequency that stands out in the spectrum, Hz, or 0.
        scale: factor that turns the file's numbers into microvolts where its unit is plainly wrong (volts called microvolts: 1e6), else 1.
        missing: share of NaN samples in the neural channels.
    """

    bads: dict[str, str]
    microvolts: float
    line: float
    scale: float
    missing: float


def probe_times(duration: float, count: int = PROBES, seconds: float = PROBE_SECONDS) -> NDArray[np.float64]:
    """Where the probes begin, spread over the recording; one of a short one."""
    if duration <= count * seconds:
        return np.arange(max(1, int(duration // seconds)), dtype=np.float64) * seconds
    return np.linspace(0, duration - seconds, count)


def examine(recording: Recording) -> Quality:
    """Reads the probes of the neural channels and judges them."""
    bads = {c.name: c.bad for c in recording.channels if c.neural and c.bad}
    neural = [i for i, c in enumerate(recording.channels) if c.neural]
    if not neural:
        return Quality(bads, float("nan"), 0.0, 1.0, 0.0)
    spread = np.full(len(recording.channels), np.nan)
    hum = {50.0: np.full(len(recording.channels), np.nan), 60.0: np.full(len(recording.channels), np.nan)}
    stands_out = {50.0: [0.0], 60.0: [0.0]}
    missing = []
    for rate, indices in recording.rates.items():
        chosen = [i for i in indices if recording.channels[i].neural]
        if not chosen:
            continue
        probes = _read_probes(recording, chosen, rate)
        for i, reason in zip(chosen, _plain_faults(probes), strict=True):
            if reason:
                bads.setdefault(recording.channels[i].name, reason)
        missing.append(np.mean([np.isnan(p).mean() for p in probes]))
        filled = [
            np.nan_to_num(p - np.nanmean(np.where(np.isnan(p).all(1, keepdims=True), 0, p), 1, keepdims=True))
            for p in probes
        ]
        spread[chosen] = np.median([_detrended_std(p) for p in filled], 0)
        for line in hum:
            shares, peaks = zip(*(_line_share(p, rate, line) for p in filled), strict=True)
            hum[line][chosen] = np.median(shares, 0)
            stands_out[line].append(float(np.median(peaks)))
    good = [i for i in neural if recording.channels[i].name not in bads and spread[i] > 0]
    line = max(stands_out, key=lambda f: max(stands_out[f]))
    line = line if max(stands_out[line]) > 3 else 0.0
    if len(good) >= 4:
        logs = np.log(spread[good])
        middle = np.median(logs)
        scale = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.15)
        for i, z in zip(good, (logs - middle) / scale, strict=True):
            if abs(z) > LOUD:
                times = np.exp(abs(np.log(spread[i]) - middle))
                bads[recording.channels[i].name] = f"{times:.0f}× {'louder' if z > 0 else 'quieter'} than the others"
    if line:
        usual = float(np.nanmedian(hum[line][neural]))
        for i in neural:
            if hum[line][i] > max(HUM, 3 * usual):
                bads.setdefault(recording.channels[i].name, f"mains hum is {hum[line][i]:.0%} of its power")
    level = float(np.median(spread[good])) if good else float("nan")
    return Quality(bads, level, line, _unit_scale(level), float(np.mean(missing)))


def _read_probes(
    recording: Recording, chosen: Sequence[int], rate: float
) -> list[Float[np.ndarray, "channels samples"]]:
    gaps = recording.gaps
    probes = []
    for begin in probe_times(recording.duration):
        if not any(a < begin + PROBE_SECONDS and begin < b for a, b in gaps):
            first = round(begin * rate)
            last = min(round((begin + PROBE_SECONDS) * rate), recording.samples(rate))
            probes.append(recording.read(chosen, first, last))
    return probes or [recording.read(chosen, 0, min(round(PROBE_SECONDS * rate), recording.samples(rate)))]


def _plain_faults(probes: Sequence[Float[np.ndarray, "channels samples"]]) -> list[str]:
    """Per channel: missing, flat in most probes, or held at its extremes."""
    reasons = []
    stacked = np.concatenate(probes, 1)
    with np.errstate(invalid="ignore"):
        flat = np.mean([np.nan_to_num(p.max(1) - p.min(1), nan=1.0) <= 0 for p in probes], 0)
    for x, share in zip(stacked, flat, strict=True):
        valid = x[np.isfinite(x)]
        if len(valid) < (1 - MISSING) * len(x):
            reasons.append(f"{1 - len(valid) / len(x):.0%} of its samples are missing (NaN)")
        elif share > 0.5:
            reasons.append("flat")
        else:
            at_limit = (valid == valid.max()) | (valid == valid.min())
            held = float((at_limit[1:] & at_limit[:-1] & (valid[1:] == valid[:-1])).mean()) if len(valid) > 1 else 0.0
            reasons.append(f"saturated in {held:.0%} of its samples" if held > CLIPPED else "")
    return reasons


def _detrended_std(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, " channels"]:
    from scipy.signal import detrend

    return detrend(x, axis=1).std(1) if x.shape[1] > 2 else x.std(1)


def _line_share(
    x: Float[np.ndarray, "channels samples"], rate: float, line: float
) -> tuple[NDArray[np.float64], float]:
    """The share of the power above 1 Hz that lies at the mains frequency, per channel, and how far it stands above its neighbours."""
    from scipy.signal import periodogram

    if rate < 2.5 * line or x.shape[1] < rate:
        return np.zeros(len(x)), 0.0
    frequencies, power = periodogram(x, rate, window="hann")
    at = np.abs(frequencies - line) <= 1
    beside = (np.abs(frequencies - line) > 2) & (np.abs(frequencies - line) < 7)
    total = power[:, frequencies > 1].sum(1)
    share = power[:, at].sum(1) / np.where(total > 0, total, 1)
    neighbours = power[:, beside].mean(1)
    peak = float(np.median(power[:, at].mean(1) / np.where(neighbours > 0, neighbours, 1)))
    return share, peak


def _unit_scale(level: float) -> float:
    """Intracranial signals spread over 5 to 500 µV. A spread a million times smaller is volts under the name of microvolts."""
    return 1e6 if 0 < level < 2e-3 else 1.0
