"""Preparing: equal to scipy's zero-phase filters away from the ends, no seams at block borders, mixed rates, references, bad channels, units."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from core_runtime.errors import UserError
from ieeg.recordings.prepared import Prepared, transform_lengths
from ieeg.recordings.quality import examine
from ieeg.recordings.recording import Channel, Recording
from ieeg.recordings.settings import Settings

PLAIN = Settings(reference="none", notch=0, channels=0, keep_bads=True)


class Memory(Recording):
    """A recording in memory."""

    def __init__(self, tmp_path, signals: dict, gaps=(), groups=None):
        super().__init__(tmp_path / "memory.edf")
        self.values = [np.asarray(v, np.float32) for v, _ in signals.values()]
        self.channels = [Channel(n, "seeg", float(r), group=(groups or {}).get(n, "")) for n, (_, r) in signals.items()]
        self.duration = max(len(v) / r for v, r in signals.values())
        self.gaps = list(gaps)

    def _read(self, channels, begin, end):
        return np.stack([self.values[i][begin:end] for i in channels])


@pytest.fixture
def memory(tmp_path):
    return lambda signals, **more: Memory(tmp_path, signals, **more)


def brown(seconds, rate, seed=0, scale=20.0):
    """Drifting noise with an offset, as amplifiers give it."""
    rng = np.random.default_rng(seed)
    return scale * np.cumsum(rng.normal(size=round(seconds * rate))) / np.sqrt(rate) + 300


def test_equals_a_zero_phase_butterworth(memory):
    x = brown(300, 512)
    ours = Prepared(memory({"A1": (x, 512)}), PLAIN).read(0, 300 * 512)[0]
    sections = signal.butter(4, [0.5, 150], "bandpass", fs=512, output="sos")
    theirs = signal.sosfiltfilt(sections, x)
    inner = slice(20 * 512, -20 * 512)
    assert np.abs(ours[inner] - theirs[inner]).max() < 1e-3 * theirs.std()


def test_the_mains_frequency_of_a_sidecar_comes_before_that_of_the_spectrum(memory):
    hum = 200 * np.sin(2 * np.pi * 50 * np.arange(60 * 512) / 512)
    recording = memory({"A1": (brown(60, 512) + hum, 512)})
    measured = replace(PLAIN, notch=None)
    assert Prepared(recording, measured).notch == 50
    recording.power_line = 60.0
    assert Prepared(recording, measured).notch == 60


@pytest.mark.parametrize("rate", [256, 999.41, 1000, 2048])
def test_blocks_join_without_seams(memory, rate):
    prepared = Prepared(memory({"A1": (brown(330, rate), rate)}), PLAIN)
    whole = prepared.read(0, prepared.samples)[0]
    for begin, end in (
        (0, 512),
        (99 * 512, 101 * 512),
        (150 * 512 + 7, 250 * 512),
        (prepared.samples - 900, prepared.samples),
    ):
        part = prepared.read(begin, end)[0]
        assert np.abs(part - whole[begin:end]).max() < 1e-3 * whole.std()


@pytest.mark.parametrize("rate", [256, 500, 999.41, 1000, 1024, 2048, 5000])
def test_resampling_keeps_a_sine(memory, rate):
    def wave(times):
        return 100 * np.sin(2 * np.pi * 31 * times)

    prepared = Prepared(memory({"A1": (wave(np.arange(round(150 * rate)) / rate), rate)}), PLAIN)
    ours = prepared.read(0, 140 * 512)[0][10 * 512 : -512 * 10]
    expected = wave(np.arange(140 * 512) / 512)[10 * 512 : -512 * 10]
    assert np.abs(ours - expected).max() < 0.3


def test_linear_resampling_is_the_loaders(memory):
    x = brown(60, 1024)
    settings = Settings(reference="none", notch=0, low=0, high=0, channels=0, keep_bads=True, resampling="linear")
    ours = Prepared(memory({"A1": (x, 1024)}), settings).read(0, 60 * 512)[0]
    np.testing.assert_allclose(ours[512:-512], x[::2][512:-512], atol=1e-2 * x.std())


def test_mixed_rates_stand_side_by_side(memory):
    def tone(rate):
        return 50 * np.sin(2 * np.pi * 9 * np.arange(60 * rate) / rate), rate

    x = Prepared(memory({"A1": tone(256), "A2": tone(1024), "A3": tone(512)}), PLAIN).read(0, 60 * 512)
    assert np.abs(x - x[2])[:, :-1024].max() < 1  # where a recording ends, each rate ends at its own last sample


def test_mains_hum_is_removed(memory):
    t = np.arange(60 * 512) / 512
    hum = sum(30 / harmonic * np.sin(2 * np.pi * 50 * harmonic * t) for harmonic in (1, 2, 3))
    x = hum + 20 * np.sin(2 * np.pi * 10 * t)
    recording = memory({f"A{i}": (x + np.random.default_rng(i).normal(size=len(x)), 512) for i in range(4)})
    assert examine(recording).line == 50
    y = Prepared(recording, Settings(reference="none", keep_bads=True)).read(0, 60 * 512)[:, 5120:-5120]
    f, power = signal.periodogram(y[0], 512)
    for line in (50, 100, 150):
        assert power[np.abs(f - line) < 0.3].max() < 1e-3 * power[np.abs(f - 10) < 0.3].max(), line


def test_segments_are_the_read_signal(memory):
    prepared = Prepared(memory({"A1": (brown(33, 512), 512), "A2": (brown(33, 512, 1), 512)}), PLAIN)
    assert prepared.segment_count == 6
    segments = prepared.segments(1, 4)
    assert segments.shape == (3, 2, 2560)
    np.testing.assert_allclose(segments[2, 1], prepared.read(3 * 2560, 4 * 2560)[1], atol=1e-2)
    blocks = list(prepared.blocks())
    assert [b for b, _ in blocks] == [0]
    with pytest.raises(ValueError, match="outside"):
        prepared.segments(3, 7)


def test_references(memory):
    common = brown(60, 512, 9, 100)
    names = ["A1", "A2", "A4", "A'1", "A'2", "B1"]
    signals = {
        n: (common + np.random.default_rng(i).normal(scale=5, size=len(common)), 512) for i, n in enumerate(names)
    }
    recording = memory(signals)
    bipolar = Prepared(recording, Settings(reference="bipolar", keep_bads=True))
    assert bipolar.names == ["A1-A2", "A'1-A'2"]
    laplacian = Prepared(recording, Settings(reference="laplacian", keep_bads=True))
    assert laplacian.names == ["A1", "A2", "A'1", "A'2"]
    for reference in ("median", "average", "bipolar", "laplacian"):
        x = Prepared(recording, Settings(reference=reference, notch=0, keep_bads=True)).read(0, 60 * 512)
        assert x.std() < 10, reference
    with pytest.raises(UserError, match="neighbouring"):
        Prepared(memory({"LFP left": (common, 512)}), Settings(reference="bipolar"))


def test_one_channel_is_not_referenced_to_itself(memory):
    prepared = Prepared(memory({"A1": (brown(60, 512), 512)}))
    assert prepared.read(0, 5120).std() > 1
    assert any("a single channel" in note for note in prepared.notes)


def test_median_is_numpys(memory):
    from ieeg.recordings.montage import channel_median

    for channels in (1, 2, 5, 8):
        x = np.random.default_rng(0).normal(size=(channels, 9000)).astype(np.float32)
        np.testing.assert_allclose(channel_median(x)[0], np.median(x, 0), rtol=1e-6)


def test_bad_channels_have_reasons(memory):
    rng = np.random.default_rng(0)
    t = np.arange(60 * 512) / 512
    signals = {f"A{i}": (brown(60, 512, i), 512) for i in range(1, 11)}
    signals["B1"] = (np.zeros(len(t)) + 7, 512)
    signals["B2"] = (np.clip(60 * rng.normal(size=len(t)) * np.sin(t), -30, 30), 512)
    signals["B3"] = (brown(60, 512, 20, 9000), 512)
    signals["B4"] = (brown(60, 512, 21) + 300 * np.sin(2 * np.pi * 50 * t), 512)
    missing = brown(60, 512, 22)
    missing[::7] = np.nan
    signals["B5"] = (missing, 512)
    bads = Prepared(memory(signals)).bads
    assert set(bads) == {"B1", "B2", "B3", "B4", "B5"}, bads
    for name, word in (("B1", "flat"), ("B2", "saturated"), ("B3", "louder"), ("B5", "NaN")):
        assert word in bads[name]


def test_all_channels_bad(memory):
    nothing = memory({f"A{i}": (np.full(10 * 512, np.nan if i % 2 else 0.0), 512) for i in range(4)})
    with pytest.raises(UserError, match="no usable channel"):
        Prepared(nothing)
    x = Prepared(nothing, Settings(keep_bads=True)).segments(0, 2)
    assert x.shape == (2, 4, 2560)
    assert not x.any()


def test_volts_under_the_name_of_microvolts(memory):
    x = brown(60, 512)
    volts = Prepared(memory({f"A{i}": (brown(60, 512, i) * 1e-6, 512) for i in range(4)}), PLAIN)
    assert any("volts" in note for note in volts.notes)
    assert 0.2 < volts.read(0, 5120).std() / Prepared(memory({"A1": (x, 512)}), PLAIN).read(0, 5120).std() < 5


def test_gaps_are_silent_and_leave_no_step(memory):
    x = brown(60, 512)
    x[20 * 512 : 30 * 512] = 0  # what a reader gives inside a gap
    y = Prepared(memory({"A1": (x, 512)}, gaps=[(20, 30)]), PLAIN).read(0, 60 * 512)[0]
    assert np.isfinite(y).all()
    assert np.abs(y[22 * 512 : 28 * 512]).max() < 3 * y[: 18 * 512].std()


def test_a_block_is_centred_silent_in_gaps_and_joins_itself(memory):
    x = brown(60, 512) + 1000
    x[20 * 512 : 30 * 512] = 0
    prepared = Prepared(memory({"A1": (x, 512)}, gaps=[(20, 30)]), PLAIN)
    block = prepared._read_padded([0], 512, 0, 60 * 512)[0]
    assert not block[20 * 512 : 30 * 512].any(), "a gap is 0, not minus the mean"
    recorded = np.concatenate([block[5 * 512 : 20 * 512], block[30 * 512 : 55 * 512]])
    assert abs(recorded.mean()) < 100
    assert block[0] == 0, "the transform joins the ends"
    assert abs(block[-1]) < 1e-3
    assert 0 < abs(block[512]) < abs(x[512]), "towards the ends it fades"


def test_more_than_32_channels_are_chosen_by_variance_and_kurtosis(memory):
    rng = np.random.default_rng(0)
    signals = {f"A{i}": (rng.normal(scale=20 + i, size=30 * 512), 512) for i in range(1, 301)}
    spikes = rng.normal(size=30 * 512)
    spikes[::900] = 9000
    signals["A300"] = (spikes, 512)
    prepared = Prepared(memory(signals), Settings(reference="none", notch=0, keep_bads=True))
    assert len(prepared.names) == 32
    assert "A300" not in prepared.names
    assert "A299" in prepared.names
    assert prepared.names == sorted(prepared.names, key=lambda n: int(n[1:]))
    assert prepared.segments(0, 1).shape == (1, 32, 2560)


def test_a_recording_that_grows_keeps_the_channels_that_were_chosen(memory):
    """The model sees the same channels in the middle of a stream, although with more data others would be chosen."""
    rng = np.random.default_rng(0)
    begun = {f"A{n}": (n * rng.normal(size=20 * 64), 64) for n in range(1, 7)}
    chosen = Prepared(memory(begun), replace(PLAIN, channels=2))
    # the channels that were quiet at first are the loudest later
    grown = {}
    for n, (x, rate) in enumerate(begun.values(), 1):
        grown[f"A{n}"] = (np.concatenate([x, (7 - n) ** 4 * rng.normal(size=60 * rate)]), rate)
    assert Prepared(memory(grown), replace(PLAIN, channels=2)).names != chosen.names
    assert chosen.again(memory(grown)).names == chosen.names
    assert chosen.names != ["A1", "A2"]  # the choice is not just the first ones


def test_shorter_than_a_segment_is_said(memory):
    with pytest.raises(UserError, match="shorter than one segment"):
        Prepared(memory({"A1": (brown(3, 512), 512)}))


def test_unknown_exclusions_are_refused(memory):
    with pytest.raises(UserError, match="no channel Z9"):
        Prepared(memory({"A1": (brown(6, 512), 512)}), Settings(exclude=("Z9",)))


def test_transform_lengths_keep_time():
    for rate in (256, 500, 999.41, 1000.0, 1024, 2048, 30000):
        length, count = transform_lengths(rate, 512.0, 128)
        assert length >= 128 * rate
        assert abs(length / rate - count / 512) < 1e-5


@pytest.mark.parametrize(
    ("samples", "rate", "prepared_rate", "expected"),
    [
        (2530, 500, 512.0, 2590),  # 2590.72: what is no whole sample is left out
        (2510, 500, 100.0, 502),  # 5.02 s at 100 Hz are 501.99999999999994 in floating point, and 502 samples
        (8008, 1000, 250.0, 2002),
    ],
)
def test_the_number_of_prepared_samples(memory, samples, rate, prepared_rate, expected):
    prepared = Prepared(memory({"A1": (brown(samples / rate, rate), rate)}), replace(PLAIN, rate=prepared_rate, high=0))
    assert prepared.samples == expected
    assert prepared.read(0, prepared.samples).shape == (1, expected)
