"""A function of tensors as one operator of torch, for graphs: a loop of Python over chunks would stand in a graph unrolled for one length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor], Mapping[str, Any]], Sequence[Tensor]]


def one_node(name: str, function: Function, empty: Function) -> Callable[..., list[Tensor]]:
    """`function` as ``core_attention::NAME``: one node of a graph, whatever it does inside; it runs as it is where the graph runs.

    Its backward pass is a second node, which runs the function again with gradients.

    Args:
        name: of the operator.
        function: tensors and settings → tensors, none of which is a view of another or of what was given.
        empty: the same → tensors of the shapes and dtypes of the results, by `Tensor.new_empty`.

    Returns:
        ``call(tensors, settings)``; `settings` are numbers, strings without quotes, True, False or None, by name.
    """

    @torch.library.custom_op(
        f"core_attention::{name}", mutates_args=(), schema="(Tensor[] tensors, str settings) -> Tensor[]"
    )
    def forward(tensors, settings):
        return list(function(tensors, json.loads(settings)))

    @torch.library.custom_op(
        f"core_attention::{name}_backward",
        mutates_args=(),
        schema="(Tensor[] grads, int[] places, Tensor[] tensors, str settings) -> Tensor[]",
    )
    def backward(grads, places, tensors, settings):
        with torch.enable_grad(), _recording():
            leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
            outputs = function(leaves, json.loads(settings))
            differentiable = [leaf for leaf in leaves if leaf.requires_grad]
            # a result that depends on no leaf (an index, a count) has no gradient to pass on
            used, of_used = [], []
            for place, grad in zip(places, grads, strict=True):
                if outputs[place].requires_grad:
                    used.append(outputs[place])
                    of_used.append(grad)
            gradients = torch.autograd.grad(used, differentiable, of_used, allow_unused=True, materialize_grads=True)
        return [grad.contiguous().clone() for grad in gradients]

    @forward.register_fake
    def _(tensors, settings):
        return list(empty(tensors, json.loads(settings)))

    @backward.register_fake
    def _(grads, places, tensors, settings):
        floats = [t for t in tensors if t.is_floating_point()]
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in floats]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
        ctx.save_for_backward(*inputs[0])
        ctx.settings = inputs[1]

    def differentiate(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        tensors = list(ctx.saved_tensors)
        places = [place for place, grad in enumerate(grads) if grad is not None]
        given = [grads[place].contiguous() for place in places]  # pyright: ignore[reportOptionalMemberAccess]
        run_backward = getattr(torch.ops.core_attention, f"{name}_backward")
        remaining = iter(run_backward(given, places, tensors, ctx.settings))
        gradients = [next(remaining) if tensor.is_floating_point() else None for tensor in tensors]
        return gradients, None

    forward.register_autograd(differentiate, setup_context=keep)

    def call(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
        return getattr(torch.ops.core_attention, name)(list(tensors), _as_json(settings))

    return call


@contextmanager
def _recording() -> Iterator[None]:
    """Lets autograd record inside an operator, which torch runs below it."""
    keys = torch._C.DispatchKey
    with ExitStack() as stack:
        for key in (keys.AutogradFunctionality, keys.ADInplaceOrView):
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        yield


def _as_json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON, in words that the compiler can trace."""
    pairs = []
    for name, value in settings.items():
        if value is None:
            pairs.append(f'"{name}": null')
        elif isinstance(value, bool):
            pairs.append(f'"{name}": {"true" if value else "false"}')
        elif isinstance(value, str):
            pairs.append(f'"{name}": "{value}"')
        else:
            pairs.append(f'"{name}": {value}')
    return "{" + ", ".join(pairs) + "}"
