"""Cases that `record` writes pass `verify`, and their tolerances still tell a wrong module from a right one."""

import torch
from torch import nn

from core_attention.golden.record import record
from core_attention.golden.replay import verify
from core_attention.systems import Component, System


class Pooling(nn.Module):
    """Softmax pooling of a sequence; the key's bias adds a constant to all scores, so that its gradient is truly zero."""

    def __init__(self):
        super().__init__()
        self.key, self.value = nn.Linear(6, 1), nn.Linear(6, 4)

    def forward(self, x):
        return self.key(x).softmax(1).mT @ self.value(x)


class Wrong(Pooling):
    def forward(self, x):
        return super().forward(x) + 1e-3 * self.key(x).mean()


def test_a_gradient_that_is_truly_zero_does_not_widen_the_tolerances(toy, tmp_path):
    def system(kind):
        run = lambda module, inputs, *, config, mode: {"y": module(inputs["x"])}  # noqa: E731
        return System("pooling", {"Pooling": Component(run=run, build=lambda config: kind())})

    toy.register(pooling=system(Pooling))
    inputs = {"x": torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))}
    fields = record(tmp_path / "case.json", "pooling", "Pooling", config={}, inputs=inputs)
    assert fields["rtol"] < 1e-3
    assert fields["atol"] < 1e-4
    assert verify(tmp_path / "case.json").status == "ok"
    toy.register(pooling=system(Wrong))
    assert verify(tmp_path / "case.json").status == "differs"
