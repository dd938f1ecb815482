"""Rows of `benchmarks/ieeg.py` about MVPFormer: against braindecode's with the same weights, a large grid, a day of recording."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import paired, peak_memory, ratio, size
from torch import nn

from ieeg.mvpformer import MVPFormer, MVPFormerConfig

HERE = Path(__file__).parent
SMALL = {
    "width": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "inner": 128,
}  # the small configuration of the 110 × 128 grid


def ours(time: int, channels: int, *, layers: int = 12) -> tuple[nn.Module, torch.Tensor]:
    """MVPFormer-S with a seizure head, and one window as braindecode takes it, (1, channels, samples)."""
    from ieeg.braindecode_adapter import BraindecodeMVPFormer

    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(classes=2, layers=layers)).eval()
    x = 50 * torch.randn(1, channels, time * 2560)
    return BraindecodeMVPFormer(channels, 2, time * 2560, 512, network=network).eval(), x


def theirs(time: int, channels: int, *, layers: int = 12) -> tuple[nn.Module, torch.Tensor]:
    """braindecode's MVPFormer with the weights of ours."""
    from ieeg.conversion import to_layout

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from braindecode.models import MVPFormer as Theirs  # pyright: ignore[reportMissingImports]
    mine, x = ours(time, channels, layers=layers)
    sizes: dict[str, Any] = {"d_model": 768, "n_layers": layers, "n_heads": 12, "n_head_kv": 4, "d_inner": 1728}
    made = Theirs(n_outputs=2, n_chans=channels, n_times=time * 2560, sfreq=512, **sizes).eval()
    made.load_state_dict(to_layout(mine.network.state_dict(), "braindecode"), strict=False)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return made, x


def run(made: tuple[nn.Module, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return made[0](made[1])


def against_braindecode(
    threads: int, rounds: int, time: int, channels: int, layers: int, memory: bool
) -> dict[str, str]:
    """One row: equal outputs, time and memory of one forward."""
    torch.set_num_threads(threads)
    mine, other = ours(time, channels, layers=layers), theirs(time, channels, layers=layers)
    difference = (run(mine) - run(other)).abs().max().item()
    assert difference < 1e-3, difference
    times = paired({"ours": lambda: run(mine), "braindecode": lambda: run(other)}, rounds=rounds)
    row = {
        "grid": f"{time} × {channels}",
        "layers": str(layers),
        "threads": str(threads),
        "ours": f"{times['ours'].median:.2f} s",
        "braindecode / ours": ratio(times["braindecode"], times["ours"]),
        "largest difference": f"{difference:.1e}",
    }
    if memory:
        peaks = [
            peak_memory(
                f"import sys; sys.path.append({str(HERE)!r})\nfrom ieeg_model import {who}, run\n"
                f"run({who}(2, 2, layers={layers})); made = {who}({time}, {channels}, layers={layers})",
                "run(made)",
                threads=threads,
            )
            for who in ("ours", "theirs")
        ]
        row |= {"memory": size(peaks[0]), "braindecode's": size(peaks[1]), "share": f"{peaks[0] / peaks[1]:.2f}×"}
    return row


def forward_25x32(threads: int, rounds: int) -> list[dict[str, str]]:
    """MVPFormer-S, forward, 25 segments of 32 channels."""
    return [against_braindecode(threads, rounds, 25, 32, 12, True)]


def forward_60x64(threads: int, rounds: int) -> list[dict[str, str]]:
    """One layer of MVPFormer-S between encoder and head, forward, 60 segments of 64 channels."""
    return [against_braindecode(threads, min(rounds, 3), 60, 64, 1, True)]


def large_grid(threads: int, rounds: int) -> list[dict[str, str]]:
    """110 segments of 128 channels, forward and backward, small configuration; braindecode's under a limit of 10 GiB."""
    setup = (
        "from ieeg.mvpformer import MVPFormer, MVPFormerConfig\n"
        f"model = MVPFormer(MVPFormerConfig(classes=0, **{SMALL}))\n"
        "def both(t, c):\n    model.decoder(torch.randn(1, t, c, 64)).sum().backward()\n"
        "both(3, 2)"
    )
    began = time.perf_counter()
    peak = peak_memory(setup, "both(110, 128)", threads=threads)
    took = time.perf_counter() - began
    sizes = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_head_kv": 2, "d_inner": 128}
    code = (
        "import warnings; warnings.simplefilter('ignore')\nimport torch\n"
        "from braindecode.models import MVPFormer\n"
        f"m = MVPFormer(n_outputs=2, n_chans=128, n_times=110 * 256, sfreq=128, segment_len=256, **{sizes})\n"
        "m(torch.randn(1, 128, 110 * 256)).sum().backward()"
    )
    limit = 10 * 2**30
    end = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    said = "runs" if end.returncode == 0 else (end.stderr.strip().splitlines() or ["killed"])[-1][:90]
    return [
        {
            "grid": "110 × 128, both passes",
            "ours": size(peak),
            "seconds (whole process)": f"{took:.0f}",
            "braindecode in 10 GiB": said,
        }
    ]


def write_day(path: Path, hours: float, channels: int = 64, rate: int = 256) -> None:
    """An EDF of 1/f noise: ten minutes of it, over and over, shifted from channel to channel."""
    samples = 600 * rate
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal((channels, samples)))
    spectrum /= np.sqrt(np.maximum(np.arange(samples // 2 + 1), 1))
    noise = np.fft.irfft(spectrum, samples)
    digital = (noise / noise.std() * 50 * 10).astype("<i2")  # 50 µV; a step is 0.1 µV
    fields = [
        [f"A{i + 1}" for i in range(channels)], [""] * channels, ["uV"] * channels, ["-3276.8"] * channels, ["3276.7"] * channels,
        ["-32768"] * channels, ["32767"] * channels, [""] * channels, [str(rate)] * channels, [""] * channels,
    ]  # fmt: skip
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    head = f"{'0':<8}{'X':<80}{'X':<80}{'01.01.20':<8}{'00.00.00':<8}{256 * (channels + 1):<8}{'':<44}{round(hours * 3600):<8}{1:<8}{channels:<4}"
    header = head + "".join(f"{v:<{w}}" for column, w in zip(fields, widths, strict=True) for v in column)
    block = digital.reshape(channels, 600, rate).transpose(1, 0, 2).tobytes()
    with path.open("wb") as file:
        file.write(header.encode("ascii"))
        for _ in range(round(hours * 6)):
            file.write(block)


def day(threads: int, rounds: int, hours: float = 24.0) -> list[dict[str, str]]:
    """A simulated day of 64 channels at 256 Hz through reading, filtering and the tiny model: speed against real time, peak memory."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        path = Path(folder) / "day.edf"
        write_day(path, hours)
        setup = (
            "import time\nfrom pathlib import Path\nfrom ieeg.mvpformer import build\nfrom ieeg.predict import probabilities\n"
            "from ieeg.preparing import Prepared, Settings\nfrom ieeg.recordings import open_recording\n"
            "model = build('tiny', classes=2).eval()"
        )
        work = (
            f"began = time.perf_counter()\nsignals = Prepared(open_recording(Path({str(path)!r})), Settings(rate=128.0, segment=2.0))\n"
            "count = sum(1 for _ in probabilities(model, signals, window=12))\n"
            f"assert count == round({hours} * 1800), count\n"
            f"Path({str(path)!r} + '.seconds').write_text(str(time.perf_counter() - began))"
        )
        peak = peak_memory(setup, work, threads=threads, timeout=3600)
        seconds = float(Path(str(path) + ".seconds").read_text())
    return [
        {
            "recording": f"{hours:g} h × 64 channels × 256 Hz",
            "threads": str(threads),
            "seconds": f"{seconds:.0f}",
            "real time": f"{hours * 3600 / seconds:.0f}×",
            "memory": size(peak),
        }
    ]


def hour(threads: int, rounds: int) -> list[dict[str, str]]:
    """As `day`, one hour."""
    return day(threads, rounds, 1.0)


ROWS = {
    "forward-25x32": (forward_25x32, "≥ 1.5× faster than braindecode on two threads"),
    "forward-60x64": (forward_60x64, "≥ 4× faster at ≤ ¼ of braindecode's memory"),
    "grid-110x128": (large_grid, "≤ 4 GB, where braindecode's cannot run"),
    "hour": (hour, "≥ 200× real time, ≤ 2 GB, on two cores"),
    "day": (day, "≥ 200× real time, ≤ 2 GB, on two cores"),
}
