"""What masks ask of their tensors, and whether values may be read at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from core_attention.masks.mask import Part, Size, pick


def check_integer(name: str, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        return  # also a length that torch.compile keeps symbolic
    if isinstance(value, bool | float) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} is a whole number of positions, got {value!r}")


def check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}: write torch.tensor({value!r})")


def readable(tensor: Tensor) -> bool:
    """Whether values of `tensor` may be read here: not while torch traces or transforms, and not from a device, which would wait."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not transformed(tensor)


def transformed(tensor: Tensor) -> bool:
    """Whether `tensor` has no values of its own: under vmap and the other transforms, FakeTensorMode, or make_fx."""
    modes = torch._C._TorchDispatchModeKey
    return (
        torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._get_dispatch_mode(modes.FAKE) is not None
        or torch._C._get_dispatch_mode(modes.PROXY) is not None
        or isinstance(tensor, FakeTensor)
    )


def one_or(size: int, full_size: int) -> bool:
    """Whether a dimension is shared or has all its entries (`in` would compare a length that torch.compile keeps symbolic by identity)."""
    return size == 1 or size == full_size


def fits(shape: Iterable[int], full: Iterable[int]) -> bool:
    return all(one_or(size, full_size) for size, full_size in zip(shape, full, strict=True))


def as_matrix(tensor: Tensor) -> Tensor:
    """`tensor` with its missing leading dimensions."""
    return tensor[(None,) * (4 - tensor.ndim)] if tensor.ndim < 4 else tensor


def check_matrix(name: str, tensor: Tensor, size: Size) -> None:
    expected = (size.batch, size.heads, size.queries, size.keys)
    if not 2 <= tensor.ndim <= 4 or not fits(tuple(as_matrix(tensor).shape), expected):
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)} does not broadcast to (batch, heads, queries, keys) = {expected}"
        )


def part_of(tensor: Tensor, part: Part) -> Tensor:
    """`tensor` at the samples, heads, rows and keys of `part`."""
    tensor = pick(pick(as_matrix(tensor), 0, part.batch), 1, part.heads)
    return pick(pick(tensor, 2, part.rows), 3, part.keys)
