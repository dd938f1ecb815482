"""Explainers that follow gradients or relevance back to the input: Grad-CAM, integrated gradients, salient relevance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainability.attribution.attribution import Attribution
from explainability.attribution.layers import find_layer, recorded
from explainability.attribution.layout import Grid, infer_layout
from explainability.attribution.lrp import LRP
from explainability.attribution.targets import (
    Target,
    batches,
    classes_of,
    differentiable,
    logits_of,
    select,
    unwrapped,
)
from explainability.salient_relevance.relprop import render
from explainability.salient_relevance.saliency import context_aware_saliency


@dataclass
class GradCAM:
    """Grad-CAM: ``ReLU(Σ channels of (mean over places of ∂ s_c / ∂ a) · a)`` (Selvaraju et al. 2017).

    Args:
        model: any, in evaluation mode.
        layer: name of the layer; None: see `find_layer`.
        grid: rows and columns of the layer's tokens, where they cannot be inferred.
    """

    model: nn.Module
    layer: str | None = None
    grid: Grid = None

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """A map at the layer's resolution.

        Raises:
            ValueError: no such layer, no way from it to the target, or a layout that fits no grid.
        """
        from explainability.promptcam.model import PromptCAM

        model = unwrapped(self.model)
        name, module = find_layer(model, self.layer)
        maps, classes = [], []
        for part, of_part in batches(inputs, target, internal_batch_size):
            with differentiable(part) as x, recorded(module) as outputs:
                logits = logits_of(model(x))
                explained = classes_of(logits, of_part)
                if not outputs:
                    raise ValueError(f"layer {name} was not used for this input")
                activation = outputs[-1]
                if isinstance(model, PromptCAM):
                    # a block's norm sees the image's tokens first, then the prompts, which are no places of the picture
                    activation = outputs[0]
                selected = select(logits, of_part, explained).sum()
                if not activation.requires_grad:
                    raise ValueError(f"layer {name} does not depend on the input")
                (gradient,) = torch.autograd.grad(selected, activation, allow_unused=True)
                layout = infer_layout(tuple(activation.shape), (x.shape[-2], x.shape[-1]), model, self.grid)
                at_places = None if gradient is None else layout.to_maps(gradient)
                if at_places is None or not bool(at_places.any()):
                    raise ValueError(
                        f"no path leads from the places of layer {name} to the target: of a transformer that reads its class token, "
                        f"choose a layer before the last attention"
                    )
                weights = at_places.mean((2, 3), keepdim=True)
                map_ = (weights * layout.to_maps(activation)).sum(1).relu()
            maps.append(map_.detach())
            classes.append(explained.detach())
        return Attribution(torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "gradcam", {"layer": name})


@dataclass
class IntegratedGradients:
    """Integrated gradients: ``(x − x') ⊙ ∫ ∂ s_c (x' + t (x − x')) / ∂ x dt`` (Sundararajan et al. 2017).

    Args:
        model: any, in evaluation mode.
        steps: of the integral, by the midpoint rule.
    """

    model: nn.Module
    steps: int = 50

    def attribute(
        self,
        inputs: Tensor,
        target: Target = None,
        *,
        baselines: Tensor | float = 0.0,
        internal_batch_size: int | None = None,
    ) -> Attribution:
        """Pixels' shares, (batch, channels, height, width); ``meta["delta"]`` is the deviation from completeness of each sample.

        Args:
            inputs: normalised images.
            target: what is explained.
            baselines: where the path begins; 0 is the mean colour of the normalisation.
            internal_batch_size: samples times steps at a time; None: 16.
        """
        if self.steps < 1:
            raise ValueError(f"needs at least one step, got {self.steps}")
        model = unwrapped(self.model)
        base = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)
        with torch.no_grad():
            logits = logits_of(model(inputs))
            explained = classes_of(logits, target)
            difference = select(logits, target, explained) - select(logits_of(model(base)), target, explained)
        at_once = internal_batch_size or 16
        times = (torch.arange(self.steps, dtype=inputs.dtype, device=inputs.device) + 0.5) / self.steps
        total = torch.zeros_like(inputs)
        places = [(sample, time) for sample in range(len(inputs)) for time in times]
        for first in range(0, len(places), at_once):
            samples = torch.tensor([sample for sample, _ in places[first : first + at_once]], device=inputs.device)
            t = torch.stack([time for _, time in places[first : first + at_once]]).view(-1, *(1,) * (inputs.ndim - 1))
            points = base[samples] + t * (inputs[samples] - base[samples])
            of_part = target if callable(target) or isinstance(target, tuple) else explained[samples]
            with differentiable(points) as x:
                selected = select(logits_of(model(x)), of_part, explained[samples]).sum()
                (gradient,) = torch.autograd.grad(selected, x)
            total.index_add_(0, samples, gradient.to(total.dtype))
        values = (inputs - base) * total / self.steps
        delta = values.flatten(1).sum(1) - difference
        meta = {"steps": self.steps, "delta": delta.tolist()}
        return Attribution(values.detach(), tuple(inputs.shape), explained, "ig", meta)


@dataclass
class SalientRelevance:
    """Salient relevance: the areas that context-aware saliency finds in a relevance image (Li, Tian, Mueller, Chen 2019).

    Args:
        model: as for `LRP`.
        max_side: the relevance image is scaled so that its longer side has at most this many pixels.
    """

    model: nn.Module
    max_side: int = 250

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """A map in [0, 1], (batch, height, width). Raises ValueError as `LRP` does, and for images smaller than a patch."""
        relevance = LRP(self.model, "salient-relevance").attribute(
            inputs, target, internal_batch_size=internal_batch_size
        )
        colours = render(relevance.values) / 255
        if colours.shape[-1] != 3:
            colours = colours.mean(-1, keepdim=True).expand(*colours.shape[:3], 3)
        factor = min(1.0, self.max_side / max(colours.shape[1:3]))
        size = [max(round(side * factor), 7) for side in colours.shape[1:3]]
        small = nn.functional.interpolate(colours.permute(0, 3, 1, 2), size, mode="area").permute(0, 2, 3, 1)
        maps = torch.stack([context_aware_saliency(image.cpu()).map for image in small]).to(inputs)
        return Attribution(maps, relevance.input_shape, relevance.target, "sr", relevance.meta)
