"""Explainers with captum's call shape: ``Method(model).attribute(inputs, target=…, internal_batch_size=…)`` → `Attribution`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core_attention import capture
from explainability.attribution.attribution import Attribution
from explainability.attribution.layout import infer_layout
from explainability.attribution.lrp import LRP
from explainability.attribution.targets import Target, classes_of, differentiable, logits_of, select, unwrapped
from explainability.salient_relevance.relprop import render
from explainability.salient_relevance.saliency import context_aware_saliency

Grid = tuple[int, int] | None


def _parts(inputs: Tensor, target: Target, size: int | None) -> Iterator[tuple[Tensor, Target]]:
    """Batches of inputs with their targets."""
    step = size or len(inputs)
    if step < 1:
        raise ValueError(f"internal_batch_size is at least 1, got {size}")
    for first in range(0, len(inputs), step):
        of_part = target
        if isinstance(target, Tensor) and target.ndim:
            of_part = target[first : first + step]
        yield inputs[first : first + step], of_part


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module while the block runs; the hook is gone afterwards, whatever happens."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hook = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def find_layer(model: nn.Module, name: str | None) -> tuple[str, nn.Module]:
    """The layer whose activation Grad-CAM weighs.

    By default: of a transformer what enters the last block's attention (its first norm), since later patch tokens do not reach a class
    token; of a convolutional network the last convolution's map, after its block.

    Raises:
        ValueError: no such layer; names near it are said. Or none is found.
    """
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            from difflib import get_close_matches

            near = get_close_matches(name, modules, 3)
            words = f"near it: {', '.join(near)}"
            if not near:
                words = f"it has {', '.join(child for child, _ in model.named_children())}"
            raise ValueError(f"the model has no layer {name!r}; {words}")
        return name, modules[name]
    norms = [n for n in modules if n.endswith((".norm1", ".ln_1", ".layernorm_before", ".norm_before"))]
    convolutions = [n for n, m in modules.items() if isinstance(m, nn.Conv2d)]
    if norms and len(norms) >= 2:
        return norms[-1], modules[norms[-1]]
    for candidate in ("layer4", "features", "stages"):
        if candidate in modules and convolutions:
            return candidate, modules[candidate]
    if convolutions:
        return convolutions[-1], modules[convolutions[-1]]
    raise ValueError("no layer for Grad-CAM was found: name one with --layer")


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
        model = unwrapped(self.model)
        name, module = find_layer(model, self.layer)
        maps, classes = [], []
        for part, of_part in _parts(inputs, target, internal_batch_size):
            with differentiable(part) as x, recorded(module) as outputs:
                logits = logits_of(model(x))
                chosen = classes_of(logits, of_part)
                if not outputs:
                    raise ValueError(f"layer {name} was not used for this input")
                activation = outputs[-1]
                selected = select(logits, of_part, chosen).sum()
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
            classes.append(chosen.detach())
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
            chosen = classes_of(logits, target)
            difference = select(logits, target, chosen) - select(logits_of(model(base)), target, chosen)
        at_once = internal_batch_size or 16
        times = (torch.arange(self.steps, dtype=inputs.dtype, device=inputs.device) + 0.5) / self.steps
        total = torch.zeros_like(inputs)
        places = [(sample, time) for sample in range(len(inputs)) for time in times]
        for first in range(0, len(places), at_once):
            samples = torch.tensor([sample for sample, _ in places[first : first + at_once]], device=inputs.device)
            t = torch.stack([time for _, time in places[first : first + at_once]]).view(-1, *(1,) * (inputs.ndim - 1))
            points = base[samples] + t * (inputs[samples] - base[samples])
            of_part = target if callable(target) or isinstance(target, tuple) else chosen[samples]
            with differentiable(points) as x:
                selected = select(logits_of(model(x)), of_part, chosen[samples]).sum()
                (gradient,) = torch.autograd.grad(selected, x)
            total.index_add_(0, samples, gradient.to(total.dtype))
        values = (inputs - base) * total / self.steps
        delta = values.flatten(1).sum(1) - difference
        meta = {"steps": self.steps, "delta": delta.tolist()}
        return Attribution(values.detach(), tuple(inputs.shape), chosen, "ig", meta)


def _attention_maps(model: nn.Module, part: Tensor, rows: list[int] | None) -> list[Tensor]:
    """Softmax weights of every layer, (batch, heads, rows, tokens); the fast kernel stays in place."""
    with torch.no_grad(), capture(model, rows=rows) as maps:
        model(part)
    if not maps:
        raise ValueError("no attention was seen in this model: rollout and raw attention are for transformers")
    weights = [maps[layer] for layer in maps]
    shapes = {tuple(layer.shape[2:]) for layer in weights}
    if len(shapes) > 1 or weights[0].shape[0] != len(part):
        raise ValueError(
            f"attention of shapes {sorted(shapes)}: a model of windows or several resolutions has no single map of tokens"
        )
    return weights


def _patch_columns(model: nn.Module, row: Tensor, part: Tensor, grid: Grid) -> Tensor:
    """Of the weights of one row, (batch, tokens), those of patches as maps."""
    layout = infer_layout((*row.shape, 1), (part.shape[-2], part.shape[-1]), model, grid)
    if layout.prefix == 0:
        raise ValueError("this model has no class token whose attention could be shown")
    return row[:, layout.prefix :].unflatten(1, (layout.rows, layout.columns))


def _predicted(model: nn.Module, part: Tensor, target: Target) -> Tensor:
    with torch.no_grad():
        return classes_of(logits_of(model(part)), target)


@dataclass
class RawAttention:
    """What the class token attends to in the last layer, the mean over heads. It does not depend on the target.

    Args:
        model: a transformer with a class token first.
        grid: rows and columns of patches, where they cannot be inferred.
    """

    model: nn.Module
    grid: Grid = None

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """A map of the patch grid. Raises ValueError for models without attention or class token."""
        model = unwrapped(self.model)
        maps, classes = [], []
        for part, of_part in _parts(inputs, target, internal_batch_size):
            last = _attention_maps(model, part, [0])[-1]
            maps.append(_patch_columns(model, last[:, :, 0].mean(1), part, self.grid))
            classes.append(_predicted(model, part, of_part))
        return Attribution(torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "attention")


@dataclass
class Rollout:
    """Attention rollout: ``Π (½ mean over heads of A + ½ I)``, rows normalised, the class token's row (Abnar and Zuidema 2020).

    It does not depend on the target.

    Args:
        model: a transformer with a class token first.
        discard: share of each row's smallest weights that count as 0.
        grid: rows and columns of patches, where they cannot be inferred.
    """

    model: nn.Module
    discard: float = 0.0
    grid: Grid = None

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """A map of the patch grid. Raises ValueError for models without attention or class token."""
        if not 0 <= self.discard < 1:
            raise ValueError(f"discard is a share from 0 to below 1, got {self.discard}")
        model = unwrapped(self.model)
        maps, classes = [], []
        for part, of_part in _parts(inputs, target, internal_batch_size):
            row = None
            # from the last layer down one row is enough: it is multiplied from the left
            for weights in reversed(_attention_maps(model, part, None)):
                mean = weights.mean(1)
                if self.discard:
                    least = mean.quantile(self.discard, -1, keepdim=True)
                    mean = mean.where(mean >= least, torch.zeros_like(mean))
                mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
                mixed = mixed / mixed.sum(-1, keepdim=True)
                row = mixed[:, :1] if row is None else row @ mixed
            assert row is not None  # _attention_maps refuses models without layers
            maps.append(_patch_columns(model, row[:, 0], part, self.grid))
            classes.append(_predicted(model, part, of_part))
        return Attribution(
            torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "rollout", {"discard": self.discard}
        )


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


@dataclass
class OwnMap:
    """The map that a model of this package makes while it answers: what the target's prompt attends to, the mean over heads (Prompt-CAM);
    where the spatial token sees the object (SAT, the same for all classes); what the class token attends to among the patches in the last
    block, where its role's prompts compete (TCPA, the same for all classes).

    Args:
        model: a `PromptCAM`, `SAT` or `TCPA`.
    """

    model: nn.Module

    def attribute(
        self, inputs: Tensor, target: Target = None, *, internal_batch_size: int | None = None
    ) -> Attribution:
        """A map at the resolution of the patches. Raises ValueError: a model without a map of its own."""
        from explainability.promptcam.model import PromptCAM
        from explainability.sat_wsol.model import SAT
        from explainability.tcpa.model import TCPA

        model = unwrapped(self.model)
        maps, classes = [], []
        for part, of_part in _parts(inputs, target, internal_batch_size):
            chosen = _predicted(model, part, of_part)
            with torch.no_grad():
                if isinstance(model, PromptCAM):
                    if callable(of_part) or isinstance(of_part, tuple):
                        raise ValueError("Prompt-CAM's map belongs to a class: the target is a number")
                    different = sorted(set(chosen.tolist()))
                    of_classes = model.class_maps(part, different).mean(2)
                    places = torch.tensor([different.index(number) for number in chosen.tolist()])
                    maps.append(of_classes[torch.arange(len(part)), places])
                elif isinstance(model, SAT):
                    maps.append(model.locate(part).map)
                elif isinstance(model, TCPA):
                    maps.append(model.last_map(part))
                else:
                    raise ValueError(
                        f"a {type(model).__name__} has no map of its own: Prompt-CAM, SAT and TCPA have ('explainability train')"
                    )
            classes.append(chosen)
        return Attribution(torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "own")


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
        classes = [_predicted(unwrapped(self.model), *part) for part in _parts(inputs, target, internal_batch_size)]
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
