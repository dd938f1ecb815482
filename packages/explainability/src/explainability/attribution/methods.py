"""Explainers by name, with captum's call shape: ``Method(model).attribute(inputs, target=…, internal_batch_size=…)`` → `Attribution`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explainability.attribution.attentions import OwnMap, RawAttention, Rollout
from explainability.attribution.attribution import Attribution
from explainability.attribution.gradients import GradCAM, IntegratedGradients, SalientRelevance
from explainability.attribution.layout import Grid
from explainability.attribution.lrp import LRP
from explainability.attribution.targets import Target, batches, predicted_classes, unwrapped


@dataclass
class RandomMap:
    """A map of uniform random numbers at the resolution of a 14 × 14 grid: what every other map has to beat.

    Args:
        model: only asked for its prediction.
        seed: of the numbers.
        grid: resolution.
    """

    model: nn.Module
    seed: int = 0
    grid: Grid = None

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """The map; the same under the same seed."""
        rows, columns = self.grid or (14, 14)
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.rand(len(inputs), rows, columns, generator=generator).to(inputs.device)
        classes = [
            predicted_classes(unwrapped(self.model), *part) for part in batches(inputs, target, internal_batch_size)
        ]
        return Attribution(values, tuple(inputs.shape), torch.cat(classes), "random")


METHODS: dict[str, Callable[..., Any]] = {
    "gradcam": GradCAM,
    "ig": IntegratedGradients,
    "lrp": LRP,
    "sr": SalientRelevance,
    "rollout": Rollout,
    "attention": RawAttention,
    "own": OwnMap,
    "random": RandomMap,
}


def explainer(model: nn.Module, method: str, *, grid: Grid = None, layer: str | None = None) -> Any:
    """A method by name, with the options that it has.

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    options: dict[str, Any] = {}
    if method in ("gradcam", "rollout", "attention") and grid is not None:
        options["grid"] = grid
    if method == "gradcam":
        options["layer"] = layer
    return METHODS[method](model, **options)


def attribute(
    model: nn.Module, inputs: Tensor, method: str = "gradcam", target: Target = None, **options: Any
) -> Attribution:
    """One call: ``attribute(model, images, "lrp", target=3)``; see the class of each method for its options."""
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method](model, **options).attribute(inputs, target)
