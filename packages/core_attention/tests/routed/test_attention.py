"""Routed attention: tiles equal the dense definition, gradients too, and behaviour at the edges is defined."""

import jaxtyping
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core_attention.routed.attention import merge_attention, routed_attention
from core_attention.routed.plan import plan, problem
from core_attention.routed.routes import RouteIndex, RouteMask, RouteThreshold, dense_mask, sorted_index


@pytest.fixture
def unchecked():
    """Switches the signatures' own shape checks off, so that the errors users see are tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def qkv(batch=2, heads=4, kv_heads=2, queries=37, keys=37, dim=8, value_dim=8, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, value_dim)]
    return [torch.randn(batch, *s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def routes(kind, batch, heads, queries, keys, query_block, key_block, seed=1):
    g = torch.Generator().manual_seed(seed)
    rows, columns = -(-queries // query_block), -(-keys // key_block)
    if kind == "mask":
        return RouteMask(torch.rand(batch, heads, rows, columns, generator=g) > 0.5, query_block, key_block)
    if kind == "index":
        return RouteIndex(torch.randint(-1, columns, (batch, heads, rows, 3), generator=g), query_block, key_block)
    score = torch.randint(0, 6, (batch, heads, keys), generator=g).double()
    limit = torch.randint(0, 7, (batch, heads, queries), generator=g).double()
    limit[..., 0], limit[..., 1] = torch.inf, -torch.inf
    tie = torch.randint(0, keys, (batch, heads, queries), generator=g)
    return RouteThreshold(score, limit, tie if kind == "tie" else None)


def both(q, k, v, route, leaves=None, **options):
    """Output, log-sum-exp and gradients of the tiles and of the definition."""
    g = torch.Generator().manual_seed(7)
    probe = torch.randn(*q.shape[:3], v.shape[3], generator=g, dtype=torch.float64).to(q.dtype)
    probe_lse = torch.randn(q.shape[:3], generator=g, dtype=torch.float64)
    found = []
    for backend in ("tiles", "reference"):
        out, lse = routed_attention(q, k, v, route, backend=backend, return_lse=True, **options)
        loss = (out * probe).sum() + torch.where(lse == -torch.inf, 0, lse * probe_lse).sum()
        found.append((out, lse, *torch.autograd.grad(loss, leaves or [q, k, v])))
    return zip(*found, strict=True)


def same(pairs, rtol=1e-9, atol=1e-10):
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


SIZES = [(2, 4, 2, 37, 37), (1, 4, 4, 24, 37), (2, 6, 1, 20, 64)]
BLOCKS = [(1, 16), (8, 8), (1, 4), (33, 7), (5, 20)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["mask", "index"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_blocks_equal_the_definition(shape, kind, causal):
    batch, heads, kv_heads, queries, keys = shape
    q, k, v = qkv(*shape, value_dim=6)
    for query_block, key_block in BLOCKS:
        for route_heads in {1, kv_heads, heads}:
            route = routes(kind, 1 if route_heads == 1 else batch, route_heads, queries, keys, query_block, key_block)
            same(both(q, k, v, route, causal=causal))


@pytest.mark.parametrize("kind", ["limit", "tie"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_thresholds_equal_the_definition(shape, kind, monkeypatch):
    monkeypatch.setattr("core_attention.routed.plan.QUERY_STRETCH", 16)
    batch, heads, kv_heads, queries, keys = shape
    q, k, v = qkv(*shape)
    for route_heads in {1, kv_heads, heads}:
        for causal in (False, True):
            same(both(q, k, v, routes(kind, batch, route_heads, queries, keys, 1, 1), causal=causal))


@pytest.mark.parametrize("kind", ["mask", "index", "tie"])
def test_padding_and_bias_of_keys(kind):
    q, k, v = qkv()
    bias = torch.randn(1, 2, 37, dtype=torch.float64).requires_grad_()
    real = torch.rand(2, 37) > 0.4
    for blocks in ((1, 16), (8, 8)):
        route = routes(kind, 2, 4, 37, 37, *blocks)
        same(both(q, k, v, route, leaves=[q, k, v, bias], causal=True, key_mask=real, key_bias=bias, scale=0.3))


def test_slabs_of_a_large_masked_tile(monkeypatch):
    monkeypatch.setattr("core_attention.routed.tiles.BIASED", 100)
    monkeypatch.setattr("core_attention.routed.tile.SCORES", 100)
    q, k, v = qkv()
    same(both(q, k, v, routes("index", 1, 1, 37, 37, 20, 10), causal=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_lower_precisions(dtype, tolerance):
    for blocks in ((1, 16), (8, 8)):
        q, k, v = qkv(dtype=dtype, dim=16, value_dim=16)
        bias = torch.randn(2, 1, 37).requires_grad_()
        pairs = both(q, k, v, routes("mask", 2, 4, 37, 37, *blocks), leaves=[q, k, v, bias], key_bias=bias)
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance * 3)


def test_all_blocks_is_full_attention():
    q, k, v = qkv(queries=40, keys=40)
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    route = RouteMask(torch.ones(1, 1, 5, 4, dtype=torch.bool), 8, 10)
    torch.testing.assert_close(routed_attention(q, k, v, route), full)


def test_merging_parts_over_disjoint_keys():
    q, k, v = qkv()
    mask = routes("mask", 2, 4, 37, 37, 4, 8).mask
    whole = RouteMask(mask, 4, 8)
    half = torch.arange(5) % 2 == 0
    parts = [RouteMask(mask & half, 4, 8), RouteMask(mask & ~half, 4, 8)]
    out, lse = merge_attention([routed_attention(q, k, v, part, return_lse=True) for part in parts])
    expected, expected_lse = routed_attention(q, k, v, whole, return_lse=True)
    same([(out, expected), (lse, expected_lse)])
    same(
        zip(
            torch.autograd.grad(out.sin().sum(), [q, k, v]),
            torch.autograd.grad(expected.sin().sum(), [q, k, v]),
            strict=True,
        )
    )
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_attention([])


def test_a_tile_takes_as_many_query_blocks_as_the_cache_holds():
    q, route = torch.zeros(1, 2, 49 * 64, 32), RouteIndex(torch.arange(4).expand(1, 1, 49, 4), 64, 64)
    sizes = problem(q, q, q, route, False, None)
    for elements, tiles in (
        (1 << 19, 4),
        (1 << 18, 7),
        (1, 49),
    ):  # 2 heads × 4 blocks × 64 keys × 64 elements a query block
        assert len(list(plan(sizes, route, elements)[0])) == tiles


def test_lists_are_sorted_once_each_and_without_the_future():
    route = RouteIndex(torch.tensor([[[[2, 0, 2, -1], [3, 1, 1, 1], [-1, -1, -1, -1]]]]), 4, 4)
    assert sorted_index(route, 12, 16).tolist() == [[[[0, 2], [1, 3], [-1, -1]]]]
    assert sorted_index(route, 12, 16, causal=True).tolist() == [[[[0], [1], [-1]]]]


def test_rows_that_see_nothing_are_zero_with_zero_gradient():
    q, k, v = qkv()
    route = RouteMask(torch.zeros(1, 1, 37, 3, dtype=torch.bool), 1, 16)
    out, lse = routed_attention(q, k, v, route, return_lse=True)
    assert not out.any()
    assert (lse == -torch.inf).all()
    assert not any(g.any() for g in torch.autograd.grad(out.sum(), [q, k, v]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["index", "mask", "tie"])
def test_what_is_not_finite_in_a_query_stays_in_its_row(kind, value):
    for blocks in ((1, 16), (8, 8)):
        q, k, v = (t.detach().float() for t in qkv())
        route = routes(kind, 2, 4, 37, 37, *blocks)
        seen = dense_mask(route, 37, 37)[:, :, 5].any(-1)
        clean = routed_attention(q, k, v, route)
        spoiled = q.clone()
        spoiled[:, :, 5] = value
        out = routed_attention(spoiled, k, v, route)
        others = torch.arange(37) != 5
        assert torch.equal(out[:, :, others], clean[:, :, others])
        assert out[:, :, 5].isnan().all(-1).equal(seen)


def test_half_precision_scores_beyond_its_range():
    q = torch.full((1, 1, 4, 8), 200.0, dtype=torch.float16)  # scores of 320000
    out = routed_attention(q, q, q, RouteMask(torch.ones(1, 1, 4, 1, dtype=torch.bool), 1, 16), scale=1.0)
    assert torch.equal(out, q)


def test_strided_and_expanded_inputs():
    q, k, v = qkv()
    route = routes("mask", 2, 1, 37, 37, 8, 8)
    expected = routed_attention(q, k, v, route)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    torch.testing.assert_close(routed_attention(*strided, route), expected)
    wide = [t[:1, :1].expand(2, 4, -1, -1) for t in (q, k, v)]
    torch.testing.assert_close(routed_attention(*wide, route), routed_attention(*(t.contiguous() for t in wide), route))


@pytest.mark.parametrize(("queries", "keys", "batch"), [(0, 5, 1), (5, 0, 1), (0, 0, 1), (5, 5, 0)])
def test_empty(queries, keys, batch):
    q, k, v = qkv(batch=batch, queries=queries, keys=keys)
    out, lse = routed_attention(q, k, v, routes("mask", 1, 1, queries, keys, 4, 4), return_lse=True)
    assert out.shape == (batch, 4, queries, 8)
    assert not out.any()
    assert (lse == -torch.inf).all()
    (out.sum() + lse.sum()).backward()


def test_errors_quote_both_shapes(unchecked):
    q, k, v = qkv()
    route = routes("mask", 2, 4, 37, 37, 4, 8)
    with pytest.raises(ValueError, match=r"dim must agree.*\(2, 4, 37, 8\).*\(2, 2, 37, 7\)"):
        routed_attention(q, k[..., :7], v, route)
    with pytest.raises(ValueError, match=r"multiple of the key heads.*\(2, 3, 37, 8\)"):
        routed_attention(q[:, :3], k, v, route)
    with pytest.raises(ValueError, match=r"\(2, 4, 10, 5\) name 10 query blocks.*have 8"):
        routed_attention(q[:, :, :30], k, v, route)
    with pytest.raises(ValueError, match=r"names 5 key blocks.*have 4"):
        routed_attention(q, k[:, :, :30], v[:, :, :30], route)
    with pytest.raises(ValueError, match="heads 1, 2 or 4"):
        routed_attention(q, k, v, RouteMask(route.mask[:, :3], 4, 8))
    with pytest.raises(ValueError, match="positive"):
        routed_attention(q, k, v, RouteMask(route.mask, 0, 8))
    with pytest.raises(ValueError, match="index 9 is beyond the last of 5 key blocks"):
        routed_attention(q, k, v, RouteIndex(torch.full((1, 1, 10, 1), 9), 4, 8))
    with pytest.raises(ValueError, match=r"key mask \(2, 36\)"):
        routed_attention(q, k, v, route, key_mask=torch.ones(2, 36, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"key bias \(2, 4, 37\)"):
        routed_attention(q, k, v, route, key_bias=torch.ones(2, 4, 37))
    with pytest.raises(ValueError, match="dtypes must agree"):
        routed_attention(q.float(), k, v, route)
    with pytest.raises(ValueError, match="unknown backend"):
        routed_attention(q, k, v, route, backend="cuda")
    with pytest.raises(ValueError, match=r"threshold \(2, 4, 36\)"):
        routed_attention(q, k, v, RouteThreshold(torch.zeros(2, 4, 37), torch.zeros(2, 4, 36)))
    with pytest.raises(ValueError, match="not one per key"):
        routed_attention(q, k, v, RouteThreshold(torch.zeros(2, 4, 36), torch.zeros(2, 4, 37)))


def test_compiles_without_a_break(unhooked):
    """In a process of its own: the tests' shape checks are Python that torch.compile cannot trace."""
    code = """
import torch
from core_attention.routed.attention import routed_attention
from core_attention.routed.routes import RouteMask, RouteThreshold
q, k, v = (torch.randn(1, h, 37, 8, requires_grad=True) for h in (4, 2, 2))
mask = torch.rand(1, 4, 37, 3) > 0.4
score, limit = torch.randn(1, 2, 37), torch.randn(1, 2, 37)
def loss(q, k, v, mask, score, limit):
    blocks = routed_attention(q, k, v, RouteMask(mask, 1, 16), causal=True)
    keys = routed_attention(q, k, v, RouteThreshold(score, limit), key_bias=score.abs())
    return (blocks.sin() + keys.cos()).sum()
compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
rest = mask, score, limit
for a, b in zip(*(torch.autograd.grad(f(q, k, v, *rest), [q, k, v]) for f in (loss, compiled))):
    torch.testing.assert_close(a, b)
"""
    unhooked(code)


def test_autocast(unchecked):
    q, k, v = qkv(dtype=torch.float32)
    route = routes("mask", 2, 4, 37, 37, 1, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = routed_attention(q, k.double(), v, route)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), routed_attention(q, k, v, route), rtol=3e-2, atol=3e-2)


def test_operators_are_sound():
    """Schema, fake tensors and autograd registration of the opaque operators."""
    q, k, v = qkv(batch=1, heads=2, kv_heads=1, queries=9, keys=9)
    mask = routes("mask", 1, 1, 9, 9, 1, 16).mask
    torch.library.opcheck(
        torch.ops.core_attention.routed.default, (q, k, v, None, [mask], None, 1, 16, True, 0.3, False)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["mask", "index", "limit"])
def test_operations_are_those_of_the_seen_pairs(kind, causal):
    q, k, v = qkv(value_dim=6)
    for blocks in ((1, 16), (5, 20)):
        route = routes(kind, 1, 2, 37, 37, *blocks)
        pairs = int(dense_mask(route, 37, 37, causal=causal).sum()) * 2 * 2  # batch, and two query heads a route head
        with FlopCounterMode(display=False) as counter:
            out = routed_attention(q, k, v, route, causal=causal)
        assert counter.get_total_flops() == 2 * pairs * (8 + 6)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 5 * pairs * (8 + 6)
