"""Attention in pieces as one operator of torch, for graphs and transforms: `torch.compile`, export, make_fx, FakeTensorMode, vmap.

A graph cannot hold a number of pieces that depends on lengths and ids. So it holds one node, whatever the length, and the pieces are cut
when it runs. Masks cross into the operator as tensors, whole numbers and a description of how they belong together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from core_attention import masks
from core_attention.backends import cpu
from core_attention.backends.dropout import Dropout
from core_attention.masks import Additive, Dense, Mask, Part, Size, learnable, parts, together


def _portable(mask: Mask | None, size: Size, device: torch.device) -> Mask | None:
    """`mask` with masks of a user's own class written out: the operator could not make them again."""
    masks: list[Mask] = []
    for part in parts(mask):
        if _known(part):
            masks.append(part)
            continue
        allowed, bias = part.allowed(size, Part(), device), part.bias(size, Part(), device)
        if allowed is not None:
            masks.append(Dense(allowed))
        if bias is not None:
            masks.append(Additive(bias))
    return together(masks)


def _known(mask: Mask) -> bool:
    if not type(mask).__module__.startswith(f"{masks.__name__}."):
        return False
    inner: Sequence[Mask] = ()
    if isinstance(mask, masks.Not):
        inner = [mask.mask]
    elif isinstance(mask, masks.Either):
        inner = mask.masks
    return all(_all_known(one) for one in inner)


def _all_known(mask: Mask) -> bool:
    return all(_known(part) for part in parts(mask))


def _described(value: Any, tensors: list[Tensor], numbers: list[int]) -> str:
    """A mask as JSON; its tensors and numbers are moved into the lists and stand there by their place."""
    if value is None:
        return "null"
    if isinstance(value, Tensor):
        tensors.append(value)
        return f'"t{len(tensors) - 1}"'
    if isinstance(value, str):
        return f'"s{value}"'
    if isinstance(value, tuple):
        return "[" + ",".join([_described(one, tensors, numbers) for one in value]) + "]"
    if isinstance(value, Mask):
        fields = [getattr(value, name) for name in type(value).__match_args__]  # type: ignore[attr-defined]
        return f'{{"{type(value).__name__}":' + _described(tuple(fields), tensors, numbers) + "}"
    numbers.append(value)
    return f'"n{len(numbers) - 1}"'


@lru_cache(maxsize=256)
def _parsed(description: str) -> Any:
    return json.loads(description)


def _made(described: Any, tensors: list[Tensor], numbers: list[int]) -> Any:
    """What `_described` described."""
    if described is None:
        return None
    if isinstance(described, list):
        return tuple(_made(one, tensors, numbers) for one in described)
    if isinstance(described, dict):
        ((name, fields),) = described.items()
        return getattr(masks, name)(*_made(fields, tensors, numbers))
    kind, rest = described[0], described[1:]
    if kind == "s":
        return rest
    if kind == "t":
        return tensors[int(rest)]
    return numbers[int(rest)]


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    scale: float,
    dropout: Dropout | None,
    learned: bool,
    sums: bool,
) -> tuple[Tensor, Tensor]:
    """`core_attention.backends.cpu.Pieces` as one node of a graph."""
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    tensors: list[Tensor] = []
    numbers: list[int] = []
    description = _described(_portable(mask, size, q.device), tensors, numbers)
    share, seed = (0.0, None) if dropout is None else (dropout.share, dropout.seed)
    return torch.ops.core_attention.pieces(q, k, v, tensors, numbers, description, scale, share, seed, learned, sums)


GIVEN = "Tensor[] tensors, SymInt[] numbers, str description, float scale, float share, Tensor? seed, bool learned, bool sums"


def _call(
    tensors: list[Tensor],
    numbers: list[int],
    description: str,
    scale: float,
    share: float,
    seed: Tensor | None,
    learned: bool,
) -> Any:
    mask = _made(_parsed(description), tensors, numbers)
    return cpu.Call(mask, scale, Dropout(share, seed) if seed is not None else None, learned)


@torch.library.custom_op(
    "core_attention::pieces",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {GIVEN}) -> (Tensor, Tensor)",
)
def _forward(q, k, v, tensors, numbers, description, scale, share, seed, learned, sums):
    return cpu.forward(q, k, v, _call(tensors, numbers, description, scale, share, seed, learned))


@torch.library.custom_op(
    "core_attention::pieces_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad, Tensor grad_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, {GIVEN}) "
        "-> (Tensor, Tensor, Tensor, Tensor[])"
    ),
)
def _backward(grad, grad_lse, q, k, v, out, lse, tensors, numbers, description, scale, share, seed, learned, sums):
    call = _call(tensors, numbers, description, scale, share, seed, learned)
    grads, of_tensors = cpu.backward(grad, grad_lse if sums else None, q, k, v, out, lse, call)
    return *grads, of_tensors


@_forward.register_fake
def _(q, k, v, tensors, numbers, description, scale, share, seed, learned, sums):
    exact = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=exact)


@_backward.register_fake
def _(grad, grad_lse, q, k, v, out, lse, tensors, numbers, description, scale, share, seed, learned, sums):
    biases = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in learnable(tensors)] if learned else []
    return *(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v)), biases


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, numbers, description, scale, share, seed, learned, sums = inputs
    ctx.save_for_backward(q, k, v, *output, *tensors, *([] if seed is None else [seed]))
    ctx.tensors, ctx.seeded = len(tensors), seed is not None
    ctx.given = numbers, description, scale, share, learned, sums


def _differentiate(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    q, k, v, out, lse, *rest = ctx.saved_tensors
    tensors, seed = rest[: ctx.tensors], rest[-1] if ctx.seeded else None
    numbers, description, scale, share, learned, sums = ctx.given
    *grads, biases = torch.ops.core_attention.pieces_backward(
        grad, grad_lse, q, k, v, out, lse, tensors, numbers, description, scale, share, seed, learned, sums
    )
    remaining = iter(biases)
    of_tensors = [next(remaining) if learned and t.is_floating_point() else None for t in tensors]
    # torch takes an empty list for one of tensors and wants it back
    return *grads, of_tensors, None if numbers else [], *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_keep)


def _one_by_one(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operator under vmap: one call for each sample, which may have its own lengths and ids."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def at(value: Any, dim: Any, place: int) -> Any:
            if isinstance(dim, list | tuple):
                return [at(one, where, place) for one, where in zip(value, dim, strict=True)]
            return value.select(dim, place) if isinstance(dim, int) else value

        results = []
        for place in range(info.batch_size):
            of_sample = [at(value, dim, place) for value, dim in zip(args, in_dims, strict=True)]
            results.append(operator(*of_sample))
        outputs, dims = [], []
        for each in zip(*results, strict=True):
            if isinstance(each[0], Tensor):
                outputs.append(torch.stack(each))
                dims.append(0)
            else:
                outputs.append([torch.stack(one) for one in zip(*each, strict=True)])
                dims.append([0] * len(each[0]))
        return tuple(outputs), tuple(dims)

    return rule


_forward.register_vmap(_one_by_one(torch.ops.core_attention.pieces.default))
_backward.register_vmap(_one_by_one(torch.ops.core_attention.pieces_backward.default))
