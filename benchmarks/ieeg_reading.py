"""Rows of benchmarks/ieeg.py: random windows for training, and reading with filtering, beside MNE."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
import numpy as np

from ieeg.montage import Reference
from ieeg.preparing import Prepared, Settings
from ieeg.recordings import open_recording


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
    """200 random windows of 2 s, 128 channels at 512 Hz."""
    with folder() as place:
        return _windows(write(place / "windows.edf", 128, 512, 600), rounds)


def _windows(path: Path, rounds: int) -> list[dict[str, Any]]:
    import mne

    ours, theirs = open_recording(path), mne.io.read_raw_edf(path, preload=False, verbose="error")
    begins = np.random.default_rng(1).integers(0, 597 * 512, 200)
    every = list(range(128))
    for begin in begins[:5]:
        a = ours.read(every, begin, begin + 1024)
        b = np.asarray(theirs.get_data(start=begin, stop=begin + 1024)) * 1e6
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    times = measure.paired(
        {
            "ours": lambda: [ours.read(every, b, b + 1024) for b in begins],
            "mne": lambda: [theirs.get_data(start=b, stop=b + 1024, verbose="error") for b in begins],
        },
        rounds=rounds,
    )
    return [
        {
            "what": "random 2 s windows, 128 channels at 512 Hz, equal values",
            "ours": f"{times['ours'].median * 5:.2f} ms a window",
            "MNE": f"{times['mne'].median * 5:.2f} ms a window",
            "MNE's time over ours": measure.ratio(times["mne"], times["ours"]),
        }
    ]


def filtering(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Ten minutes of 64 channels at 1000 Hz to band-passed, notched 512 Hz. MNE: preload, IIR of the same order forth and back, notch, resample."""
    with folder() as place:
        return _filtering(write(place / "filtering.edf", 64, 1000, 600), min(rounds, 5))


def _filtering(path: Path, rounds: int) -> list[dict[str, Any]]:
    import mne

    settings = Settings(reference=Reference.none, notch=50, max_channels=0, drop_bads=False)
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
from ieeg.preparing import Prepared, Settings
from ieeg.recordings import open_recording
p = Prepared(open_recording(Path({str(path)!r})), Settings(reference="none", notch=50, max_channels=0, drop_bads=False))
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


def day(threads: int, rounds: int, hours: int = 24) -> list[dict[str, Any]]:
    """A day of 64 channels at 512 Hz (5.7 GB) through the tiny model, with the default choice of 32 channels: time, and peak memory of a process."""
    with folder() as place:
        piece = write(place / "piece.edf", 64, 512, 600).read_bytes()
        header = int(piece[184:192])  # EDF: bytes of the header; at 236 the number of data records
        records = int(piece[236:244]) * hours * 6
        path = place / "day.edf"
        with path.open("wb") as file:
            file.write(piece[:236] + f"{records:<8}".encode() + piece[244:header])
            for _ in range(hours * 6):
                file.write(piece[header:])
        setup = f"""
import time, torch
from pathlib import Path
from ieeg.mvpformer import SIZES, MVPFormer, MVPFormerConfig
from ieeg.predict import probabilities
from ieeg.preparing import Prepared, Settings
from ieeg.recordings import open_recording
torch.set_num_threads({threads})
torch.manual_seed(0)
network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
settings = Settings(rate=128, segment=2, notch=50, drop_bads=False)
"""
        log = place / "seconds"
        work = f"""
began = time.perf_counter()
prepared = Prepared(open_recording(Path({str(path)!r})), settings)
assert sum(0 <= said.probability <= 1 for said in probabilities(network, prepared, window=12)) == {hours * 1800}
Path({str(log)!r}).write_text(str(time.perf_counter() - began))
"""
        peak = measure.peak_memory(setup, work, threads=threads, timeout=3600)
        seconds = float(log.read_text())
    return [
        {
            "what": f"{hours} hours, 64 channels at 512 Hz (32 chosen), tiny model",
            "seconds": f"{seconds:.0f}",
            "times real time": f"{hours * 3600 / seconds:.0f}×",
            "peak memory": measure.size(peak),
        }
    ]


ROWS = {
    "read-day": (day, "24 hours of 64 channels: ≤ 2 GB, ≥ 200 times real time"),
    "read-windows": (windows, "random 2 s windows of 128 channels, 4× faster than MNE's lazy read at equal values"),
    "read-filter": (filtering, "reading and filtering beside MNE's preload and filter"),
}
