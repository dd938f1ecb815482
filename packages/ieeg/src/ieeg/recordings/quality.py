"""Unreliable channels, each with its reason, from a few seconds here and there of a recording; mains hum; impossible units."""

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
    """Findings of the probes.

    Attributes:
        bads: name → reason, of neural channels.
        microvolts: median over channels of the standard deviation.
        line: mains frequency that stands out in the spectrum, Hz, or 0.
        scale: factor that turns the file's numbers into microvolts where its unit is clearly wrong (volts called microvolts: 1e6), else 1.
        missing: share of NaN samples in the neural channels.
    """

    bads: dict[str, str]
    microvolts: float
    line: float
    scale: float
    missing: float


def probe_times(duration: float, count: int = PROBES, seconds: float = PROBE_SECONDS) -> NDArray[np.float64]:
    """Start times of the probes, spread over the recording; a short one may have only one."""
    if duration <= count * seconds:
        return np.arange(max(1, int(duration // seconds)), dtype=np.float64) * seconds
    return np.linspace(0, duration - seconds, count)


def examine(recording: Recording) -> Quality:
    """Reads the probes of the neural channels and examines them."""
    names = recording.names
    bads = {channel.name: channel.bad for channel in recording.channels if channel.neural and channel.bad}
    neural = [i for i, channel in enumerate(recording.channels) if channel.neural]
    if not neural:
        return Quality(bads, float("nan"), 0.0, 1.0, 0.0)
    spread = np.full(len(names), np.nan)
    hum_shares = {line: np.full(len(names), np.nan) for line in (50.0, 60.0)}
    greatest_peaks = {50.0: 0.0, 60.0: 0.0}
    missing = []
    for rate, indices in recording.rates.items():
        channels = [i for i in indices if recording.channels[i].neural]
        if not channels:
            continue
        probes = _read_probes(recording, channels, rate)
        for i, reason in zip(channels, _plain_faults(probes), strict=True):
            if reason:
                bads.setdefault(names[i], reason)
        shares_missing = [np.isnan(probe).mean() for probe in probes]
        missing.append(np.mean(shares_missing))
        centred = [_centred(probe) for probe in probes]
        # medians over the probes: one artefact, or one seizure, must not condemn a channel
        spread[channels] = np.median([_detrended_std(probe) for probe in centred], 0)
        for line, shares_of_channels in hum_shares.items():
            shares, peaks = zip(*(_line_share(probe, rate, line) for probe in centred), strict=True)
            shares_of_channels[channels] = np.median(shares, 0)
            greatest_peaks[line] = max(greatest_peaks[line], float(np.median(peaks)))
    good = [i for i in neural if names[i] not in bads and spread[i] > 0]
    level = float("nan")
    if good:
        level = float(np.median(spread[good]))
    for i, reason in _unusual_amplitudes(spread, good).items():
        bads[names[i]] = reason
    line = max(greatest_peaks, key=lambda frequency: greatest_peaks[frequency])
    if greatest_peaks[line] > 3:  # times as high as its neighbours in the spectrum
        usual = float(np.nanmedian(hum_shares[line][neural]))
        for i in neural:
            share = hum_shares[line][i]
            if share > max(HUM, 3 * usual):
                bads.setdefault(names[i], f"mains hum is {share:.0%} of its power")
    else:
        line = 0.0
    return Quality(bads, level, line, _unit_scale(level), float(np.mean(missing)))


def _centred(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "channels samples"]:
    """Each channel less its mean, and 0 where it is NaN; a channel of NaN only is 0 throughout."""
    all_missing = np.isnan(x).all(1, keepdims=True)
    means = np.nanmean(np.where(all_missing, 0, x), 1, keepdims=True)  # numpy warns about columns of NaN only
    return np.nan_to_num(x - means)


def _unusual_amplitudes(spread: NDArray[np.float64], good: Sequence[int]) -> dict[int, str]:
    """Channels much louder or quieter than the others, with the reason; needs at least four channels.

    The measure is the robust z of the logarithm, since amplitudes differ by factors. The median deviation counts as at least 0.15, so that among
    channels that are almost equal a small difference does not look large.
    """
    if len(good) < 4:
        return {}
    logs = np.log(spread[good])
    middle = np.median(logs)
    scale = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.15)
    reasons = {}
    for i, z in zip(good, (logs - middle) / scale, strict=True):
        if abs(z) > LOUD:
            times = np.exp(abs(np.log(spread[i]) - middle))
            comparison = "quieter"
            if z > 0:
                comparison = "louder"
            reasons[i] = f"{times:.0f}× {comparison} than the others"
    return reasons


def _read_probes(
    recording: Recording, channels: Sequence[int], rate: float
) -> list[Float[np.ndarray, "channels samples"]]:
    """Intervals of `PROBE_SECONDS` that touch no gap; if all do, the recording's first one."""
    total, length = recording.samples(rate), round(PROBE_SECONDS * rate)
    probes = []
    for begin in probe_times(recording.duration):
        end = begin + PROBE_SECONDS
        if not any(gap_begin < end and begin < gap_end for gap_begin, gap_end in recording.gaps):
            probes.append(recording.read(channels, round(begin * rate), min(round(end * rate), total)))
    return probes or [recording.read(channels, 0, min(length, total))]


def _plain_faults(probes: Sequence[Float[np.ndarray, "channels samples"]]) -> list[str]:
    """For each channel: missing, flat in most probes, held at its extremes, or ""."""
    reasons = []
    stacked = np.concatenate(probes, 1)
    with np.errstate(invalid="ignore"):
        flat_probes = [np.nan_to_num(probe.max(1) - probe.min(1), nan=1.0) <= 0 for probe in probes]
    for x, flat_share in zip(stacked, np.mean(flat_probes, 0), strict=True):
        valid = x[np.isfinite(x)]
        held = _held_share(valid)
        if len(valid) < (1 - MISSING) * len(x):
            reasons.append(f"{1 - len(valid) / len(x):.0%} of its samples are missing (NaN)")
        elif flat_share > 0.5:
            reasons.append("flat")
        elif held > CLIPPED:
            reasons.append(f"saturated in {held:.0%} of its samples")
        else:
            reasons.append("")
    return reasons


def _held_share(x: Float[np.ndarray, " samples"]) -> float:
    """The share of samples that stay at the signal's extremes: a clipping amplifier holds them, a real peak does not."""
    if len(x) < 2:
        return 0.0
    at_limit = (x == x.max()) | (x == x.min())
    held = at_limit[1:] & at_limit[:-1] & (x[1:] == x[:-1])
    return float(held.mean())


def _detrended_std(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, " channels"]:
    """Standard deviation without slow drift, which electrodes have and which is no signal."""
    from scipy.signal import detrend

    if x.shape[1] <= 2:  # two points are a line
        return x.std(1)
    return detrend(x, axis=1).std(1)


def _line_share(
    x: Float[np.ndarray, "channels samples"], rate: float, line: float
) -> tuple[NDArray[np.float64], float]:
    """The share of the power above 1 Hz at the mains frequency, per channel, and its height relative to neighbouring frequencies."""
    from scipy.signal import periodogram

    if rate < 2.5 * line or x.shape[1] < rate:  # not in the spectrum, or too short to resolve 1 Hz
        return np.zeros(len(x)), 0.0
    frequencies, power = periodogram(x, rate, window="hann")
    distance = np.abs(frequencies - line)
    at_line = distance <= 1
    beside = (distance > 2) & (distance < 7)
    total = power[:, frequencies > 1].sum(1)
    share = power[:, at_line].sum(1) / np.where(total > 0, total, 1)
    neighbours = power[:, beside].mean(1)
    peak = float(np.median(power[:, at_line].mean(1) / np.where(neighbours > 0, neighbours, 1)))
    return share, peak


def _unit_scale(level: float) -> float:
    """Intracranial signals have 5 to 500 µV. A million times less means volts that are labelled microvolts."""
    return 1e6 if 0 < level < 2e-3 else 1.0
