"""Rows of benchmarks/ieeg.py: random windows for training, and reading with filtering, beside MNE."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
import numpy as np

from ieeg.recordings.opening import open_recording
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.settings import Settings


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def write(path: Path, channels: int, rate: int, seconds: int) -> Path:
    """An EDF of drifting noise."""
    import edfio

    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(channels, seconds * rate)), 1, dtype=np.float32)
    x = 40 * (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) + rng.normal(scale=5, size=x.shape)
    signals = [
        edfio.EdfSignal(v, rate, label=f"A{i + 1}", physical_dimension="uV", physical_range=(-400, 400))
        for i, v in enumerate(np.clip(x, -399, 399))
    ]
    edfio.Edf(signals).write(path)
    return path


def windows(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Random windows of 2 s, 128 channels at 512 Hz: one after the other, each dropped before the next; and batches of 32, stacked as float32."""
    with folder() as place:
        return _windows(write(place / "windows.edf", 128, 512, 600), rounds)


def _windows(path: Path, rounds: int) -> list[dict[str, Any]]:
    import mne

    ours, theirs = open_recording(path), mne.io.read_raw_edf(path, preload=False, verbose="error")
    begins = np.random.default_rng(1).integers(0, 597 * 512, 192).tolist()
    every = list(range(128))

    def read(begin: int) -> Any:
        return ours.read(every, begin, begin + 1024)

    def read_mne(begin: int) -> Any:
        return theirs.get_data(start=begin, stop=begin + 1024, verbose="error")

    for begin in begins[:5]:
        np.testing.assert_allclose(read(begin), read_mne(begin) * 1e6, rtol=1e-5, atol=1e-3)

    def one_by_one(take: Any) -> Any:
        return lambda: [take(b)[0, 0] for b in begins]

    def stacked(take: Any) -> Any:
        batches = [begins[i : i + 32] for i in range(0, len(begins), 32)]
        return lambda: [
            np.stack([take(b) for b in batch], dtype=np.float32, casting="same_kind")[0, 0, 0] for batch in batches
        ]

    rows = []
    for name, loop in (("one after the other", one_by_one), ("stacked in batches of 32", stacked)):
        times = measure.paired({"ours": loop(read), "mne": loop(read_mne)}, rounds=rounds)
        rows.append(
            {
                "what": f"random 2 s windows, 128 channels at 512 Hz, equal values, {name}",
                "ours": f"{times['ours'].median / len(begins) * 1e3:.2f} ms a window",
                "MNE": f"{times['mne'].median / len(begins) * 1e3:.2f} ms a window",
                "MNE's time over ours": measure.ratio(times["mne"], times["ours"]),
            }
        )
    return rows


def filtering(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Ten minutes of 64 channels at 1000 Hz to band-passed, notched 512 Hz. MNE: preload, IIR of the same order forth and back, notch, resample."""
    with folder() as place:
        return _filtering(write(place / "filtering.edf", 64, 1000, 600), min(rounds, 5))


def _filtering(path: Path, rounds: int) -> list[dict[str, Any]]:
    import mne

    settings = Settings(reference="none", notch=50, channels=0, keep_bads=True)
    recording = open_recording(path)
    prepared = Prepared(recording, settings)

    def ours() -> None:
        for _ in prepared.blocks():
            pass

    def theirs() -> None:
        raw = mne.io.read_raw(path, preload=True, verbose="error")
        raw.filter(0.5, 150, method="iir", iir_params={"order": 4, "ftype": "butter"}, verbose="error")
        raw.notch_filter(np.arange(50, 300, 50), verbose="error")
        raw.resample(512, verbose="error")

    times = measure.paired({"ours": ours, "mne": theirs}, rounds=rounds, warm=1)
    opened = f"""
from pathlib import Path
import scipy.fft, scipy.signal
from ieeg.recordings.opening import open_recording
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.settings import Settings
p = Prepared(open_recording(Path({str(path)!r})), Settings(reference="none", notch=50, channels=0, keep_bads=True))
"""
    loaded = f"""
raw = mne.io.read_raw({str(path)!r}, preload=True, verbose="error")
raw.filter(0.5, 150, method="iir", iir_params=dict(order=4, ftype="butter"), verbose="error")
"""
    peak = {
        "ours": measure.peak_memory(opened, "for _ in p.blocks(): pass"),
        "mne": measure.peak_memory("import mne, scipy.signal", loaded),
    }
    signal = 600 * 64
    return [
        {
            "what": "reading and filtering, 64 channels at 1000 Hz, ten minutes",
            "ours": f"{signal / times['ours'].median:.0f} channel-seconds a second, {measure.size(peak['ours'])}",
            "MNE": f"{signal / times['mne'].median:.0f}, {measure.size(peak['mne'])} (filter alone)",
            "MNE's time over ours": measure.ratio(times["mne"], times["ours"]),
        }
    ]


def day(threads: int, rounds: int, hours: int = 24, channels: int = 32) -> list[dict[str, Any]]:
    """The verb `detect` on hours of 64 channels at 512 Hz (a day: 5.7 GB) with the tiny model: time, and peak memory of a fresh process.

    Everything is in it: looking for bad channels, choosing channels, filtering, the model, events, all files but the report's pictures.
    """
    with folder() as place:
        path = place / "day.edf"
        _repeated(write(place / "piece.edf", 64, 512, 600), path, hours * 6)
        setup = f"""
import time, torch
from pathlib import Path
from ieeg.commands.detect import OutputOptions, write_detection
from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig
from ieeg.model.folder import LoadedModel
from ieeg.recordings.settings import Cleaning, Montage
from ieeg.results.detection import detect_recording
torch.set_num_threads({threads})
torch.manual_seed(0)
network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
model = LoadedModel(network, rate=128, window=12, threshold=0.9)
montage, cleaning = Montage(channels={channels}), Cleaning(notch=50, keep_bads=True)
place = Path({str(place)!r})
"""
        work = f"""
began = time.perf_counter()
made = detect_recording(model, Path({str(path)!r}), montage=montage, cleaning=cleaning, with_attention=False)
write_detection(made, place, OutputOptions(report=False))
(place / "seconds").write_text(str(time.perf_counter() - began))
assert len(made.probability) == {hours * 1800} and len(made.prepared.names) == {channels or 64}
"""
        peak = measure.peak_memory(setup, work, threads=threads, timeout=3600)
        seconds = float((place / "seconds").read_text())
    chosen = f"{channels} chosen" if channels else "all kept"
    return [
        {
            "what": f"{hours} hours, 64 channels at 512 Hz ({chosen}), tiny model",
            "seconds": f"{seconds:.0f}",
            "times real time": f"{hours * 3600 / seconds:.0f}×",
            "peak memory": measure.size(peak),
        }
    ]


def _repeated(piece: Path, path: Path, times: int) -> None:
    """An EDF whose records are those of another, again and again."""
    content = piece.read_bytes()
    header, records = int(content[184:192]), int(content[236:244])  # bytes of the header; number of data records
    with path.open("wb") as file:
        file.write(content[:236] + f"{records * times:<8}".encode() + content[244:header])
        for _ in range(times):
            file.write(content[header:])


def every_channel(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Four hours with all 64 channels kept."""
    return day(threads, rounds, 4, 0)


ROWS = {
    "read-day": (day, "24 hours of 64 channels: ≤ 2 GB, ≥ 200 times real time"),
    "read-every-channel": (every_channel, "the same with all 64 channels kept"),
    "read-windows": (windows, "random 2 s windows of 128 channels, 4× faster than MNE's lazy read at equal values"),
    "read-filter": (filtering, "reading and filtering beside MNE's preload and filter"),
}
