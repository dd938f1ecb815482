"""The routed kernel against the definition: in Triton's interpreter here, on the device under ``-m gpu``; and that it compiles for CUDA."""

import pytest
import torch

from core_attention.routed.attention import routed_attention
from core_attention.routed.lists import Tiles, make_lists
from core_attention.routed.routes import RouteIndex, RouteMask, RouteThreshold

BOUNDS = {"float32": 5e-6, "float16": 2e-2, "bfloat16": 8e-2}
SMALL = Tiles(16, 16, 4, 1)


def cases():
    """Name → (heads, key heads, queries, keys, width, value width, route, options, dtype)."""
    g = torch.Generator().manual_seed(0)

    def mask(heads, rows, columns, qb, kb, batch=1):
        return RouteMask(torch.rand(batch, heads, rows, columns, generator=g) > 0.5, qb, kb)

    score = torch.randint(0, 5, (1, 1, 41), generator=g).float()
    limit = torch.randint(0, 6, (1, 1, 41), generator=g).float()
    limit[..., 0], limit[..., 1] = torch.inf, -torch.inf
    tie = torch.randint(0, 41, (1, 1, 41), generator=g)
    real = torch.rand(2, 41, generator=g) > 0.3
    index = torch.tensor([[[[0, -1, 1], [1, 1, -1]], [[-1, -1, -1], [1, 0, 0]]]])
    return {
        "whole tiles": (2, 2, 41, 70, 8, 8, RouteIndex(index, 33, 35), {}, "float32"),
        "whole tiles, causal": (2, 1, 64, 64, 8, 12, RouteIndex(index, 32, 32), {"causal": True}, "float32"),
        "a bit a row": (2, 2, 41, 70, 8, 8, mask(2, 41, 2, 1, 35), {}, "float32"),
        "a bit a row, causal, grouped": (2, 1, 41, 41, 8, 8, mask(2, 21, 2, 2, 40), {"causal": True}, "float32"),
        "a bit a pair": (2, 2, 41, 41, 8, 8, mask(1, 6, 9, 7, 5), {}, "float32"),
        "keys longer, causal, masked": (2, 1, 20, 41, 8, 8, mask(1, 20, 2, 1, 32, 2), {"causal": True, "key_mask": real}, "float32"),
        "threshold": (2, 1, 41, 41, 8, 8, RouteThreshold(score, limit), {}, "float32"),
        "threshold, ties, causal": (2, 2, 41, 41, 8, 8, RouteThreshold(score, limit, tie), {"causal": True}, "float32"),
        "bias": (2, 1, 41, 41, 20, 8, mask(2, 2, 2, 32, 32), {"key_bias": torch.randn(1, 1, 41, generator=g)}, "float32"),
        "half": (2, 2, 41, 70, 8, 8, mask(2, 41, 2, 1, 35), {}, "float16"),
        "bfloat16": (2, 2, 41, 70, 8, 8, mask(2, 41, 2, 1, 35), {"key_bias": torch.randn(1, 2, 70, generator=g)}, "bfloat16"),
    }  # fmt: skip


def large():
    """Every tile size, several blocks of it."""
    g = torch.Generator().manual_seed(3)
    found = {}
    for dtype in ("bfloat16", "float32"):
        for width in (64, 128, 256):
            route = RouteMask(torch.rand(1, 4, 333, 5, generator=g) > 0.5, 1, 80)
            found[f"{dtype} {width}"] = (4, 2, 333, 333, width, width, route, {"causal": True}, dtype)
    return found


def to(thing, device):
    """Tensors of a route or an option on a device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    values = {
        name: to(value, device) if isinstance(value, torch.Tensor) else value for name, value in vars(thing).items()
    }
    return type(thing)(**values)


def difference(name, device="cpu", backend="triton"):
    """Largest difference from the reference of output, log-sum-exp and gradients, in units of the dtype's bound."""
    heads, kv_heads, queries, keys, width, value_width, route, options, dtype = (cases() | large())[name]
    batch = 2 if "key_mask" in options else 1
    found = []
    for one in (backend, "reference"):
        g = torch.Generator().manual_seed(1)
        shapes = ((heads, queries, width), (kv_heads, keys, width), (kv_heads, keys, value_width))
        leaves = [
            torch.randn(batch, *s, generator=g).to(getattr(torch, dtype)).to(device).requires_grad_() for s in shapes
        ]
        more = {key: to(value, device) if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        if "key_bias" in more:
            leaves.append(more["key_bias"].requires_grad_())
        out, lse = routed_attention(*leaves[:3], to(route, device), backend=one, return_lse=True, **more)
        seen = lse.masked_fill(lse == -torch.inf, 0)
        loss = sum((t.float() * torch.linspace(-1, 1, t.numel(), device=device).view_as(t)).sum() for t in (out, seen))
        found.append([out, lse.exp(), *torch.autograd.grad(loss, leaves)])
    worst = max(
        (a.float() - b.float()).abs().div(1 + b.float().abs()).max().item() for a, b in zip(*found, strict=True)
    )
    return worst / BOUNDS[dtype]


def spoiled():
    """Whether a query that is not a number, and one that sees nothing, leave all others alone."""
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 1, 41, 8, generator=g) for _ in range(3))
    mask = torch.ones(1, 1, 41, 2, dtype=torch.bool)
    mask[:, :, 5] = False
    route = RouteMask(mask, 1, 32)
    clean = routed_attention(q, k, v, route, backend="triton")
    q[:, :, 5:7] = torch.nan
    k.requires_grad_()
    out = routed_attention(q, k, v, route, backend="triton")
    others = [i for i in range(41) if i not in (5, 6)]
    (grad,) = torch.autograd.grad(
        routed_attention(q[:, :, :6], k, v, RouteMask(mask[:, :, :6], 1, 32), backend="triton").sum(), k
    )
    return [
        torch.equal(out[:, :, others], clean[:, :, others]),
        not bool(out[:, :, 5].any()),
        bool(out[:, :, 6].isnan().all()),
        bool(grad.isfinite().all()),
    ]


def compiled(capability, half, width, mode):
    """Shared memory of the three kernels, compiled for a CUDA device that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from core_attention.routed import triton_kernels as kernels
    from core_attention.routed.triton import CANDIDATES

    types = dict.fromkeys(("Q", "K", "V", "O", "DO", "DQ", "DK", "DV"), "*bf16" if half else "*fp32")
    types |= dict.fromkeys(("L", "DELTA", "DBIAS", "BIAS", "SCORE", "LIMIT"), "*fp32")
    types |= {"LIST": "*i32", "COUNT": "*i32", "CHOSEN": "*u8", "KEYS": "*u8", "TIE": "*i64", "scale": "fp32"}
    shared = []
    for kernel, backward in ((kernels._forward, 0), (kernels._backward_queries, 1), (kernels._backward_keys, 1)):
        tile = CANDIDATES[half, width][backward][0]
        constant = {"BM": tile.rows, "BN": tile.keys, "BD": width, "BE": width, "PRECISION": "ieee", "MODE": mode}
        constant |= dict.fromkeys(("HAS_TIE", "HAS_KEYS", "HAS_BIAS", "CAUSAL"), True)
        signature = {name: "constexpr" if name in constant else types.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constant)
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        shared.append(triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared)
    return shared


@pytest.fixture(scope="module")
def interpreted(interpreted_script):
    small = "from core_attention.routed import triton\ntriton._tiles = lambda *rest: cases.SMALL\n"  # several tiles of these sizes
    work = "found = {name: cases.difference(name) for name in cases.cases()}\nfound['spoiled'] = cases.spoiled()\n"
    return interpreted_script(small + work + "print(json.dumps(found))")


@pytest.mark.parametrize("name", cases())
def test_interpreted_kernel_is_the_definition(name, interpreted):
    assert interpreted[name] <= 1


def test_rows_that_are_not_numbers_stay_alone(interpreted):
    assert interpreted["spoiled"] == [True, True, True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "flex"])
def test_device_is_the_definition(script, backend):
    names = (
        "[*cases.cases(), *cases.large()]" if backend == "triton" else "[n for n in cases.large() if '256' not in n]"
    )
    worst = script(f"print(json.dumps({{name: cases.difference(name, 'cuda', {backend!r}) for name in {names}}}))")
    assert {name: by for name, by in worst.items() if by > 1} == {}


@pytest.mark.slow
def test_compiles_for_ampere_and_hopper(script):
    work = (
        "from core_attention.routed.triton import CANDIDATES\n"
        "print(json.dumps([cases.compiled(c, *key, mode) for c in (80, 90) for key in CANDIDATES for mode in (1, 3)]))"
    )
    assert max(max(each) for each in script(work)) <= 99 * 1024


@pytest.mark.parametrize("name", cases())
def test_lists_name_every_tile_that_holds_a_visible_pair(name):
    from core_attention.routed.routes import dense_mask

    _, _, queries, keys, _, _, route, options, _ = cases()[name]
    causal = options.get("causal", False)
    lists = make_lists(route, queries, keys, Tiles(16, 16, 4, 1), causal=causal)
    seen = dense_mask(route, queries, keys, causal=causal)
    for own, other, (listed, count), mask in (
        (lists.query_span, lists.key_span, lists.by_query, seen),
        (lists.key_span, lists.query_span, lists.by_key, seen.transpose(2, 3)),
    ):
        covered = torch.zeros_like(mask)
        for b, h, tile in torch.cartesian_prod(*(torch.arange(n) for n in count.shape)).tolist():
            start = tile // own[1] * own[0] + tile % own[1] * 16
            stop = min(start + 16, (tile // own[1] + 1) * own[0])
            for slot in listed[b, h, tile, : count[b, h, tile]].tolist():
                first = slot // other[1] * other[0] + slot % other[1] * 16
                covered[b, h, start:stop, first : min(first + 16, (slot // other[1] + 1) * other[0])] = True
        assert not (mask & ~covered).any()


def test_the_fastest_tiles_are_kept(monkeypatch):
    """Timing itself needs a device; what is done with the times does not."""
    from core_attention.routed import triton

    class Event:
        def __init__(self, enable_timing):
            pass

        record = synchronize = lambda self: None

        def elapsed_time(self, other):
            return {16: 3.0, 32: 1.0, 64: 2.0}[ran[-1].rows]

    ran = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    candidates = [Tiles(rows, 16, 4, 1) for rows in (16, 32, 64)]
    assert triton.fastest(candidates, ran.append) == candidates[1]

    def refuse(tiles):
        from triton.runtime.errors import OutOfResources

        raise OutOfResources(2, 1, "shared memory")

    with pytest.raises(RuntimeError, match="no tile of the routed kernel fits"):
        triton.fastest(candidates, refuse)
