"""Random problems for every mechanism that has a readable definition beside its fast path: forward and gradients, a seed a problem.

A failure names the seed: ``pytest -k 'dma-17'`` runs it again. A quick slice runs always, the rest is `slow`.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core_attention.factorised.attention import Reach, Tables, factorised_attention, factorised_reference
from core_attention.mechanisms.biformer.attention import (
    bi_level_routing_attention,
    bi_level_routing_attention_reference,
)
from core_attention.mechanisms.dma.attention import dynamic_mask_attention
from core_attention.mechanisms.landmark.attention import landmark_attention
from core_attention.mechanisms.moh.attention import HeadRouter, mixture_of_heads
from core_attention.mechanisms.vmoba.attention import mixture_of_blocks
from core_attention.mechanisms.vmoba.moba import moba_attention

QUICK, SLOW = 6, 150
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}

Call = Callable[..., Tensor]
Problem = tuple[Call, Call, list[Tensor]]  # fast path, definition, and the tensors that are differentiated


class Draw:
    """Random sizes and tensors of one seed."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.choose.choice([torch.float64, torch.float64, torch.float32])

    def size(self, low: int, high: int) -> int:
        return self.choose.randint(low, high)

    def either(self, *values: Any) -> Any:
        return self.choose.choice(values)

    def tensor(self, *shape: int) -> Tensor:
        """Normal values, in memory as drawn, with two axes exchanged, or as every other element of something larger."""
        layout = self.either("plain", "plain", "exchanged", "strided")
        if layout == "exchanged" and len(shape) > 2:
            turned = torch.randn(
                *shape[:-3], shape[-2], shape[-3], shape[-1], generator=self.generator, dtype=self.dtype
            )
            return turned.transpose(-3, -2)
        if layout == "strided":
            return torch.randn(*shape[:-1], 2 * shape[-1], generator=self.generator, dtype=self.dtype)[..., ::2]
        return torch.randn(*shape, generator=self.generator, dtype=self.dtype)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) > self.either(0.1, 0.5)

    def heads(self) -> tuple[int, int]:
        kv_heads = self.size(1, 3)
        return kv_heads * self.size(1, 3), kv_heads


def dma(draw: Draw) -> Problem:
    batch, keys, dim = draw.size(0, 3), draw.size(1, 90), draw.size(1, 9)
    queries, (heads, kv_heads) = draw.size(1, keys), draw.heads()
    inputs = [
        draw.tensor(batch, heads, queries, dim),
        draw.tensor(batch, kv_heads, keys, dim),
        draw.tensor(batch, kv_heads, keys, draw.size(1, 7)),
        draw.tensor(batch, draw.either(1, kv_heads, heads), 1, keys),
    ]
    options = {"window": draw.size(1, keys + 5), "causal": draw.either(True, False), "scale": draw.either(None, 0.3)}
    options["selection"] = draw.either("per_query", "shared")
    options["mask"] = draw.either(
        None, draw.mask(batch, keys), draw.mask(batch, draw.either(1, kv_heads, heads), 1, keys)
    )
    return (
        lambda *x: dynamic_mask_attention(*x, **options),
        lambda *x: dynamic_mask_attention(*x, backend="reference", **options),
        inputs,
    )


def landmark(draw: Draw) -> Problem:
    batch, keys, dim = draw.size(0, 2), draw.size(1, 70), draw.size(1, 9)
    queries, (heads, kv_heads) = draw.size(1, keys), draw.heads()
    inputs = [
        draw.tensor(batch, heads, queries, dim),
        draw.tensor(batch, kv_heads, keys, dim),
        draw.tensor(batch, kv_heads, keys, draw.size(1, 7)),
    ]
    options: dict[str, Any] = {"scale": draw.either(None, 0.3)}
    if draw.either(True, True, False):
        options["block"] = draw.size(1, 20)
    else:
        options["is_landmark"] = draw.mask(keys)
        options["mask"] = draw.either(None, draw.mask(batch, keys))
    return (
        lambda *x: landmark_attention(*x, **options),
        lambda *x: landmark_attention(*x, backend="reference", **options),
        inputs,
    )


def moh(draw: Draw) -> Problem:
    batch, tokens, dim = draw.size(0, 3), draw.size(1, 40), draw.size(1, 8)
    heads, kv_heads = draw.heads()
    shared = draw.size(0, heads - 1)
    router = HeadRouter(12, heads, shared=shared, routed=draw.size(1, heads - shared)).to(draw.dtype)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw.generator))
        routing = router(draw.tensor(batch, tokens, 12))
    causal = draw.either(True, False)
    mask = draw.either(None, draw.mask(batch, tokens))
    if mask is not None and tokens:
        mask[:, 0] = True
    inputs = [draw.tensor(batch, n, tokens, dim) for n in (heads, kv_heads, kv_heads)]
    return (
        lambda *x: mixture_of_heads(*x, routing, causal=causal, mask=mask),
        lambda *x: mixture_of_heads(*x, routing, causal=causal, mask=mask, skip=False),
        inputs,
    )


def moba(draw: Draw) -> Problem:
    batch, tokens, dim = draw.size(1, 2), draw.size(1, 80), draw.size(1, 8)
    heads, kv_heads = draw.heads()
    options = {"block": draw.size(1, 24), "topk": draw.size(1, 4)}
    inputs = [draw.tensor(batch, n, tokens, dim) for n in (heads, kv_heads, kv_heads)]
    return (
        lambda *x: moba_attention(*x, **options),
        lambda *x: moba_attention(*x, backend="reference", **options),
        inputs,
    )


def vmoba(draw: Draw) -> Problem:
    batch, dim = draw.size(1, 2), draw.size(1, 8)
    grid = draw.size(1, 4), draw.size(1, 5), draw.size(1, 5)
    heads, kv_heads = draw.heads()
    chunk = draw.either(1, 2, (2, 3), (2, 2, 2), (1, 3, 2))
    options = {"grid": grid, "chunk": chunk, "group": draw.either("head_global", "query_head", "overall")}
    options |= draw.either({"tau": draw.choose.random()}, {"topk": draw.size(1, 4)})
    options["pool"] = draw.either("sample", "packed")
    tokens = grid[0] * grid[1] * grid[2]
    inputs = [draw.tensor(batch, n, tokens, dim) for n in (heads, kv_heads, kv_heads)]
    return (
        lambda *x: mixture_of_blocks(*x, **options),
        lambda *x: mixture_of_blocks(*x, backend="reference", **options),
        inputs,
    )


def biformer(draw: Draw) -> Problem:
    batch, regions, heads = draw.size(1, 2), draw.size(1, 9), draw.size(1, 3)
    queries, keys, width = draw.size(1, 6), draw.size(1, 6), heads * draw.size(1, 4)
    topk = draw.size(1, regions)
    index = torch.rand(batch, regions, regions, generator=draw.generator).argsort(-1)[..., :topk]
    weight = draw.either(None, draw.tensor(batch, regions, topk).softmax(-1))
    options = {"num_heads": heads, "scale": 0.4, "weight": weight}
    inputs = [draw.tensor(batch, regions, n, width) for n in (queries, keys, keys)]
    return (
        lambda *x: bi_level_routing_attention(*x, index, **options),
        lambda *x: bi_level_routing_attention_reference(*x, index, **options),
        inputs,
    )


def mvpa(draw: Draw) -> Problem:
    batch, columns, dim = draw.size(1, 2), draw.size(1, 6), draw.size(1, 6)
    key_rows, (heads, kv_heads) = draw.size(1, 8), draw.heads()
    rows = draw.size(1, key_rows)
    causal = draw.either(True, False)
    window = draw.either(None, draw.size(0, 4)) if causal else None
    reach = Reach(
        causal=causal, window=window, full_last=draw.either(True, False), content=draw.either(True, True, False)
    )
    inputs = [
        draw.tensor(batch, heads, rows, columns, dim),
        draw.tensor(batch, kv_heads, key_rows, columns, dim),
        draw.tensor(batch, kv_heads, key_rows, columns, dim),
        draw.tensor(draw.either(1, kv_heads), key_rows if causal else 2 * key_rows - 1, dim),
        draw.tensor(draw.either(1, kv_heads), 2 * columns - 1, dim),
    ]
    return (
        lambda q, k, v, r, s: factorised_attention(q, k, v, Tables(r, s), reach),
        lambda q, k, v, r, s: factorised_reference(q, k, v, Tables(r, s), reach),
        inputs,
    )


MECHANISMS = {f.__name__: f for f in (dma, landmark, moh, moba, vmoba, biformer, mvpa)}


def differences(fast: Call, definition: Call, inputs: list[Tensor], seed: int) -> None:
    """Compares outputs, and the gradients of one weighting of them.

    Raises:
        AssertionError: they differ; names the seed and the shapes.
    """
    results = []
    for call in (fast, definition):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = call(*leaves)
        probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        gradients = torch.autograd.grad((out * probe).sum(), leaves, allow_unused=True)
        results.append(
            [out.detach(), *(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, inputs, strict=True))]
        )
    for place, (ours, theirs) in enumerate(zip(*results, strict=True)):
        limit = TOLERANCE[inputs[0].dtype]
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        what = "output" if place == 0 else f"gradient {place - 1}"
        shapes = [tuple(x.shape) for x in inputs]
        message = f"seed {seed}: the {what} differs, shapes {shapes}, {inputs[0].dtype}"
        assert ours.shape == theirs.shape, message
        assert torch.allclose(ours, theirs, rtol=limit, atol=limit * max(scale, 1.0), equal_nan=True), message


def seeds(count: int, slow: int) -> list[Any]:
    quick = [pytest.param(seed, id=f"{seed}") for seed in range(count)]
    return quick + [pytest.param(seed, id=f"{seed}", marks=pytest.mark.slow) for seed in range(count, slow)]


@pytest.mark.parametrize("seed", seeds(QUICK, SLOW))
@pytest.mark.parametrize("name", MECHANISMS)
def test_equals_the_definition(name, seed):
    differences(*MECHANISMS[name](Draw(seed)), seed)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_wrong_result_is_found_and_its_seed_named(name):
    """Sabotage: results a thousandth off, and gradients of half the size."""
    seed = next(s for s in range(50) if MECHANISMS[name](Draw(s))[2][0].numel() > 8)
    fast, definition, inputs = MECHANISMS[name](Draw(seed))
    with pytest.raises(AssertionError, match=rf"seed {seed}: the output differs"):
        differences(lambda *x: fast(*x) + 1e-2, definition, inputs, seed)
    with pytest.raises(AssertionError, match=rf"seed {seed}: the gradient \d differs"):
        differences(lambda *x: 0.5 * (y := fast(*x)) + 0.5 * y.detach(), definition, inputs, seed)
