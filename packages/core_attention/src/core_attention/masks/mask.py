"""What a mask is: which pairs a part of a problem shows, what is added to their scores, and how masks combine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Run(NamedTuple):
    """The positions ``start … stop - 1``."""

    start: int
    stop: int


Where = Run | Tensor | None  # a run of positions, a 1-D tensor of them, or all


def positions(where: Where, length: int, device: torch.device) -> Int[Tensor, "positions"]:
    """The positions that `where` picks out of ``range(length)``."""
    if isinstance(where, Tensor):
        return where.to(device)
    start, stop = (0, length) if where is None else where
    return torch.arange(start, stop, device=device)


def pick(tensor: Tensor, dim: int, where: Where) -> Tensor:
    """`tensor` at `where` along `dim`; a dimension of size 1 stands for every position and stays as it is."""
    if where is None or tensor.shape[dim] == 1:
        return tensor
    if isinstance(where, Tensor):
        return tensor.index_select(dim, where.to(tensor.device))
    return tensor.narrow(dim, where.start, where.stop - where.start)


class Size(NamedTuple):
    """The size of an attention problem as masks see it."""

    batch: int
    heads: int
    queries: int
    keys: int


class Part(NamedTuple):
    """The part of a problem that a mask is asked for: by default all of it."""

    batch: Run | None = None
    heads: Where = None
    rows: Where = None
    keys: Where = None


class Mask:
    """What a query may see. Subclasses override `allowed` (which pairs), `bias` (what is added to their scores), or both."""

    def __and__(self, other: Mask) -> Mask:
        return All(tuple(parts(self)) + tuple(parts(other)))

    def __or__(self, other: Mask) -> Mask:
        return Either((self, other))

    def __invert__(self) -> Mask:
        return Not(self)

    @property
    def by_key(self) -> bool:
        """Whether it hides keys of a sample from all queries alike: what stands there is then never read."""
        return False

    def at(self, size: Size) -> Mask:
        """This mask for a problem of `size`: ``Causal(align="end")`` gets its offset."""
        return self

    def check(self, size: Size) -> None:
        """Raises ValueError, quoting both shapes, if this mask does not fit a problem of `size`."""

    def allowed(self, size: Size, part: Part, device: torch.device) -> Bool[Tensor, "b h rows keys"] | None:
        """Which pairs of `part` are visible, broadcastable to its shape; None: all of them."""
        return None

    def bias(self, size: Size, part: Part, device: torch.device) -> Float[Tensor, "b h rows keys"] | None:
        """What is added to the scores of `part`, broadcastable to its shape; None: nothing."""
        return None

    def gradients(self, size: Size, part: Part, grad: Tensor, totals: Sequence[Tensor]) -> None:
        """Adds to `totals`, the gradients of this mask's tensors, what the gradient of the scores of `part` brings to them."""


def parts(mask: Mask | None) -> tuple[Mask, ...]:
    """The masks that `mask` is made of."""
    if mask is None:
        return ()
    return mask.masks if isinstance(mask, All) else (mask,)


def together(masks: Iterable[Mask]) -> Mask | None:
    """One mask of several; None of none."""
    flat: list[Mask] = []
    for mask in masks:
        flat += parts(mask)
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def tensors_of(mask: Mask | None) -> list[Tensor]:
    """The tensors that the top masks of `mask` hold, in their order."""
    fields = [getattr(part, name) for part in parts(mask) for name in getattr(part, "__match_args__", ())]
    return [value for value in fields if isinstance(value, Tensor)]


def learnable(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors of a mask that can have a gradient."""
    return [t for t in tensors if t.is_floating_point()]


def names(mask: Mask | None) -> tuple[str, ...]:
    """The kinds that a mask is made of, as `core-attention why` prints them."""
    return tuple(type(part).__name__ for part in parts(mask))


@dataclass(frozen=True, eq=False)
class All(Mask):
    """A pair is visible if all `masks` allow it; their biases add up. Made by ``a & b``."""

    masks: tuple[Mask, ...]

    @property
    def by_key(self) -> bool:
        return all(mask.by_key for mask in self.masks)

    def at(self, size: Size) -> Mask:
        return All(tuple(mask.at(size) for mask in self.masks))

    def check(self, size: Size) -> None:
        for mask in self.masks:
            mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return joined([mask.allowed(size, part, device) for mask in self.masks], torch.logical_and)

    def bias(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        return joined([mask.bias(size, part, device) for mask in self.masks], torch.add)


def joined(tensors: list[Tensor | None], join: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    """All tensors that are not None joined into one; None if there is none."""
    result = None
    for tensor in tensors:
        if result is None:
            result = tensor
        elif tensor is not None:
            result = join(result, tensor)
    return result


def _refuse_bias(mask: Mask, sign: str) -> None:
    if type(mask).bias is not Mask.bias and not isinstance(mask, All):
        raise ValueError(f"{type(mask).__name__} is added to scores: it combines with & only, not with {sign}")
    for part in mask.masks if isinstance(mask, All) else ():
        _refuse_bias(part, sign)


@dataclass(frozen=True, eq=False)
class Either(Mask):
    """A pair is visible if one of `masks` allows it. Made by ``a | b``; written out in pieces."""

    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        for mask in self.masks:
            _refuse_bias(mask, "|")

    @property
    def by_key(self) -> bool:
        return all(mask.by_key for mask in self.masks)

    def at(self, size: Size) -> Mask:
        return Either(tuple(mask.at(size) for mask in self.masks))

    def check(self, size: Size) -> None:
        for mask in self.masks:
            mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        allowed = [mask.allowed(size, part, device) for mask in self.masks]
        if any(one is None for one in allowed):
            return None
        return joined(allowed, torch.logical_or)


@dataclass(frozen=True, eq=False)
class Not(Mask):
    """A pair is visible if `mask` hides it. Made by ``~a``; written out in pieces."""

    mask: Mask

    def __post_init__(self) -> None:
        _refuse_bias(self.mask, "~")

    def __invert__(self) -> Mask:
        return self.mask

    @property
    def by_key(self) -> bool:
        return self.mask.by_key

    def at(self, size: Size) -> Mask:
        return Not(self.mask.at(size))

    def check(self, size: Size) -> None:
        self.mask.check(size)

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        allowed = self.mask.allowed(size, part, device)
        if allowed is None:  # everything was visible
            return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
        return ~allowed
