"""What a cache holds survives saving, and is forgotten on reset."""

from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from core_attention.parts.cache import Cache


@dataclass
class Inner(Cache):
    weights: tuple[Tensor, ...] | None = None


@dataclass
class Outer(Cache):
    inner: Inner = field(default_factory=Inner)
    keys: Tensor | None = None
    position: int = 0


def full() -> Outer:
    return Outer(Inner((torch.randn(2, 3), torch.randn(4).requires_grad_() * 2)), torch.randn(3, 2).mT, 7)


def test_state_survives_safetensors():
    cache, other = full(), Outer()
    other.load_state_dict(load(save(cache.state_dict())))
    assert other.position == 7
    assert torch.equal(other.keys, cache.keys)
    assert all(torch.equal(a, b) for a, b in zip(other.inner.weights, cache.inner.weights, strict=True))


def test_reset_detach_and_map():
    cache = full()
    cache.detach()
    assert not cache.inner.weights[1].requires_grad
    cache.map(lambda t: t.double())
    assert {t.dtype for key, t in cache.state_dict().items() if key != "position"} == {torch.float64}
    cache.reset()
    assert cache == Outer()
    assert cache.state_dict().keys() == {"position"}


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="no place for nothing"):
        Outer().load_state_dict({"inner.nothing": torch.zeros(1)})
    with pytest.raises(ValueError, match="no place for other"):
        Outer().load_state_dict({"other": torch.zeros(1)})


@dataclass
class Shared(Cache):
    """Holds one stream for all samples, which no beam changes."""

    own: Tensor | None = None
    stream: Tensor | None = None

    def reorder(self, index: Tensor) -> None:
        assert self.own is not None
        self.own = self.own[index]


@dataclass
class Holder(Cache):
    inner: Shared = field(default_factory=Shared)
    keys: tuple[Tensor, ...] | None = None


def test_a_nested_cache_reorders_itself():
    cache = Holder(Shared(torch.arange(2), torch.randn(1, 5)), (torch.arange(2), torch.arange(2, 4)))
    stream = cache.inner.stream
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.inner.own.tolist() == [1, 1, 0]
    assert cache.inner.stream is stream
    assert [part.tolist() for part in cache.keys] == [[1, 1, 0], [3, 3, 2]]
