"""One clip through a transformer both ways: from the same noise, with full attention and with VMoBA."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vision_models.video.latents import as_pictures
from vision_models.video.options import VMoBAOptions
from vision_models.video.wan import LayerReport, apply_vmoba, attention_report, remove_vmoba


@dataclass(frozen=True)
class Contrast:
    """Both results.

    Attributes:
        clip, noisy, full, vmoba: latents (1, channels, time, height, width).
        seconds: of both runs, by kind.
        layers: what each layer keeps at the first step.
    """

    clip: Tensor
    noisy: Tensor
    full: Tensor
    vmoba: Tensor
    seconds: dict[str, float]
    layers: list[LayerReport]

    @property
    def error(self) -> float:
        """Relative difference of the two results."""
        return float((self.vmoba - self.full).norm() / self.full.norm().clamp(min=1e-12))


def denoise(transformer: Any, noisy: Tensor, text: Tensor, level: float, steps: int) -> Tensor:
    """Euler steps of the flow from a share of noise down to none."""
    x = noisy
    levels = torch.linspace(level, 0, steps + 1).tolist()
    with torch.inference_mode():
        for before, after in pairwise(levels):
            moment = torch.full((len(x),), before * 1000, device=x.device, dtype=x.dtype)
            flow = transformer(x, moment, text, return_dict=False)[0]
            x = x + (after - before) * flow
    return x


def contrast_clip(
    transformer: Any, clip: Tensor, text: Tensor, options: VMoBAOptions, *, level: float, steps: int, seed: int
) -> Contrast:
    """Adds noise to a clip and takes it away twice."""
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed)).to(clip)
    noisy = (1 - level) * clip + level * noise
    results, seconds = {}, {}
    for kind in ("full", "vmoba"):
        remove_vmoba(transformer)
        if kind == "vmoba":
            apply_vmoba(transformer, options)
        began = time.monotonic()
        results[kind] = denoise(transformer, noisy, text, level, steps)
        seconds[kind] = time.monotonic() - began
    # density of the blocks themselves, also where first steps are dense
    apply_vmoba(transformer, replace(options, dense_steps=0))
    moment = torch.full((len(noisy),), level * 1000, device=noisy.device, dtype=noisy.dtype)
    layers = attention_report(transformer, noisy, moment, text)
    remove_vmoba(transformer)
    return Contrast(clip, noisy, results["full"], results["vmoba"], seconds, layers)


def draw_contrast(found: Contrast, title: str) -> Figure:
    """Rows of frames: clip, noisy, full attention, VMoBA, and their difference three times enlarged."""
    rows = {
        "clip": as_pictures(found.clip),
        "with noise": as_pictures(found.noisy),
        "full attention": as_pictures(found.full),
        "VMoBA": as_pictures(found.vmoba),
    }
    difference = np.abs(rows["VMoBA"].astype(int) - rows["full attention"].astype(int)) * 3
    rows["difference × 3"] = difference.clip(0, 255).astype(np.uint8)
    count = len(rows["clip"])
    shown = np.linspace(0, count - 1, min(6, count)).round().astype(int)
    height, width = rows["clip"].shape[1:3]
    figure = Figure(figsize=(1.6 * len(shown) + 1.2, 1.6 * len(rows) * height / width + 0.5), layout="constrained")
    axes = np.reshape(figure.subplots(len(rows), len(shown)), (len(rows), len(shown)))
    for row, (name, pictures) in enumerate(rows.items()):
        for column, number in enumerate(shown):
            ax = axes[row, column]
            ax.imshow(pictures[number], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if not column:
                ax.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
            if not row:
                ax.set_title(f"frame {number + 1}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure
