"""A map with what it is worth: its curves, its randomisation check, and a random map's score beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explainability.attribution.attribution import Attribution
from explainability.attribution.methods import explainer
from explainability.attribution.metrics import (
    Curve,
    deletion,
    insertion,
    randomisation_check,
    randomised,
    rank_correlation,
)


@dataclass(frozen=True)
class Explanation:
    """One method's maps of a batch.

    Attributes:
        attribution: the maps.
        maps: at the size of the images.
        insertion: curve; a greater area is better.
        deletion: curve; a smaller area is better.
        unchanged: Spearman's correlation with the maps of a model of random weights; near 1 the method does not see the model. None: not
            checked.
    """

    attribution: Attribution
    maps: Tensor
    insertion: Curve
    deletion: Curve
    unchanged: Tensor | None


@dataclass(frozen=True)
class Checks:
    """How maps are tested.

    Args:
        steps: of the curves.
        randomisation: explain a model of random weights too.
        seed: of random maps and weights.
        batch_size: images at a time.
    """

    steps: int = 20
    randomisation: bool = True
    seed: int = 0
    batch_size: int = 32


def explain_batch(
    model: nn.Module,
    images: Tensor,
    methods: Sequence[str],
    target: Tensor | int | None,
    checks: Checks | None = None,
    *,
    grid: tuple[int, int] | None = None,
    layer: str | None = None,
) -> tuple[dict[str, Explanation], dict[str, str]]:
    """Maps of several methods, a random map among them, each with its tests.

    Args:
        model: in evaluation mode.
        images: normalised images.
        methods: their names.
        target: class; None: the predicted one of each image.
        checks: how they are tested.
        grid: rows and columns of tokens, where they cannot be inferred.
        layer: of Grad-CAM.

    Returns:
        Method → explanation, and method → why it cannot explain this model.
    """
    checks = checks or Checks()
    fresh = randomised(model, checks.seed) if checks.randomisation else None
    explanations: dict[str, Explanation] = {}
    refused: dict[str, str] = {}
    for method in dict.fromkeys([*methods, "random"]):
        options: dict[str, Any] = {"grid": grid, "layer": layer}
        try:
            of_method = explainer(model, method, **options)
            if method == "random":
                of_method.seed = checks.seed
            attribution = of_method.attribute(images, target)
        except ValueError as error:
            refused[method] = str(error)
            continue
        maps = torch.nan_to_num(attribution.upsampled().float(), 0.0, 0.0, 0.0)
        unchanged = None
        if fresh is not None and method != "random":
            unchanged = _correlate(fresh, method, options, images, attribution)
        curves = []
        for curve in (insertion, deletion):
            curves.append(
                curve(model, images, maps, attribution.target, steps=checks.steps, batch_size=checks.batch_size)
            )
        explanations[method] = Explanation(attribution, maps, curves[0], curves[1], unchanged)
    return explanations, refused


def _correlate(
    fresh: nn.Module, method: str, options: dict[str, Any], images: Tensor, attribution: Attribution
) -> Tensor | None:
    """The randomisation check; None where random weights leave the method without a map."""
    try:
        other = explainer(fresh, method, **options).attribute(images, attribution.target)
    except ValueError:
        return None
    return rank_correlation(attribution.heatmap().abs(), other.heatmap().abs())


__all__ = ["Checks", "Explanation", "explain_batch", "randomisation_check"]
