"""Random attention problems against the definition: shapes, masks in combination, dtypes, layouts, scales; forward and gradients.

A failure names its seed: ``compare(seed)`` repeats it. The quick slice is always the same; ``-m slow`` runs ten times as many.
"""

import random

import pytest
import torch

from core_attention.attention import attention
from core_attention.backends import pieces
from core_attention.masks import (
    Additive,
    Alibi,
    Blocks,
    Causal,
    Dense,
    Factorised,
    KeyLengths,
    RelativePosition,
    Segments,
    Window,
)

pytestmark = pytest.mark.usefixtures("unchecked")

QUICK, MANY = 150, 1500
# relative, and absolute for values around 1
BOUNDS = {
    torch.float64: (1e-9, 1e-10),
    torch.float32: (2e-4, 2e-5),
    torch.float16: (1e-2, 1e-2),
    torch.bfloat16: (5e-2, 7e-2),
}


class Problem:
    """One random problem; everything follows from the seed."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        pick = self.random.choice
        self.seed = seed
        self.dtype = pick([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
        self.batch, self.kv_heads, self.group = pick([1, 1, 2, 3]), pick([1, 2]), pick([1, 1, 2])
        self.heads = self.kv_heads * self.group
        self.queries, self.keys = pick([1, 2, 7, 16, 33, 70]), pick([1, 3, 8, 16, 40, 66])
        if self.random.random() < 0.4:
            self.keys = self.queries
        self.width, self.value_width = pick([1, 4, 8, 17]), pick([4, 8, 9])
        self.scale = pick([None, None, 0.3, 1.7, 0.0, -0.4])
        self.return_lse = self.random.random() < 0.3
        self.dropout = pick([0.0, 0.0, 0.0, 0.4])
        self.budget = pick([64 * 2**20, 3000, 400])
        self.shapes = [
            (self.heads, self.queries, self.width),
            (self.kv_heads, self.keys, self.width),
            (self.kv_heads, self.keys, self.value_width),
        ]
        self.tensors = [self.laid_out((self.batch, *shape)) for shape in self.shapes]
        self.learned: list[torch.Tensor] = []
        self.mask = self.any_mask()
        self.bias = self.any_bias() if self.random.random() < 0.4 else None

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def flags(self, *shape):
        return torch.rand(*shape, generator=self.generator) < 0.6

    def laid_out(self, shape):
        """A tensor whose memory lies in one of the ways that users have."""
        values = self.normal(*shape).to(self.dtype)
        way = self.random.randrange(4)
        if way == 1:
            return values.transpose(1, 2).contiguous().transpose(1, 2)
        if way == 2:
            return torch.stack([values, values], -1)[..., 0]
        if way == 3:
            return values[:1].expand(shape)
        return values

    def any_mask(self, depth=0):
        kinds = [self.causal, self.window, self.lengths, self.segments, self.blocks, self.dense]
        if depth == 0 and self.random.random() < 0.15:
            return None
        if depth < 2 and self.random.random() < 0.4:
            one, other = self.any_mask(depth + 1), self.any_mask(depth + 1)
            sign = self.random.choice("&&|~")
            return one & other if sign == "&" else one | other if sign == "|" else ~one & other
        return self.random.choice(kinds)()

    def causal(self):
        return Causal(self.random.choice([0, 0, 2, -2]), align=self.random.choice(["start", "end"]))

    def window(self):
        left, right = self.random.choice([None, 0, 3, 20]), self.random.choice([None, 0, 2, 30])
        return Window(left, right, self.random.choice([0, self.keys - self.queries]))

    def lengths(self):
        count = self.random.choice([1, self.batch])
        return KeyLengths(torch.randint(0, self.keys + 1, (count,), generator=self.generator))

    def segments(self):
        count = self.random.choice([1, self.batch])
        ids = [torch.randint(-1, 4, (count, n), generator=self.generator) for n in (self.queries, self.keys)]
        if self.random.random() < 0.6:
            ids = [one.sort(-1).values for one in ids]
        return Segments(ids[0]) if self.queries == self.keys and self.random.random() < 0.5 else Segments(*ids)

    def blocks(self):
        rows, columns = self.random.choice([1, 5, 16]), self.random.choice([1, 4, 32])
        counts = -(-self.queries // rows), -(-self.keys // columns)
        return Blocks(
            self.flags(self.random.choice([1, self.batch]), self.random.choice([1, self.heads]), *counts),
            (rows, columns),
        )

    def dense(self):
        shape = [self.batch, self.heads, self.queries, self.keys]
        return Dense(self.flags(*[self.random.choice([1, n]) for n in shape[:3]], self.keys))

    def any_bias(self):
        width = next(n for n in (8, 4, 3, 2, 1) if self.keys % n == 0)
        kind = self.random.randrange(4)
        if kind == 0:
            shape = [self.batch, self.heads, self.queries]
            tensors = [self.normal(*[self.random.choice([1, n]) for n in shape], self.keys)]
            make = Additive
        elif kind == 1:
            tensors = [self.normal(1, self.heads, self.queries, n) for n in (self.keys // width, width)]
            make = Factorised
        elif kind == 2:
            tensors = [self.normal(self.random.choice([1, self.heads])).abs()]
            make = lambda t: Alibi(t, 1)  # noqa: E731
        else:
            tensors = [self.normal(self.random.choice([1, self.heads]), 2 * self.random.choice([0, 3, 50]) + 1)]
            make = lambda t: RelativePosition(t, -1)  # noqa: E731
        if self.random.random() < 0.6:
            self.learned = [t.requires_grad_() for t in tensors]
        return make(*tensors)

    def __str__(self):
        return (
            f"seed {self.seed}: {self.dtype}, q k v {[tuple(t.shape) for t in self.tensors]}, strides {[t.stride() for t in self.tensors]}, "
            f"mask {self.mask}, bias {self.bias}, scale {self.scale}, dropout {self.dropout}, lse {self.return_lse}, budget {self.budget}"
        )


def results(problem, backend):
    """Outputs and the gradients of everything that can have one."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in problem.tensors]
    torch.manual_seed(problem.seed)
    found = attention(
        *leaves,
        mask=problem.mask,
        bias=problem.bias,
        scale=problem.scale,
        dropout=problem.dropout,
        return_lse=problem.return_lse,
        backend=backend,
    )
    outputs = list(found) if problem.return_lse else [found]
    total = 0
    for output in outputs:
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        total = total + (output.masked_fill(output == -torch.inf, 0) * weights).sum()
    grads = torch.autograd.grad(total, [*leaves, *problem.learned])
    return [*outputs, *grads]


def compare(seed):
    """What is wrong with the problem of a seed; None if both agree."""
    problem = Problem(seed)
    before, pieces.BUDGET = pieces.BUDGET, problem.budget
    try:
        ours, theirs = results(problem, "auto"), results(problem, "reference")
    finally:
        pieces.BUDGET = before
    names = [
        "output",
        *(["log-sum-exp"] if problem.return_lse else []),
        "dq",
        "dk",
        "dv",
        *["d bias"] * len(problem.learned),
    ]
    relative, absolute = BOUNDS[problem.dtype]
    for name, one, other in zip(names, ours, theirs, strict=True):
        largest = other[other.isfinite()].abs().max().item() if other.isfinite().any() else 0.0
        if name == "d bias" and isinstance(problem.bias, Alibi):
            # a slope's gradient adds up each pair's times its distance, and so does what low precision rounds away: torch's own attention
            # is as far from float64 (seed 1148: both 0.073)
            largest = max(largest, problem.queries / 2, problem.keys / 2)
        if not torch.allclose(one.double(), other.double(), rtol=relative, atol=absolute * max(1.0, largest)):
            return f"{name} differs by {(one.double() - other.double()).abs().max():.3g} (largest {largest:.3g}) in {problem}"
    return None


def wrong(seeds):
    found = []
    for seed in seeds:
        try:
            what = compare(seed)
        except Exception as error:
            what = f"{type(error).__name__}: {error} in {Problem(seed)}"
        if what is not None:
            found.append(what)
    return found


def test_random_problems():
    assert not wrong(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(QUICK, MANY, 150))
def test_many_random_problems(start):
    assert not wrong(range(start, start + 150))


@pytest.mark.parametrize("fault", ["band", "hidden", "segments", "gradient", "dropout"])
def test_a_fault_is_noticed(fault, monkeypatch):
    from core_attention.backends import cpu

    if fault == "band":
        real = pieces.in_band
        monkeypatch.setattr(
            pieces, "in_band", lambda band, *rest: real((band[0], None if band[1] is None else band[1] + 1), *rest)
        )
    elif fault == "hidden":
        monkeypatch.setattr(
            KeyLengths,
            "allowed",
            lambda self, size, part, device: (
                None if part.rows is not None else self.lengths.new_ones(1, 1, 1, 1).bool()
            ),
        )
    elif fault == "segments":
        monkeypatch.setattr(pieces, "_groups", lambda ids: pieces._runs(ids.sort().values))
    elif fault == "gradient":
        real_put = cpu.put
        monkeypatch.setattr(cpu, "put", lambda *args, add=False: real_put(*args))
    else:
        real_factors = cpu.factors
        monkeypatch.setattr(
            cpu,
            "factors",
            lambda dropout, size, part, device: real_factors(dropout, size, part._replace(batch=None), device)[:1],
        )
    assert any("differs by" in what for what in wrong(range(60)))
