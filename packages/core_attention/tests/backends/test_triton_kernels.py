"""The Triton kernel against the definition: in Triton's interpreter here, on the device under ``-m gpu``; and that it compiles for CUDA."""

import pytest
import torch

from core_attention.attention import attention
from core_attention.backends import triton_kernels as kernels
from core_attention.masks import Causal, Factorised, KeyLengths, Segments, Window

BOUNDS = {"float32": 5e-6, "float16": 2e-2, "bfloat16": 8e-2}


def cases():
    """Name → (shape of q, shape of k, value width, mask, dtype)."""
    g = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0] * 5 + [1] * 13 + [2] * 3, [0] * 17 + [3] * 3 + [-1]])
    shuffled = torch.randint(-1, 3, (1, 21), generator=g)
    grid = Factorised(torch.randn(1, 2, 21, 3, generator=g), torch.randn(1, 2, 21, 7, generator=g))
    q, k = (2, 2, 21, 8), (2, 1, 21, 8)
    one = (1, 2, 21, 8), (1, 1, 21, 8)
    return {
        "no mask": ((1, 2, 19, 20), (1, 2, 37, 20), 9, None, "float32"),
        "causal, grouped heads": (*one, 20, Causal(), "float32"),
        "causal over a cache": ((1, 2, 5, 8), (1, 1, 21, 8), 8, Causal(16), "float32"),
        "first rows see nothing": (*one, 8, Causal(-18), "float32"),
        "window": (*one, 8, Window(4, 3), "float32"),
        "lengths": (q, k, 8, KeyLengths(torch.tensor([0, 18])), "float32"),
        "segments": (q, k, 8, Segments(ids), "float32"),
        "segments in any order": (*one, 8, Segments(shuffled), "float32"),
        "all at once": (
            q,
            k,
            8,
            Causal() & Window(20, None) & Segments(ids) & KeyLengths(torch.tensor([21, 15])),
            "float32",
        ),
        "factorised": (*one, 8, grid, "float32"),
        "half": (*one, 8, Causal(), "float16"),
        "bfloat16": (*one, 8, Causal(), "bfloat16"),
    }


def large():
    """Every tile size, several blocks of it."""
    mask = Causal() & Window(100, None)
    return {
        f"{dtype} {width}": ((2, 4, 333, width), (2, 2, 333, width), width, mask, dtype)
        for dtype in ("bfloat16", "float32")
        for width in (64, 128, 256)
    }


def difference(name, device="cpu"):
    """Largest difference from the reference of output, log-sum-exp and gradients, in units of the dtype's bound."""
    q_shape, k_shape, value_width, mask, dtype = (cases() | large())[name]
    kind = getattr(torch, dtype)
    found = []
    for backend in ("triton", "reference"):
        g = torch.Generator().manual_seed(1)
        shapes = (q_shape, k_shape, (*k_shape[:3], value_width))
        q, k, v = (torch.randn(s, generator=g).to(kind).to(device).requires_grad_() for s in shapes)
        out, lse = attention(q, k, v, mask=mask, backend=backend, return_lse=True)
        seen = lse.masked_fill(lse == -torch.inf, 0)
        loss = sum((t.float() * torch.linspace(-1, 1, t.numel(), device=device).view_as(t)).sum() for t in (out, seen))
        found.append([out, lse.exp(), *torch.autograd.grad(loss, (q, k, v))])
    return (
        max((a.float() - b.float()).abs().div(1 + b.float().abs()).max().item() for a, b in zip(*found, strict=True))
        / BOUNDS[dtype]
    )


def compiled(capability, half, width):
    """Shared memory of the three kernels, compiled for a CUDA device that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    element = "*bf16" if half else "*fp32"
    types = dict.fromkeys(("Q", "K", "V", "O", "DO", "DQ", "DK", "DV"), element) | dict.fromkeys(
        ("L", "DELTA"), "*fp32"
    )
    types |= {"LENGTHS": "*i32", "FIRST": "*i32", "LAST": "*i32", "QID": "*i64", "KID": "*i64", "scale": "fp32"}
    shared = []
    for kernel, backward in ((kernels._forward, 0), (kernels._backward_queries, 1), (kernels._backward_keys, 1)):
        tile = kernels.TILES[half, width][backward]
        constant = {"BM": tile.own, "BN": tile.step, "BD": width, "BE": width, "PRECISION": "ieee"}
        constant |= dict.fromkeys(("HAS_LENGTHS", "HAS_LOW", "HAS_HIGH", "HAS_IDS"), True)
        signature = {name: "constexpr" if name in constant else types.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constant)
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        shared.append(triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared)
    return shared


@pytest.fixture(scope="module")
def interpreted(interpreted_script):
    small = "kernels.tiles = lambda *widths, backward: kernels.Tiles(16, 16, 4, 1)\n"  # several blocks of these sizes
    small = "from core_attention.backends import triton_kernels as kernels\n" + small
    return interpreted_script(small + "print(json.dumps({name: cases.difference(name) for name in cases.cases()}))")


@pytest.mark.parametrize("name", cases())
def test_interpreted_kernel_is_the_definition(name, interpreted):
    assert interpreted[name] <= 1


@pytest.mark.gpu
def test_kernel_is_the_definition(script):
    work = "print(json.dumps({name: cases.difference(name, 'cuda') for name in [*cases.cases(), *cases.large()]}))"
    worst = script(work)
    assert {name: by for name, by in worst.items() if by > 1} == {}


@pytest.mark.slow
def test_compiles_for_ampere_and_hopper(script):
    work = "from core_attention.backends import triton_kernels as kernels\n"
    work += "print(json.dumps([cases.compiled(c, *key) for c in (80, 90) for key in kernels.TILES]))"
    shared = script(work)
    assert max(max(each) for each in shared) <= 99 * 1024


def test_runs_of_visible_positions_hold_every_visible_pair():
    ids = torch.tensor([[0, 0, 2, 1, -1, 1, 3], [5, 5, 5, -1, -1, 6, 6]])
    first, last = kernels.runs(7, 7, 2, -2, 1, ids, ids, torch.device("cpu"))
    for b in range(2):
        for i in range(7):
            seen = [j for j in range(7) if -2 <= j - i <= 1 and ids[b, i] == ids[b, j] >= 0]
            assert all(first[b, i // 2] <= j < last[b, i // 2] for j in seen)
