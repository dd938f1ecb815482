"""Rows of benchmarks/gaze.py: an EyeLink ASC file, 1000 Hz, beside MNE's reader."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np

from gaze.scanpaths.asc import read_asc
from gaze.scanpaths.asc_samples import read_samples
from gaze.scanpaths.scanpath import Display, Scanpath
from gaze.scanpaths.writing import write_asc


def recording(path: Path, minutes: int) -> Path:
    """Ten seconds of search and half a second of rest, again and again, on one eye."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(minutes * 60_000 // 10_500 + 1):
        duration = rng.integers(150, 350, 35).astype(float)
        onset = np.concatenate([[0], np.cumsum(duration + 36)[:-1]])
        x, y = rng.uniform(0, 1680, 35).round(1), rng.uniform(0, 1050, 35).round(1)
        trials.append(
            Scanpath(x, y, duration, onset, f"{number}.png", trial=str(number), eye="left", display=Display(1680, 1050))
        )
    write_asc(trials, path)
    return path


def long_recording(path: Path, short: Path, times: int) -> Path:
    """A short recording `times` over: long files need not be computed."""
    content = short.read_bytes()
    with path.open("wb") as file:
        for _ in range(times):
            file.write(content)
    return path


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_of_process(path: Path) -> int:
    """Bytes at the peak of a process that reads the fixations and does nothing else, libraries and all (Linux)."""
    code = (
        "import sys; from pathlib import Path; from gaze.scanpaths.asc import read_asc; read_asc(Path(sys.argv[1]));"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def reading(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Fixations: ours of one hour, MNE's of two minutes, per recorded minute. Samples: both of the same two minutes, equal values."""
    import warnings

    import mne

    def read_with_mne(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mne.io.read_raw_eyelink(path, verbose="error")

    with tempfile.TemporaryDirectory() as folder:
        short = recording(Path(folder) / "short.asc", 2)
        long = long_recording(Path(folder) / "long.asc", short, 30)
        samples = read_samples(short)
        theirs = read_with_mne(short)
        minutes = len(samples) / 60_000
        same = theirs.get_data(picks=["xpos_left"])[0]
        np.testing.assert_allclose(samples.points["left"][:1000, 0], same[:1000], atol=1e-6)
        seconds: dict[str, list[float]] = {"fixations": [], "samples": [], "mne": []}
        for _ in range(max(1, min(rounds, 3))):
            seconds["fixations"].append(cpu_seconds(lambda: read_asc(long)) / (30 * minutes))
            seconds["samples"].append(cpu_seconds(lambda: read_samples(short)) / minutes)
            seconds["mne"].append(cpu_seconds(lambda: read_with_mne(short)) / minutes)
        median = {name: float(np.median(values)) for name, values in seconds.items()}
        peak = peak_of_process(long)
        size = long.stat().st_size
    rows = []
    for name, what in (
        ("fixations", f"fixations of {30 * minutes:.0f} recorded minutes ({measure.size(size)})"),
        ("samples", "samples of the same two minutes"),
    ):
        rows.append(
            {
                "what": what,
                "ours, CPU per recorded minute": f"{median[name] * 1e3:.1f} ms",
                "MNE": f"{median['mne'] * 1e3:.0f} ms",
                "MNE's time over ours": f"{median['mne'] / median[name]:.0f}×",
                "peak of the process": measure.size(peak) if name == "fixations" else "",
            }
        )
    return rows


ROWS = {"reading": (reading, "fixations ≥ 30× in ≤ 150 MiB, samples ≥ 3× faster than MNE's reader")}
