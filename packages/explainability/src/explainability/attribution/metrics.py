"""Whether a map can be trusted: insertion and deletion, the randomisation check, hits of true masks. Maps are given, however they were made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor, nn

from explainability.attribution.targets import logits_of, unwrapped

Maps = Tensor | NDArray[np.floating]
Baseline = Literal["blur", "zeros"]
SIGMA, KERNEL = 10.0, 51  # of the blur, pixels at 224


@dataclass(frozen=True)
class Curve:
    """The probability of the target while an image is built up or taken apart.

    Attributes:
        fractions: of the pixels, 0 to 1.
        probabilities: (batch, fractions).
        area: under each curve, by the trapezoid rule.
    """

    fractions: Float[Tensor, " steps"]
    probabilities: Float[Tensor, "b steps"]
    area: Float[Tensor, " b"]


def blur(images: Float[Tensor, "b c h w"], sigma: float = SIGMA, kernel: int = KERNEL) -> Float[Tensor, "b c h w"]:
    """Gaussian blur with reflected borders. Images smaller than half the kernel are repeated at their border."""
    offsets = torch.arange(kernel, dtype=images.dtype, device=images.device) - kernel // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    for axis in (2, 3):
        shape = [1, 1, 1, 1]
        shape[axis] = kernel
        padding = (0, 0, kernel // 2, kernel // 2) if axis == 2 else (kernel // 2, kernel // 2, 0, 0)
        mode = "reflect" if images.shape[axis] > kernel // 2 else "replicate"
        padded = F.pad(images, padding, mode=mode)
        channels = images.shape[1]
        images = F.conv2d(padded, weights.view(shape).expand(channels, 1, *shape[2:]), groups=channels)
    return images


def baseline_of(images: Tensor, baseline: Baseline | Tensor) -> Tensor:
    """What takes the place of missing pixels: a blurred copy, or 0 (the mean colour of the normalisation)."""
    if isinstance(baseline, Tensor):
        return baseline.expand_as(images)
    if baseline == "zeros":
        return torch.zeros_like(images)
    if baseline == "blur":
        # the kernel is meant for 224 pixels
        factor = min(images.shape[-2:]) / 224
        if factor == 1:
            return blur(images)
        return blur(images, SIGMA * factor, 2 * max(1, round(KERNEL * factor / 2)) + 1)
    raise ValueError(f"baseline is 'blur' or 'zeros', or images, got {baseline!r}")


@torch.no_grad()
def _curve(
    model: nn.Module, begin: Tensor, end: Tensor, maps: Maps, target: Tensor, steps: int, batch_size: int
) -> Curve:
    """Probabilities while the pixels of `end` replace those of `begin`, the greatest of the map first; ties by index."""
    if steps < 1:
        raise ValueError(f"needs at least one step, got {steps}")
    values = torch.as_tensor(maps).to(begin.device)
    if tuple(values.shape) != (len(begin), *begin.shape[-2:]):
        raise ValueError(
            f"needs maps {(len(begin), *begin.shape[-2:])} at the size of the images, got {tuple(values.shape)}"
        )
    if not bool(values.isfinite().all()):
        raise ValueError("a map holds values that are not finite")
    order = values.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    pixels = order.shape[1]
    fractions = torch.arange(steps + 1, dtype=torch.float64) / steps
    counts = [round(float(fraction) * pixels) for fraction in fractions]
    places = [(sample, step) for sample in range(len(begin)) for step in range(steps + 1)]
    probabilities = begin.new_zeros(len(begin), steps + 1)
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        samples = torch.tensor([sample for sample, _ in part], device=begin.device)
        limits = torch.tensor([counts[step] for _, step in part], device=begin.device)
        moved = (rank[samples] < limits[:, None]).view(-1, 1, *begin.shape[-2:])
        mixed = torch.where(moved, end[samples], begin[samples])
        scores = logits_of(model(mixed)).softmax(-1).gather(1, target[samples][:, None])[:, 0]
        for (sample, step), score in zip(part, scores, strict=True):
            probabilities[sample, step] = score
    area = torch.trapezoid(probabilities, fractions.to(probabilities), dim=1)
    return Curve(fractions, probabilities, area)


def insertion(
    model: nn.Module, images: Tensor, maps: Maps, target: Tensor, *, baseline: Baseline | Tensor = "blur",
    steps: int = 50, batch_size: int = 32,
) -> Curve:  # fmt: skip
    """The image is revealed on the baseline, its most important pixels first; the greater the area the better (Petsiuk et al. 2018).

    Args:
        model: in evaluation mode.
        images: normalised images.
        maps: (batch, height, width) at the size of the images.
        target: class of each image.
        baseline: what stands where nothing is revealed yet.
        steps: J; the probability is taken at fractions 0, 1/J, … 1.
        batch_size: images at a time; the numbers do not depend on it.
    """
    return _curve(unwrapped(model), baseline_of(images, baseline), images, maps, target, steps, batch_size)


def deletion(
    model: nn.Module, images: Tensor, maps: Maps, target: Tensor, *, baseline: Baseline | Tensor = "zeros",
    steps: int = 50, batch_size: int = 32,
) -> Curve:  # fmt: skip
    """The most important pixels are replaced by the baseline first; the smaller the area the better. Arguments as `insertion`."""
    return _curve(unwrapped(model), images, baseline_of(images, baseline), maps, target, steps, batch_size)


def energy_in_mask(maps: Maps, masks: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Share of the positive values inside the mask; NaN where nothing is positive."""
    positive = torch.as_tensor(maps).clamp(min=0)
    inside = (positive * masks).flatten(1).sum(1)
    return inside / positive.flatten(1).sum(1)


def pointing_game(maps: Maps, masks: Bool[Tensor, "b h w"], *, tolerance: int | None = None) -> Bool[Tensor, " b"]:
    """Whether the greatest value (the first in row-major order) is in the mask, or at most `tolerance` pixels from it.

    Args:
        maps: at the size of the masks.
        masks: True on the object.
        tolerance: pixels; None: 15 at 224.
    """
    values = torch.as_tensor(maps)
    if tolerance is None:
        tolerance = round(15 * min(values.shape[-2:]) / 224)
    y, x = np.ogrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    disc = y**2 + x**2 <= tolerance**2
    hits = []
    for value, mask in zip(values, masks, strict=True):
        grown = binary_dilation(mask.cpu().numpy(), disc) if tolerance else mask.cpu().numpy()
        hits.append(bool(grown.flat[int(value.flatten().argmax())]))
    return torch.tensor(hits)


def rank_correlation(a: Maps, b: Maps) -> Float[Tensor, " b"]:
    """Spearman's correlation of each pair of maps; 0 where one of them is constant."""
    ranks = []
    for maps in (a, b):
        values = torch.as_tensor(maps).detach().cpu().double().flatten(1)
        rows = []
        for row in values:
            # ties share the mean of their ranks
            _, inverse, counts = torch.unique(row, return_inverse=True, return_counts=True)
            ends = counts.cumsum(0)
            rows.append((ends - (counts - 1) / 2)[inverse])
        ranked = torch.stack(rows).double()
        ranks.append(ranked - ranked.mean(1, keepdim=True))
    product = (ranks[0] * ranks[1]).sum(1)
    norms = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    return torch.where(norms > 0, product / torch.where(norms > 0, norms, 1), torch.zeros_like(product))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy whose parameters are drawn anew: every layer's own initialisation where it has one, shuffled values where not."""
    generator = torch.Generator().manual_seed(seed)
    fresh = copy.deepcopy(unwrapped(model))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # pyright: ignore[reportCallIssue]
            else:
                for parameter in module.parameters(recurse=False):
                    flat = parameter.data.flatten()
                    parameter.data = flat[torch.randperm(len(flat), generator=generator)].view_as(parameter)
    return fresh.eval()


def randomisation_check(
    model: nn.Module, maps: Maps, explain: Callable[[nn.Module], Maps], *, seed: int = 0
) -> Float[Tensor, " b"]:
    """Spearman's correlation of maps with those of a model of random weights (Adebayo et al. 2018, all layers at once).

    Near 1: the method shows the image, not the model. It needs the explainer, not only its maps.

    Args:
        model: that was explained.
        maps: its maps.
        explain: maps of a model.
        seed: of the weights.
    """
    return rank_correlation(torch.as_tensor(maps).abs(), torch.as_tensor(explain(randomised(model, seed))).abs())
