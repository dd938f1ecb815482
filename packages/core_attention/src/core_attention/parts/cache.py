"""What a module remembers between calls: explicit, reset in one call, saved as plain tensors.

A module's `forward(x, …, cache=cache)` reads the cache and leaves in it what the next call needs, so that calls on successive pieces of
a sequence equal one call on the whole. A cache is a dataclass of tensors, tuples of tensors, integers and other caches.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Cache:
    """Base of the caches; every field needs a default, which is the empty state."""

    def reset(self) -> None:
        """Forgets everything: the next call begins a new sequence."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                value.reset()
            else:
                setattr(self, field.name, _empty(field))

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
        """Flat named tensors, ready for safetensors; what is empty is left out."""
        out: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Cache):
                for key, part in value.state_dict().items():
                    out[f"{field.name}.{key}"] = part
            elif isinstance(value, tuple):
                for i, part in enumerate(value):
                    out[f"{field.name}.{i}"] = part.contiguous()
            elif isinstance(value, Tensor):
                out[field.name] = value.contiguous()
            elif value is not None:
                out[field.name] = torch.tensor(value)
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: a key that this kind of cache has no place for.
        """
        self.reset()
        rest = dict(state)
        for field in fields(self):
            value = getattr(self, field.name)  # the empty state, which tells caches and integers from tensors
            under = _pop_under(rest, field.name)
            if isinstance(value, Cache):
                value.load_state_dict(under)
            elif under:
                setattr(self, field.name, tuple(under[str(i)] for i in range(len(under))))
            elif field.name in rest:
                part = rest.pop(field.name)
                if isinstance(value, int):
                    part = int(part)
                setattr(self, field.name, part)
        if rest:
            raise ValueError(f"{type(self).__name__} has no place for {', '.join(sorted(rest))}")


def _pop_under(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Takes the entries ``name.…`` out of `state`, without that prefix."""
    prefix = f"{name}."
    under: dict[str, Tensor] = {}
    for key in list(state):
        if key.startswith(prefix):
            under[key.removeprefix(prefix)] = state.pop(key)
    return under


def _empty(field: Field[Any]) -> Any:
    if field.default_factory is MISSING:
        return field.default
    return field.default_factory()
