"""The Triton kernels of MVPA against the definition: in Triton's interpreter here, on the device under ``-m gpu``; and that they compile."""

import pytest
import torch

from core_attention.factorised import triton as kernels
from core_attention.factorised.attention import Reach, Tables, factorised_reference, relative_bias

BOUNDS = {"float32": 5e-6, "float16": 2e-2, "bfloat16": 8e-2}

# batch, kv heads, heads of a group, query rows, key rows, columns, dim, reach, dtype
CASES = {
    "window, last row full": (2, 2, 2, 4, 4, 3, 8, Reach(True, 1, True), "float32"),
    "continued": (1, 1, 2, 2, 4, 5, 16, Reach(True, 1), "float32"),
    "several blocks": (1, 1, 2, 3, 3, 18, 20, Reach(True, 1, True), "float32"),
    "both ways": (1, 2, 1, 3, 3, 3, 8, Reach(), "float32"),
    "no content": (1, 1, 2, 3, 3, 3, 8, Reach(True, content=False), "float32"),
    "half": (2, 1, 2, 3, 3, 3, 8, Reach(True, 1, True), "float16"),
    "bfloat16": (1, 1, 2, 3, 3, 3, 8, Reach(True, 1, True), "bfloat16"),
}
LARGE = {
    f"{dtype} {dim}": (2, 2, 3, 14, 14, 70, dim, Reach(True, 3, True), dtype)
    for dtype in ("float32", "bfloat16")
    for dim in (64, 128)
}


def difference(name, device="cpu"):
    """Largest difference from the definition in float64 of output and gradients, in units of the dtype's bound."""
    batch, kv_heads, group, rows, key_rows, columns, dim, reach, dtype = (CASES | LARGE)[name]
    g = torch.Generator().manual_seed(0)
    table = key_rows if reach.causal else 2 * key_rows - 1
    shapes = [
        (batch, kv_heads * group, rows, columns, dim),
        *[(batch, kv_heads, key_rows, columns, dim)] * 2,
        (kv_heads, table, dim),
        (kv_heads, 2 * columns - 1, dim),
        *[(kv_heads, dim)] * 3,
    ]
    drawn = [(torch.randn(*shape, generator=g) * 0.5).to(getattr(torch, dtype)).to(device) for shape in shapes]
    mask = torch.rand(batch, columns, generator=g).to(device) > 0.2
    mask[:, 0] = True
    found = []
    for kind in (drawn[0].dtype, torch.float64):
        leaves = [t.to(kind).requires_grad_() for t in drawn]
        q, k, v, tables = *leaves[:3], Tables(*leaves[3:])
        definition = kind == torch.float64
        y = (factorised_reference if definition else through_kernels)(q, k, v, tables, reach, column_mask=mask)
        probe = torch.linspace(-1, 1, y.numel(), device=device).view_as(y)
        grads = torch.autograd.grad(
            (y.to(torch.promote_types(y.dtype, torch.float32)) * probe).sum(), leaves, allow_unused=True
        )
        found.append(
            [y, *(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(grads, leaves, strict=True))]
        )
    return (
        max((a.double() - b).abs().div(1 + b.abs()).max().item() for a, b in zip(*found, strict=True)) / BOUNDS[dtype]
    )


def through_kernels(q, k, v, tables, reach, *, column_mask):
    """`factorised_attention` of the kernels, which its own rule would refuse on the CPU."""
    wide = Tables(*(t.float() for t in tables))
    by_row, by_column = relative_bias(q.float(), wide, key_rows=k.shape[2], kv_heads=k.shape[1])
    content = (q.unflatten(1, (k.shape[1], -1)) + tables.u[:, None, None, None]).flatten(1, 2)
    scale = q.shape[-1] ** -0.5
    return kernels.factorised(
        content,
        k,
        v,
        by_row * scale,
        (by_column * scale).masked_fill(~column_mask[:, None, None, None], -torch.inf),
        scale=scale,
        causal=reach.causal,
        window=-1 if reach.window is None else reach.window,
        full_last=reach.full_last,
        content=reach.content,
    )


def compiled(capability, element, dim):
    """Shared memory of the three kernels, compiled for a CUDA device that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constant = {"dim": dim, "CAUSAL": True, "WINDOW": 10, "FULL_LAST": True, "CONTENT": True}
    constant |= {"BLOCK_M": kernels.BLOCK, "BLOCK_N": kernels.BLOCK, "BLOCK_D": dim}
    types = dict.fromkeys(("rows", "cols", "lse", "delta", "d_rows", "d_cols"), "*fp32") | {"scale": "fp32"}
    types |= dict.fromkeys(("query_rows", "key_rows", "columns", "heads", "group"), "i32")
    shared = []
    for kernel in (kernels._forward_kernel, kernels._query_kernel, kernels._key_kernel):
        signature = {n: "constexpr" if n in constant else types.get(n, f"*{element}") for n in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constant)
        shared.append(triton.compile(source, target=GPUTarget("cuda", capability, 32)).metadata.shared)
    return shared


@pytest.fixture(scope="module")
def interpreted(interpreted_script):
    small = "cases.kernels.BLOCK = 16\n"  # several blocks
    return interpreted_script(small + "print(json.dumps({name: cases.difference(name) for name in cases.CASES}))")


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_are_the_definition(name, interpreted):
    assert interpreted[name] <= 1


@pytest.mark.gpu
def test_kernels_are_the_definition(script):
    worst = script("print(json.dumps({n: cases.difference(n, 'cuda') for n in [*cases.CASES, *cases.LARGE]}))")
    assert {name: by for name, by in worst.items() if by > 1} == {}


@pytest.mark.gpu
def test_auto_takes_the_kernels_and_flex_agrees(script):
    work = """
import torch
from core_attention.factorised.attention import factorised_attention
torch.manual_seed(0)
q, k, v = (torch.randn(1, h, 6, 20, 64, device="cuda", dtype=torch.bfloat16) for h in (4, 2, 2))
tables = cases.Tables(*(torch.randn(2, n, 64, device="cuda", dtype=torch.bfloat16) for n in (6, 39)))
y = {b: factorised_attention(q, k, v, tables, cases.Reach(True, 2, True), backend=b) for b in ("auto", "triton", "flex", "tiles")}
print(json.dumps([bool((y["auto"] == y["triton"]).all()), *((y["tiles"] - y[b]).abs().max().item() for b in ("triton", "flex"))]))
"""
    same, *errors = script(work)
    assert same
    assert max(errors) < 0.05


@pytest.mark.slow
def test_compiles_for_ampere_and_hopper(script):
    work = "print(json.dumps([cases.compiled(c, e, d) for c, e, d in ((80, 'fp32', 64), (90, 'bf16', 128))]))"
    shared = script(work)
    assert max(max(each) for each in shared) <= 160 * 1024


def test_what_the_kernels_refuse():
    assert "CUDA" in kernels.unusable(torch.zeros(1, 1, 1, 1, 8), 0.0)
