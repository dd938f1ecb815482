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

from vision_models.video.latents import Codec
from vision_models.video.options import VMoBAOptions
from vision_models.video.wan import LayerReport, apply_vmoba, attention_report, remove_vmoba


@dataclass(frozen=True)
class Contrast:
    """Both results.

    Attributes:
        clip, noisy, full, vmoba: latents (1, channels, time, height, width).
        codec: that made them, and makes pictures of them.
        seconds: of both runs, by kind.
        layers: what each layer keeps at the first step.
    """

    clip: Tensor
    noisy: Tensor
    full: Tensor
    vmoba: Tensor
    codec: Codec
    seconds: dict[str, float]
    layers: list[LayerReport]

    @property
    def error(self) -> float:
        """Relative difference of the two results."""
        return float((self.vmoba - self.full).norm() / self.full.norm().clamp(min=1e-12))


@dataclass(frozen=True)
class Condition:
    """What a Wan is told beside its latents.

    Attributes:
        text: (1, tokens, width).
        beside: (1, more channels, time, height, width) of an image-to-video model, see `image_condition`.
        image: (1, tokens, width) of the image, where a model attends to it.
    """

    text: Tensor
    beside: Tensor | None = None
    image: Tensor | None = None

    def inputs(self, latents: Tensor, moment: float) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """The arguments of a transformer's forward at a timestep from 0 to 1000."""
        if self.beside is not None:
            latents = torch.cat([latents, self.beside], 1)
        step = torch.full((len(latents),), moment, device=latents.device, dtype=latents.dtype)
        named = {} if self.image is None else {"encoder_hidden_states_image": self.image}
        return (latents, step, self.text), named


def denoise(transformer: Any, noisy: Tensor, condition: Condition, level: float, steps: int) -> Tensor:
    """Euler steps of the flow from a share of noise down to none."""
    x = noisy
    levels = torch.linspace(level, 0, steps + 1).tolist()
    with torch.inference_mode():
        for before, after in pairwise(levels):
            inputs, named = condition.inputs(x, before * 1000)
            flow = transformer(*inputs, return_dict=False, **named)[0]
            x = x + (after - before) * flow
    return x


def contrast_clip(
    transformer: Any,
    clip: Tensor,
    condition: Condition,
    options: VMoBAOptions,
    codec: Codec,
    *,
    level: float,
    steps: int,
    seed: int,
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
        results[kind] = denoise(transformer, noisy, condition, level, steps)
        seconds[kind] = time.monotonic() - began
    # density of the blocks themselves, also where first steps are dense
    apply_vmoba(transformer, replace(options, dense_steps=0))
    inputs, named = condition.inputs(noisy, level * 1000)
    layers = attention_report(transformer, *inputs, **named)
    remove_vmoba(transformer)
    return Contrast(clip, noisy, results["full"], results["vmoba"], codec, seconds, layers)


def draw_contrast(found: Contrast, title: str) -> Figure:
    """Rows of frames: clip, noisy, full attention, VMoBA, and their difference three times enlarged."""
    rows = {
        "clip": found.codec.pictures(found.clip),
        "with noise": found.codec.pictures(found.noisy),
        "full attention": found.codec.pictures(found.full),
        "VMoBA": found.codec.pictures(found.vmoba),
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
