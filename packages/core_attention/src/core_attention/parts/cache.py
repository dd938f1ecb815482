"""What a module remembers between calls: explicit, reset in one call, saved as plain tensors.

Every mechanism with a memory has `layer.new_cache(...)`, and `layer(x, …, cache=cache)` reads the cache and leaves in it what the next call needs, so
that calls on successive pieces of a sequence equal one call on the whole. A cache is a dataclass of settings, tensors with the batch first, tuples of
such tensors, integers and other caches.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

# of a field that says how a cache works: `reset` leaves it, and a saved state is only read back under the same one
SETTING = {"setting": True}


@dataclass
class Cache:
    """Base of the caches; every field that is not a setting needs a default, which is the empty state."""

    def reset(self) -> None:
        """Forgets everything: the next call begins a new sequence."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                value.reset()
            elif not field.metadata.get("setting"):
                setattr(self, field.name, _empty(field))

    def reorder(self, index: Int[Tensor, " beams"]) -> None:
        """Sample i of the batch goes on as a copy of what was sample `index[i]`: beams of a search, or a batch that grows or shrinks."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                value.reorder(index)  # it may hold what all samples share
            elif isinstance(value, Tensor):
                setattr(self, field.name, _chosen(value, index))
            elif isinstance(value, tuple):
                setattr(self, field.name, tuple(_chosen(part, index) for part in value))

    def crop(self, length: int) -> None:
        """Forgets the tokens from `length` on, as if they had never been read: drafts that are not accepted.

        Raises:
            ValueError: the cache does not hold what it would need, or `length` is not from 0 to the tokens read.
        """
        raise ValueError(
            f"{type(self).__name__} holds a summary of what was read and cannot go back to {length} tokens: keep a copy (copy.deepcopy) to return to"
        )

    def assign(self, other: "Cache") -> None:
        """Takes over the fields of another cache of the same kind."""
        for field in fields(self):
            setattr(self, field.name, getattr(other, field.name))

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replaces every tensor by `change(tensor)`: `cache.map(lambda t: t.to("cuda"))`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                value.map(change)
            elif isinstance(value, Tensor):
                setattr(self, field.name, change(value))
            elif isinstance(value, tuple):
                setattr(self, field.name, tuple(change(part) for part in value))

    def detach(self) -> None:
        """Cuts the graph behind the state: truncated backpropagation through time."""
        self.map(lambda t: t.detach())

    def state_dict(self) -> dict[str, Tensor]:
        """Flat named tensors, copied, ready for safetensors; what is empty is left out."""
        out: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                for key, part in value.state_dict().items():
                    out[f"{field.name}.{key}"] = part
            elif isinstance(value, tuple):
                for i, part in enumerate(value):
                    out[f"{field.name}.{i}"] = _copied(part)
            elif isinstance(value, Tensor):
                out[field.name] = _copied(value)
            elif isinstance(value, int):
                out[field.name] = torch.tensor(value)
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: a key that this kind of cache has no place for, or another setting.
        """
        self.reset()
        rest = dict(state)
        for field in fields(self):
            if field.metadata.get("setting"):
                self._check_setting(field.name, rest.pop(field.name, None))
                continue
            value = getattr(self, field.name)  # the empty state, which tells caches and integers from tensors
            under = _pop_under(rest, field.name)
            if isinstance(value, Cache):
                value.load_state_dict(under)
            elif under:
                setattr(self, field.name, tuple(_copied(under[str(i)]) for i in range(len(under))))
            elif field.name in rest:
                part = rest.pop(field.name)
                setattr(self, field.name, int(part) if isinstance(value, int) else _copied(part))
        if rest:
            raise ValueError(f"{type(self).__name__} has no place for {', '.join(sorted(rest))}")

    def _check_setting(self, name: str, saved: Tensor | None) -> None:
        here = getattr(self, name)
        if saved is not None and int(saved) != here:
            raise ValueError(f"the saved {type(self).__name__} has {name} {int(saved)}, this one {here}")


@dataclass
class Rows(Cache):
    """Tensors that grow along their third axis, (batch, heads, length, …); without gradients a token is written in place, and room doubles.

    Attributes:
        room: the tensors with the room behind their rows, detached; `rows` gives them without it.
        length: rows that are held.
    """

    room: tuple[Tensor, ...] | None = None
    length: int = 0

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """What is held, each (batch, heads, length, …)."""
        return () if self.room is None else tuple(x[:, :, : self.length] for x in self.room)

    def extend(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Appends rows, and returns all of them; gradients reach the new ones.

        Raises:
            ValueError: another batch, number of heads or width than before.
        """
        held, start = self.rows, self.length
        for old, x in zip(held, new, strict=bool(held)):
            if old.shape[:2] + old.shape[3:] != x.shape[:2] + x.shape[3:]:
                raise ValueError(
                    f"the cache holds {tuple(old.shape)} (batch, heads, length, …), the call brings {tuple(x.shape)}"
                )
        count = start + new[0].shape[2]
        if self.room is None or count > self.room[0].shape[2] or self.room[0].dtype != new[0].dtype:
            self._make_room(held, new, count)
        assert self.room is not None
        for room, x in zip(self.room, new, strict=True):
            room[:, :, start:count] = x.detach()
        self.length = count
        if torch.is_grad_enabled() and any(x.requires_grad for x in new):
            return tuple(torch.cat([room[:, :, :start], x], 2) for room, x in zip(self.room, new, strict=True))
        return self.rows

    def _make_room(self, held: tuple[Tensor, ...], new: tuple[Tensor, ...], count: int) -> None:
        # the first call brings a whole prompt, after which tokens come one by one
        size = max(count + 64, 2 * self.length)
        room = tuple(x.new_zeros(*x.shape[:2], size, *x.shape[3:]) for x in new)
        for fresh, old in zip(room, held, strict=False):
            fresh[:, :, : self.length] = old
        self.room = room

    def crop(self, length: int) -> None:
        """Forgets the rows from `length` on."""
        check_crop(length, self.length)
        self.length = length

    def state_dict(self) -> dict[str, Tensor]:
        """As for every cache, without the room behind the rows."""
        state = {f"room.{i}": _copied(x) for i, x in enumerate(self.rows)}
        return {**state, "length": torch.tensor(self.length)}


def check_crop(length: int, held: int) -> None:
    """Raises ValueError unless `length` is from 0 to what was read."""
    if not 0 <= length <= held:
        raise ValueError(f"a cache of {held} tokens can be cropped to 0 … {held}, got {length}")


def _pop_under(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Takes the entries ``name.…`` out of `state`, without that prefix."""
    prefix = f"{name}."
    under: dict[str, Tensor] = {}
    for key in list(state):
        if key.startswith(prefix):
            under[key.removeprefix(prefix)] = state.pop(key)
    return under


def _chosen(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(0, index.to(x.device))


def _copied(x: Tensor) -> Tensor:
    """Tokens may be written into a cache's tensors in place: what is saved or loaded shares no memory with them."""
    return x.clone(memory_format=torch.contiguous_format)


def _empty(field: Field[Any]) -> Any:
    if field.default_factory is MISSING:
        return field.default
    return field.default_factory()
