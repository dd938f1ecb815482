"""Explainers that show attention: of the class token, rolled out through the layers, or a model's own map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core_attention import capture
from explainability.attribution.attribution import Attribution
from explainability.attribution.layout import Grid, infer_layout
from explainability.attribution.targets import Target, batches, predicted_classes, unwrapped


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
        for part, of_part in batches(inputs, target, internal_batch_size):
            last = _attention_maps(model, part, [0])[-1]
            maps.append(_patch_columns(model, last[:, :, 0].mean(1), part, self.grid))
            classes.append(predicted_classes(model, part, of_part))
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
        for part, of_part in batches(inputs, target, internal_batch_size):
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
            classes.append(predicted_classes(model, part, of_part))
        return Attribution(
            torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "rollout", {"discard": self.discard}
        )


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
        for part, of_part in batches(inputs, target, internal_batch_size):
            explained = predicted_classes(model, part, of_part)
            with torch.no_grad():
                if isinstance(model, PromptCAM):
                    if callable(of_part) or isinstance(of_part, tuple):
                        raise ValueError("Prompt-CAM's map belongs to a class: the target is a number")
                    different = sorted(set(explained.tolist()))
                    of_classes = model.class_maps(part, different).mean(2)
                    places = torch.tensor([different.index(number) for number in explained.tolist()])
                    maps.append(of_classes[torch.arange(len(part)), places])
                elif isinstance(model, SAT):
                    maps.append(model.locate(part).map)
                elif isinstance(model, TCPA):
                    maps.append(model.last_map(part))
                else:
                    raise ValueError(
                        f"a {type(model).__name__} has no map of its own: Prompt-CAM, SAT and TCPA have ('explainability train')"
                    )
            classes.append(explained)
        return Attribution(torch.cat(maps), tuple(inputs.shape), torch.cat(classes), "own")


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
