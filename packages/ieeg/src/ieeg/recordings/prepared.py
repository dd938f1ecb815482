"""A recording as models take it: neural channels without the bad ones, filtered, at 512 Hz, referenced, in segments of 5 s, block by block.

Filtering and resampling are one step in the frequency domain. A block is read with margins longer than every filter's response, multiplied by the
zero-phase response (the squared magnitude of a 4th-order Butterworth band-pass and of the notches), and its spectrum is cut or extended to the new
rate; the margins are discarded. So blocks join without seams and memory does not depend on the recording's length.
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

BLOCK_SECONDS, MARGIN_SECONDS = 100, 14  # together 128 s: a fast length for the transform at every usual rate
NOTCH_QUALITY = 30.0


class Prepared:
    """A recording under `Settings`, read on demand.

    Attributes:
        names: names of the prepared channels, in montage order.
        channels: the recording's channels before referencing.
        bads: name → reason, of neural channels; left out unless the settings keep them.
        notes: what the preparation did that the user should know, in plain words.
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
        if recording.duration + 1e-6 < self.settings.segment:  # durations are computed, and may be rounded down
            raise UserError(
                f"{recording.path.name} is shorter than one segment: "
                f"{recording.duration:.1f} s of {self.settings.segment:g} s",
                "the model works on segments; give a longer recording",
            )
        self._inputs = self._usable_channels()
        reference = self.settings.reference
        if len(self._inputs) == 1 and reference in ("median", "average"):
            self.notes.append(f"a single channel: no {reference} reference")
        if self.scale != 1:
            self.notes.append(
                f"amplitudes of {self.quality.microvolts:.1e} µV are impossible: the file's numbers are taken as volts"
            )
        self.notch = self.settings.notch
        if self.notch is None:
            self.notch = self._mains()
        self._derived = self._derivations()
        self._note_missing_band()
        # Rows of the derived channels that the model gets: all of them, or the paper's choice.
        self._rows = np.arange(len(self._derived))
        if self.settings.channels and len(self._derived) > self.settings.channels:
            self._choose_rows(self.settings.channels)

    def _usable_channels(self) -> list[int]:
        """Indices of the recording's channels to use: neural, not excluded, not bad.

        Raises:
            UserError: there is none, or an excluded channel does not exist.
        """
        recording, settings = self.recording, self.settings
        unknown = set(settings.exclude) - set(recording.names)
        if unknown:
            raise UserError(
                f"{recording.path.name} has no channel {', '.join(sorted(unknown))}",
                "'ieeg inspect' lists the channels",
            )
        usable = []
        for i, channel in enumerate(recording.channels):
            bad = channel.name in self.bads and not settings.keep_bads
            if channel.neural and channel.name not in settings.exclude and not bad:
                usable.append(i)
        if not usable:
            neural = sum(channel.neural for channel in recording.channels)
            raise UserError(
                f"{recording.path.name} has no usable channel: {neural} of {len(recording.channels)} are neural, all of them bad",
                "'ieeg inspect' gives the reason for each; --keep-bads uses them anyway",
            )
        return usable

    def _derivations(self) -> list[Derivation]:
        """The channels after referencing.

        Raises:
            UserError: none can be derived, since the names or electrodes have no shafts.
        """
        names = [channel.name for channel in self.channels]
        groups = [channel.group for channel in self.channels]
        derived = derivations(names, self.settings.reference, groups)
        if not derived:
            why, hint = "no two neighbouring contacts", "channel names must be shaft and number (A1, A2)"
            if is_scalp(names):
                why = "these are scalp electrodes, which have no shafts"
                hint = "neighbours by number are on opposite sides"
            raise UserError(
                f"{self.recording.path.name}: {why}, for a {self.settings.reference} reference",
                f"{hint}; --reference median or average works with any names",
            )
        return derived

    def again(self, recording: Recording) -> "Prepared":
        """The same preparation of a recording that has grown: channels, filters and references stay as they were chosen."""
        # With more data another choice would be made, and the model would see its channels exchanged in the middle of a stream.
        grown = Prepared(recording, replace(self.settings, notch=self.notch, channels=0), self.quality)
        grown._rows = self._rows
        return grown

    @property
    def channels(self) -> list[Channel]:
        return [self.recording.channels[i] for i in self._inputs]

    @property
    def names(self) -> list[str]:
        return [self._derived[i].name for i in self._rows]

    @property
    def derived(self) -> list[Derivation]:
        return [self._derived[i] for i in self._rows]

    @property
    def samples(self) -> int:
        """Samples at the prepared rate."""
        return int(self.recording.duration * self.settings.rate + 1e-6)

    @property
    def segment_count(self) -> int:
        """Number of whole segments; a rest at the end is not used."""
        return self.samples // self.settings.segment_samples

    def segments(self, first: int, last: int) -> Float[np.ndarray, "segments channels samples"]:
        """Segments `first` to `last` (excluded), (segments, channels, samples per segment), float32 microvolts.

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
        if last is None:
            last = self.segment_count
        step = max(1, int(BLOCK_SECONDS / self.settings.segment))
        for begin in range(first, last, step):
            yield begin, self.segments(begin, min(begin + step, last))

    def read(self, begin: int, end: int) -> Float[np.ndarray, "channels samples"]:
        """Prepared samples `begin` to `end` (excluded) at the prepared rate, (channels, samples), float32 microvolts."""
        if not 0 <= begin <= end <= self.samples:
            raise ValueError(f"samples {begin} to {end} are outside the {self.samples} of the prepared recording")
        out = np.empty((len(self._rows), end - begin), np.float32)
        step = round(BLOCK_SECONDS * self.settings.rate)
        for at in range(begin, end, step):
            until = min(at + step, end)
            out[:, at - begin : until - begin] = self._block(at, until)[self._rows]
        return out

    def _block(self, begin: int, end: int) -> Float[np.ndarray, "derived samples"]:
        x = np.empty((len(self._inputs), end - begin), np.float32)
        row_of = {index: row for row, index in enumerate(self._inputs)}
        for rate, indices in self.recording.rates.items():
            # channels of several rates meet here, at the prepared rate
            inputs = [i for i in indices if i in row_of]
            if inputs:
                rows = [row_of[i] for i in inputs]
                x[rows] = self._filtered(inputs, rate, begin, end)
        return rereference(x, self._derived, self.settings.reference)

    def _filtered(
        self, channels: list[int], rate: float, begin: int, end: int
    ) -> Float[np.ndarray, "channels samples"]:
        """Channels of one rate between prepared samples `begin` and `end`: filtered, in microvolts, at the prepared rate."""
        from scipy import fft

        settings = self.settings
        new = settings.rate
        if settings.resampling == "linear":  # filtered at the recording's rate, then interpolated
            new = rate
        length, count = transform_lengths(rate, new, (end - begin) / settings.rate + 2 * MARGIN_SECONDS)
        start = begin / settings.rate - MARGIN_SECONDS
        first = int(np.floor(start * rate))
        shift = start - first / rate  # seconds from the first sample read to the start of the block
        x = self._read_padded(channels, rate, first, first + length)
        # From here on the spectrum has only the bins that both lengths have: cutting it is the resampling.
        spectrum = np.asarray(fft.rfft(x, axis=1, overwrite_x=True))
        bins = min(length, count) // 2 + 1
        gain = response(rate, new, length, settings.low, settings.high, self.notch)[:bins] * np.float32(self.scale)
        if bins * 2 > min(length, count):
            gain = gain.copy()  # the response is cached
            gain[-1] = 0  # the highest bin has no phase of its own
        spectrum = spectrum[:, :bins]
        # a block may begin between two samples of the recording: a delay in time is a phase in the spectrum
        if shift > 1e-9:
            gain = (gain * np.exp(2j * np.pi * np.arange(bins) * (rate / length) * shift)).astype(np.complex64)
        spectrum *= gain
        y = np.asarray(fft.irfft(spectrum, count, axis=1, overwrite_x=True))
        y *= np.float32(count / length)  # the inverse transform divides by its own length
        if settings.resampling == "linear":
            times = np.arange(end - begin) / settings.rate + MARGIN_SECONDS
            return np.stack([np.interp(times, np.arange(count) / rate, row) for row in y])
        margin = round(MARGIN_SECONDS * settings.rate)
        return y[:, margin : margin + end - begin]

    def _read_padded(
        self, channels: list[int], rate: float, first: int, last: int
    ) -> Float[np.ndarray, "channels samples"]:
        """The recorded samples, centred; 0 in gaps and for NaN, and mirrored beyond the ends, as zero-phase filters need it."""
        begin, end = max(first, 0), min(last, self.recording.samples(rate))
        x = self.recording.read(channels, begin, end)
        absent = ~np.isfinite(x)
        for gap_begin, gap_end in self.recording.gaps:
            low = max(0, round(gap_begin * rate) - begin)
            high = max(0, round(gap_end * rate) - begin)
            absent[:, low:high] = True
        # Set twice: absent samples add nothing to the mean, and are 0 again after it is subtracted.
        x[absent] = 0
        if self.settings.low:
            x -= x.sum(1, keepdims=True) / np.maximum((~absent).sum(1, keepdims=True), 1).astype(np.float32)
        x[absent] = 0
        if (begin, end) != (first, last):
            around = ((0, 0), (begin - first, last - end))
            if end - begin > 1:
                x = np.pad(x, around, "reflect", reflect_type="odd")  # odd: value and slope go on
            else:
                x = np.pad(x, around)
        ramp = round(rate * MARGIN_SECONDS / 4)
        taper = np.sin(np.linspace(0, np.pi / 2, ramp, dtype=np.float32)) ** 2
        x[:, :ramp] *= taper  # the transform is periodic: without the taper, the ends would meet in a step
        x[:, -ramp:] *= taper[::-1]
        return x

    def _note_missing_band(self) -> None:
        """Notes channels that are sampled too slowly for the frequencies that the model uses."""
        reach = min(self.settings.high or self.settings.rate / 2, self.settings.rate / 2)
        slow = sorted({channel.rate for channel in self.channels if channel.rate / 2 < 0.9 * reach})
        if slow:
            rates = ", ".join(f"{rate:g}" for rate in slow)
            self.notes.append(
                f"channels sampled at {rates} Hz hold nothing above half of that rate; the model uses frequencies up to {reach:g} Hz"
            )

    def _mains(self) -> float:
        """The mains frequency, from a sidecar, else from the spectrum; 0 if there is none."""
        if self.recording.power_line:
            return self.recording.power_line
        if not self.quality.line:
            self.notes.append("no mains hum stands out: no notch filter")
        return self.quality.line

    def _choose_rows(self, keep: int) -> None:
        settings = self.settings
        width = min(settings.segment_samples, self.samples)
        probes = []
        for seconds in probe_times(self.recording.duration, 8, settings.segment):
            begin = int(seconds * settings.rate)
            if begin + width <= self.samples:
                probes.append(self._block(begin, begin + width))
        self._rows = choose_channels(probes, keep)
        rows = set(self._rows.tolist())
        left_out = [derivation.name for i, derivation in enumerate(self._derived) if i not in rows]
        self.notes.append(
            f"{keep} of {len(self._derived)} channels chosen by var / (1 + kurtosis), as the paper does; "
            f"left out: {some_of(left_out, 6)}"
        )

    @cached_property
    def rows(self) -> list[int]:
        """Index into the recording's channels of each prepared channel (of a derivation: its first contact)."""
        return [self._inputs[derivation.plus] for derivation in self.derived]


@lru_cache(64)
def transform_lengths(rate: float, new: float, seconds: float) -> tuple[int, int]:
    """Lengths before and after resampling, ``length / rate = count / new`` to a thousandth of a sample, at least `seconds`, fast to transform."""
    from scipy import fft

    shortest = int(np.ceil(seconds * rate))
    # Rates such as 499.907 Hz have no exact ratio to 512: the best of many lengths is taken, and of those a fast one.
    lengths = np.arange(shortest, shortest + max(4096, round(rate)))
    counts = lengths * (new / rate)
    deviations = np.abs(counts - np.round(counts))
    fitting = lengths[deviations <= max(1e-3, float(deviations.min()) * 1.001)].tolist()
    length = fitting[0]
    for candidate in fitting:
        if fft.next_fast_len(candidate, real=True) == candidate:
            length = candidate
            break
    return length, round(length * (new / rate))


@lru_cache(64)
def response(rate: float, new: float, length: int, low: float, high: float, notch: float) -> NDArray[np.float32]:
    """The zero-phase response at the bins of a transform of `length` samples at `rate` Hz: squared magnitudes of band-pass and notches.

    If the rate changes, the last tenth below the lower of the two Nyquist frequencies fades out: a sharp edge would ring.
    """
    from scipy import signal

    frequencies = np.arange(length // 2 + 1, dtype=np.float64) * (rate / length)
    gain = np.ones(len(frequencies))
    if rate != new:
        end = min(rate, new) / 2
        gain *= np.sin(np.pi / 2 * np.clip((end - frequencies) / (0.1 * end), 0, 1)) ** 2
    high = min(high, 0.45 * rate)  # a filter edge at the end of the spectrum would ring
    if low or high:
        if low and high:
            edges, kind = [low, high], "bandpass"
        elif low:
            edges, kind = low, "highpass"
        else:
            edges, kind = high, "lowpass"
        sections = np.asarray(signal.butter(4, edges, kind, fs=rate, output="sos"), np.float64)
        # squared: forwards and backwards, which leaves no phase
        gain *= np.abs(_sos_response(sections, frequencies, rate)) ** 2
    harmonics = np.arange(notch, rate / 2, notch) if notch else ()
    for harmonic in harmonics:
        if harmonic < (high * 2 or rate):  # an octave above the pass band, little of the hum is left
            numerator, denominator = signal.iirnotch(harmonic, NOTCH_QUALITY, fs=rate)
            section = np.concatenate([numerator, denominator]).astype(np.float64)
            gain *= np.abs(_sos_response(section[None], frequencies, rate)) ** 2
    return gain.astype(np.float32)


def _sos_response(
    sections: NDArray[np.float64], frequencies: NDArray[np.float64], rate: float
) -> NDArray[np.complex128]:
    """H(z) of second-order sections at the given frequencies (scipy's own works on its own grid)."""
    z = np.exp(-2j * np.pi * frequencies / rate)
    out = np.ones(len(z), np.complex128)
    for b0, b1, b2, a0, a1, a2 in sections:
        out *= (b0 + b1 * z + b2 * z * z) / (a0 + a1 * z + a2 * z * z)
    return out
