"""A recording as a model wants it: neural channels without the bad ones, filtered, at 512 Hz, referenced, in segments of 5 s, block by block.

Filtering and resampling are one step in the frequency domain. A block is read with margins that outlast every filter's response, multiplied by the
zero-phase response (the squared magnitude of a 4th-order Butterworth band-pass and of the notches), and its spectrum is cut or extended to the new
rate; the margins are thrown away. So blocks join without seams and memory does not depend on the recording's length.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from core_runtime.errors import UserError
from ieeg.recordings.montage import Derivation, choose_channels, derivations, is_scalp, rereference
from ieeg.recordings.quality import Quality, examine, probe_times
from ieeg.recordings.recording import Channel, Recording, some_of
from ieeg.recordings.settings import Settings

BLOCK_SECONDS, MARGIN_SECONDS = 100, 14  # 128 s are read at once: a fast length of the transform at every usual rate
NOTCH_QUALITY = 30.0


class Prepared:
    """A recording under `Settings`, read where it is needed.

    Attributes:
        names: of the prepared channels, in montage order.
        channels: the recording's channels that go in, before referencing.
        bads: name → reason, of neural channels; left out unless the settings keep them.
        notes: what was done that the user should know, in plain words.
        notch: mains frequency that is removed, Hz, or 0.

    Raises:
        UserError: no usable neural channel, or the recording is shorter than one segment.
    """

    def __init__(self, recording: Recording, settings: Settings | None = None, quality: Quality | None = None) -> None:
        self.recording, self.settings = recording, settings or Settings()
        self.quality = quality or examine(recording)
        self.notes: list[str] = []
        self.bads = dict(self.quality.bads)
        self.scale = self.quality.scale
        s = self.settings
        if recording.duration + 1e-6 < s.segment:
            raise UserError(
                f"{recording.path.name} is shorter than one segment: {recording.duration:.1f} s of {s.segment:g} s",
                "segments are what the model sees; give a longer recording",
            )
        unknown = set(s.exclude) - set(recording.names)
        if unknown:
            raise UserError(
                f"{recording.path.name} has no channel {', '.join(sorted(unknown))}",
                "'ieeg inspect' lists the channels",
            )
        self._inputs = [
            i
            for i, c in enumerate(recording.channels)
            if c.neural and c.name not in s.exclude and (s.keep_bads or c.name not in self.bads)
        ]
        if not self._inputs:
            neural = sum(c.neural for c in recording.channels)
            raise UserError(
                f"{recording.path.name} has no usable channel: {neural} of {len(recording.channels)} are neural, all of them bad",
                "'ieeg inspect' gives each one's reason; --keep-bads uses them all the same",
            )
        if len(self._inputs) == 1 and s.reference in ("median", "average"):
            self.notes.append(f"one channel alone: no {s.reference} reference")
        if self.scale != 1:
            self.notes.append(
                f"amplitudes of {self.quality.microvolts:.1e} µV are impossible: the file's numbers are taken as volts"
            )
        self.notch = self._mains() if s.notch is None else s.notch
        groups = [self.channels[i].group for i in range(len(self._inputs))]
        self._derived = derivations([c.name for c in self.channels], s.reference, groups)
        if not self._derived:
            why, hint = "no two neighbouring contacts", "channel names must be shaft and number (A1, A2)"
            if is_scalp([c.name for c in self.channels]):
                why, hint = (
                    "these are scalp electrodes, which have no shafts",
                    "neighbours by number lie on opposite sides",
                )
            raise UserError(
                f"{recording.path.name}: {why}, for a {s.reference} reference",
                f"{hint}; --reference median or average works with any names",
            )
        self._note_missing_band()
        self._kept = np.arange(len(self._derived))
        if s.channels and len(self._derived) > s.channels:
            self._choose(s.channels)

    def again(self, recording: Recording) -> "Prepared":
        """The same preparation of a recording that has grown: channels, filters and references stay as they were chosen."""
        grown = Prepared(recording, replace(self.settings, notch=self.notch, channels=0), self.quality)
        grown._kept = self._kept
        return grown

    @property
    def channels(self) -> list[Channel]:
        return [self.recording.channels[i] for i in self._inputs]

    @property
    def names(self) -> list[str]:
        return [self._derived[i].name for i in self._kept]

    @property
    def derived(self) -> list[Derivation]:
        return [self._derived[i] for i in self._kept]

    @property
    def samples(self) -> int:
        """Samples at the prepared rate."""
        return int(self.recording.duration * self.settings.rate + 1e-6)

    @property
    def segment_count(self) -> int:
        """Whole segments; what is left at the end is not seen."""
        return self.samples // self.settings.segment_samples

    def segments(self, first: int, last: int) -> Float[np.ndarray, "segments channels samples"]:
        """Segments `first` to `last` (excluded), (segments, channels, samples a segment), float32 microvolts.

        Raises:
            ValueError: outside the recording.
        """
        if not 0 <= first <= last <= self.segment_count:
            raise ValueError(f"segments {first} to {last} are outside the {self.segment_count} of the recording")
        length = self.settings.segment_samples
        x = self.read(first * length, last * length)
        return np.ascontiguousarray(x.reshape(len(x), last - first, length).transpose(1, 0, 2))

    def blocks(
        self, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, Float[np.ndarray, "segments channels samples"]]]:
        """All segments in order, a block of about 100 s at a time: (index of the block's first segment, segments)."""
        last = self.segment_count if last is None else last
        step = max(1, int(BLOCK_SECONDS / self.settings.segment))
        for begin in range(first, last, step):
            yield begin, self.segments(begin, min(begin + step, last))

    def read(self, begin: int, end: int) -> Float[np.ndarray, "channels samples"]:
        """Prepared samples `begin` to `end` (excluded) at the prepared rate, (channels, samples), float32 microvolts."""
        if not 0 <= begin <= end <= self.samples:
            raise ValueError(f"samples {begin} to {end} are outside the {self.samples} of the prepared recording")
        out = np.empty((len(self._kept), end - begin), np.float32)
        step = round(BLOCK_SECONDS * self.settings.rate)
        for at in range(begin, end, step):
            until = min(at + step, end)
            out[:, at - begin : until - begin] = self._block(at, until)[self._kept]
        return out

    def _block(self, begin: int, end: int) -> Float[np.ndarray, "derived samples"]:
        x = np.empty((len(self._inputs), end - begin), np.float32)
        position = {index: row for row, index in enumerate(self._inputs)}
        for rate, indices in self.recording.rates.items():
            chosen = [i for i in indices if i in position]
            if chosen:
                x[[position[i] for i in chosen]] = self._filtered(chosen, rate, begin, end)
        return rereference(x, self._derived, self.settings.reference)

    def _filtered(self, chosen: list[int], rate: float, begin: int, end: int) -> Float[np.ndarray, "channels samples"]:
        from scipy import fft

        s = self.settings
        new = rate if s.resampling == "linear" else s.rate
        length, count = transform_lengths(rate, new, (end - begin) / s.rate + 2 * MARGIN_SECONDS)
        start = begin / s.rate - MARGIN_SECONDS
        first = int(np.floor(start * rate))
        shift = start - first / rate  # seconds from the first sample that is read to the first that is wanted
        x = self._read_padded(chosen, rate, first, first + length)
        spectrum = np.asarray(fft.rfft(x, axis=1, overwrite_x=True))
        bins = min(length, count) // 2 + 1
        gain = response(rate, new, length, s.low, s.high, self.notch)[:bins] * np.float32(self.scale)
        if bins * 2 > min(length, count):
            gain = gain.copy()
            gain[-1] = 0  # the highest bin has no phase of its own
        spectrum = spectrum[:, :bins]
        if shift > 1e-9:
            gain = (gain * np.exp(2j * np.pi * np.arange(bins) * (rate / length) * shift)).astype(np.complex64)
        spectrum *= gain
        y = np.asarray(fft.irfft(spectrum, count, axis=1, overwrite_x=True))
        y *= np.float32(count / length)
        if s.resampling == "linear":
            times = np.arange(end - begin) / s.rate + MARGIN_SECONDS
            return np.stack([np.interp(times, np.arange(count) / rate, row) for row in y])
        margin = round(MARGIN_SECONDS * s.rate)
        return y[:, margin : margin + end - begin]

    def _read_padded(
        self, chosen: list[int], rate: float, first: int, last: int
    ) -> Float[np.ndarray, "channels samples"]:
        """As the recording has it, centred; gaps and NaN at the centre, and mirrored beyond the ends, as zero-phase filters want it."""
        total = self.recording.samples(rate)
        a, b = max(first, 0), min(last, total)
        x = self.recording.read(chosen, a, b)
        absent = ~np.isfinite(x)
        for gap in self.recording.gaps:
            absent[:, max(0, round(gap[0] * rate) - a) : max(0, round(gap[1] * rate) - a)] = True
        x[absent] = 0
        if self.settings.low:
            x -= x.sum(1, keepdims=True) / np.maximum((~absent).sum(1, keepdims=True), 1).astype(np.float32)
        x[absent] = 0
        if (a, b) != (first, last):
            around = ((0, 0), (a - first, last - b))
            x = np.pad(x, around, "reflect", reflect_type="odd") if b - a > 1 else np.pad(x, around)
        ramp = round(rate * MARGIN_SECONDS / 4)
        taper = np.sin(np.linspace(0, np.pi / 2, ramp, dtype=np.float32)) ** 2
        x[:, :ramp] *= taper  # the transform joins the ends: without a step there
        x[:, -ramp:] *= taper[::-1]
        return x

    def _note_missing_band(self) -> None:
        """Says where channels are sampled too slowly for the band that the model looks at."""
        reach = min(self.settings.high or self.settings.rate / 2, self.settings.rate / 2)
        slow = sorted({c.rate for c in self.channels if c.rate / 2 < 0.9 * reach})
        if slow:
            rates = ", ".join(f"{rate:g}" for rate in slow)
            self.notes.append(
                f"channels sampled at {rates} Hz hold nothing above half of that; the model looks at frequencies up to {reach:g} Hz"
            )

    def _mains(self) -> float:
        if self.recording.power_line:
            return self.recording.power_line
        if not self.quality.line:
            self.notes.append("no mains hum stands out: no notch filter")
        return self.quality.line

    def _choose(self, keep: int) -> None:
        s = self.settings
        width = min(s.segment_samples, self.samples)
        starts = [int(t * s.rate) for t in probe_times(self.recording.duration, 8, s.segment)]
        probes = [self._block(a, a + width) for a in starts if a + width <= self.samples]
        self._kept = choose_channels(probes, keep)
        left = [d.name for i, d in enumerate(self._derived) if i not in set(self._kept.tolist())]
        self.notes.append(
            f"{keep} of {len(self._derived)} channels chosen by var / (1 + kurtosis), as the paper does; left out: {some_of(left, 6)}"
        )

    @cached_property
    def rows(self) -> list[int]:
        """Index into the recording's channels of each prepared channel (of a derivation: its first contact)."""
        return [self._inputs[d.plus] for d in self.derived]


@lru_cache(64)
def transform_lengths(rate: float, new: float, seconds: float) -> tuple[int, int]:
    """Lengths before and after, ``length / rate = count / new`` to a thousandth of a sample, not shorter than `seconds`, fast to transform."""
    from scipy import fft

    shortest = int(np.ceil(seconds * rate))
    lengths = np.arange(shortest, shortest + max(4096, round(rate)))
    counts = lengths * (new / rate)
    off = np.abs(counts - np.round(counts))
    fitting = lengths[off <= max(1e-3, float(off.min()) * 1.001)]
    fast = [n for n in fitting.tolist() if fft.next_fast_len(n, real=True) == n]
    length = int((fast or fitting.tolist())[0])
    return length, round(length * (new / rate))


@lru_cache(64)
def response(rate: float, new: float, length: int, low: float, high: float, notch: float) -> NDArray[np.float32]:
    """The zero-phase response at the bins of a transform of `length` samples at `rate` Hz: squared magnitudes of band-pass and notches.

    Where the rate changes, the last tenth below the lower of the two spectra's ends fades out: a sharp end would ring.
    """
    from scipy import signal

    frequencies = np.arange(length // 2 + 1, dtype=np.float64) * (rate / length)
    gain = np.ones(len(frequencies))
    if rate != new:
        end = min(rate, new) / 2
        gain *= np.sin(np.pi / 2 * np.clip((end - frequencies) / (0.1 * end), 0, 1)) ** 2
    high = min(high, 0.45 * rate)  # rolls off before the end of the spectrum, which would ring
    if low or high:
        edges, kind = ([low, high], "bandpass") if low and high else (low or high, "highpass" if low else "lowpass")
        sections = np.asarray(signal.butter(4, edges, kind, fs=rate, output="sos"), np.float64)
        gain *= np.abs(_sos_response(sections, frequencies, rate)) ** 2
    for harmonic in np.arange(notch, rate / 2, notch) if notch else ():
        if harmonic < (high * 2 or rate):
            b, a = (np.asarray(part, np.float64) for part in signal.iirnotch(harmonic, NOTCH_QUALITY, fs=rate))
            gain *= np.abs(_sos_response(np.concatenate([b, a])[None], frequencies, rate)) ** 2
    return gain.astype(np.float32)


def _sos_response(
    sections: NDArray[np.float64], frequencies: NDArray[np.float64], rate: float
) -> NDArray[np.complex128]:
    z = np.exp(-2j * np.pi * frequencies / rate)
    out = np.ones(len(z), np.complex128)
    for b0, b1, b2, a0, a1, a2 in sections:
        out *= (b0 + b1 * z + b2 * z * z) / (a0 + a1 * z + a2 * z * z)
    return out
