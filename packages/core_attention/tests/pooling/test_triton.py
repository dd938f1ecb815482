"""The Triton kernels of attention pooling: under the interpreter (which has no bfloat16 products), and on a GPU where there is one."""

import pytest
import torch

INTERPRETED = """
import torch
from core_attention.pooling import triton as kernels
from core_attention.pooling.attention import attention_pool
from core_attention.pooling.stream import part, score
from core_attention.pooling.weights import Weights

torch.manual_seed(0)
for gated, n, dim, hidden, rows, dtype in [
    (True, 70, 40, 24, 5, torch.float32),
    (True, 3, 33, 7, 1, torch.float16),
    (False, 150, 48, 48, 40, torch.float32),
    (False, 1, 16, 16, 3, torch.float16),
]:
    h = torch.randn(n, dim).to(dtype)
    gate, gate_bias = (torch.randn(2 * hidden, dim) * 0.2, torch.randn(2 * hidden)) if gated else (None, None)
    given = None, gate, gate_bias, torch.randn(rows, hidden), torch.randn(rows)
    weights = Weights(*(None if w is None else w.to(dtype) for w in given))
    exact = score(h.double(), Weights(*(None if w is None else w.double() for w in weights)))
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    found = kernels.score(h, weights)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < bound, (gated, dtype, (found - exact).abs().max())
    for ours, theirs in zip(kernels.part(found, h), part(found.double(), h.double())):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max(), (dtype, ours, theirs)
kernels.PIECE = 64  # several pieces
found = torch.randn(150, 3)
found[:70, 1] = float("-inf")
found[:, 2] = float("-inf")
h = torch.randn(150, 20)
for ours, theirs in zip(kernels.part(found, h), part(found, h)):
    torch.testing.assert_close(ours, theirs)

shapes = dict(x=(90, 12), project_weight=(20, 12), gate_weight=(16, 20), gate_bias=(16,), score_weight=(4, 8))
leaves = {k: torch.randn(shape, requires_grad=True) for k, shape in shapes.items()}
segments = torch.arange(90) // 33
both = []
for options in (dict(backend="triton", chunk=40), dict(backend="torch", chunk=None)):
    out = attention_pool(**leaves, segments=segments, **options)
    objective = out.pooled.square().sum() + out.scores.sum()
    both.append([out.pooled, out.scores, *torch.autograd.grad(objective, list(leaves.values()))])
for ours, theirs in zip(*both):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
try:
    attention_pool(**{k: v.double() for k, v in leaves.items()}, backend="triton")
    raise SystemExit("float64 was taken")
except ValueError as error:
    assert "float64" in str(error)
"""


def test_interpreted_kernels_match_torch(interpreter):
    interpreter(INTERPRETED)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_gpu(dtype):
    from core_attention.pooling.attention import attention_pool

    torch.manual_seed(0)
    parts = {
        "project_weight": torch.randn(512, 1024) / 32,
        "gate_weight": torch.randn(256, 512) / 20,
        "gate_bias": torch.randn(256),
        "score_weight": torch.randn(5, 128) / 10,
        "score_bias": torch.randn(5),
    }
    parts = {k: v.cuda().requires_grad_() for k, v in parts.items()}
    x = torch.randn(100_000, 1024, device="cuda", dtype=dtype)
    fast, plain = (attention_pool(x, **parts, backend=backend) for backend in ("triton", "torch"))
    bound = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(fast.pooled, plain.pooled, rtol=bound, atol=bound)
    torch.testing.assert_close(fast.scores, plain.scores, rtol=bound, atol=bound)
    grads = [torch.autograd.grad(out.pooled.sum(), list(parts.values())) for out in (fast, plain)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=10 * bound, atol=10 * bound)
