"""Rows of `benchmarks/ieeg.py` about MVPFormer: against braindecode's with the same weights, and a large grid."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measure import paired, peak_memory, ratio, size
from torch import nn

from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig

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
    from ieeg.model.braindecode import BraindecodeMVPFormer

    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(classes=2, layers=layers)).eval()
    x = 50 * torch.randn(1, channels, time * 2560)
    return BraindecodeMVPFormer(channels, 2, time * 2560, 512, network=network).eval(), x


def theirs(time: int, channels: int, *, layers: int = 12) -> tuple[nn.Module, torch.Tensor]:
    """braindecode's MVPFormer with the weights of ours."""
    from ieeg.model.naming import to_layout

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
        "from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig\n"
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


ROWS = {
    "forward-25x32": (forward_25x32, "≥ 1.5× faster than braindecode on two threads"),
    "forward-60x64": (forward_60x64, "≥ 4× faster at ≤ ¼ of braindecode's memory"),
    "grid-110x128": (large_grid, "≤ 4 GB, where braindecode's cannot run"),
}
