"""Which number of a model's answer is explained, and running a model so that it can be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Target = int | Tensor | tuple[int, ...] | Callable[[Tensor], Tensor] | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a compiled one, whose layers can be seen."""
    return getattr(model, "_orig_mod", model)


def logits_of(answer: Any) -> Tensor:
    """The logits in a model's answer: the tensor itself, or an output's ``logits`` (transformers).

    Raises:
        ValueError: it is something else, or there is nothing to choose a class from.
    """
    logits = getattr(answer, "logits", answer)
    if isinstance(logits, tuple) and logits and isinstance(logits[0], Tensor):
        logits = logits[0]
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model answers with a {type(answer).__name__}, not with logits (batch, classes)")
    if logits.ndim < 2:
        raise ValueError(f"the model answers with shape {tuple(logits.shape)}; needs logits (batch, classes)")
    return logits


def classes_of(logits: Tensor, target: Target) -> Tensor:
    """The class of each sample; None: the predicted one. Of a callable or a tuple index: −1.

    Raises:
        ValueError: not one class per sample, or one that the model does not have.
    """
    if target is None:
        if logits.shape[1] < 2:
            return torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return logits.flatten(1).argmax(1)
    if callable(target) or isinstance(target, tuple):
        return torch.full((len(logits),), -1, device=logits.device)
    classes = torch.as_tensor(target, device=logits.device).long()
    if classes.ndim == 0:
        classes = classes.expand(len(logits))
    if classes.shape != (len(logits),):
        raise ValueError(f"needs a target per sample, {len(logits)}, got {tuple(classes.shape)}")
    if bool(((classes < 0) | (classes >= logits.shape[1])).any()):
        raise ValueError(f"target {classes.tolist()}: the model has classes 0 to {logits.shape[1] - 1}")
    return classes


def select(logits: Tensor, target: Target, classes: Tensor) -> Tensor:
    """The number of each sample that is explained, (batch,)."""
    if callable(target):
        return target(logits)
    if isinstance(target, tuple):
        return logits[(slice(None), *target)]
    return logits.gather(1, classes[:, None])[:, 0]


@contextmanager
def differentiable(inputs: Tensor) -> Iterator[Tensor]:
    """A copy of the inputs that gradients reach, also inside ``no_grad`` or ``inference_mode`` and with frozen models."""
    with torch.inference_mode(False), torch.enable_grad():
        yield inputs.detach().clone().requires_grad_()


def batches(inputs: Tensor, target: Target, size: int | None) -> Iterator[tuple[Tensor, Target]]:
    """Inputs in batches of `size` (None: all at once), each with its targets.

    Raises:
        ValueError: a size below 1.
    """
    step = size or len(inputs)
    if step < 1:
        raise ValueError(f"internal_batch_size is at least 1, got {size}")
    for first in range(0, len(inputs), step):
        of_part = target
        if isinstance(target, Tensor) and target.ndim:
            of_part = target[first : first + step]
        yield inputs[first : first + step], of_part


def predicted_classes(model: nn.Module, part: Tensor, target: Target) -> Tensor:
    """The class of each input that a map is for: the target, else the predicted one."""
    with torch.no_grad():
        return classes_of(logits_of(model(part)), target)
