"""How our operators behave under torch's function transforms (`torch.func.vmap` and what is built on it)."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType


def transformed() -> bool:
    """Whether the compiler or a function transform reads the code: the plain definition then serves better than an opaque operator."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def differentiated() -> bool:
    """Whether `torch.func` differentiates (grad, vjp, jacrev, jvp, hessian, and vmap of these): torch's custom operators refuse that.

    The plain definition then serves, whose operations it knows.
    """
    if torch.compiler.is_compiling():
        return False
    levels = torch._C._functorch.get_interpreter_stack() or []  # pyright: ignore[reportAttributeAccessIssue]
    return any(level.key() in (TransformType.Grad, TransformType.Jvp) for level in levels)


def readable(x: Tensor) -> bool:
    """Whether a value of `x` can be looked at: a plain tensor outside compilers, transforms and modes such as FakeTensorMode."""
    return not transformed() and type(x) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()


def vmap_one_by_one(op: Any) -> None:
    """Lets `torch.func.vmap` run a custom operator for one entry of the mapped axis after another.

    The operators choose tiles by the values of one problem, so that there is nothing to gain from all at once.
    """

    def select(value: Any, axis: Any, i: int) -> Any:
        if isinstance(value, list | tuple):
            return [select(part, part_axis, i) for part, part_axis in zip(value, axis, strict=True)]
        if axis is None:  # the same for every entry
            return value
        return value.select(axis, i)

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        results = []
        for i in range(info.batch_size):
            entry = [select(value, axis, i) for value, axis in zip(arguments, in_dims, strict=True)]
            results.append(op(*entry))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    op.register_vmap(rule)
