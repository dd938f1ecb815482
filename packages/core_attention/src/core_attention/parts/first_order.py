"""Backward passes that are not differentiable themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_REFUSED = (
    "this call has no second derivative: `attention(..., backend='reference')` has them in every way, and `torch.func` (grad, hessian, jvp) "
    "those of every mechanism"
)


class _Refused(torch.autograd.Function):
    """Gradients that may be used, and not differentiated again.

    torch's own `once_differentiable` cuts the path from a gradient to the inputs: `torch.autograd.grad(gradient, inputs)` then leaves the gradient
    out without a word. Here the path is there and raises.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(_REFUSED)


def first_order(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """For the backward pass of an autograd function: under ``create_graph=True`` its gradients raise where they are differentiated again.

    The function saves every input that a gradient depends on.

    Returns:
        the backward pass that checks: its gradients, as `backward` gives them.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # no graph of the gradients is asked for
            return gradients
        depends_on = [tensor for tensor in (*ctx.saved_tensors, *grads) if tensor is not None and tensor.requires_grad]
        if not depends_on:
            return gradients
        return tuple(None if gradient is None else _Refused.apply(gradient, *depends_on) for gradient in gradients)  # pyright: ignore[reportReturnType]

    return checked
