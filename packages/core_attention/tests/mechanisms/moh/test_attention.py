"""Mixture of heads: skipped heads against computed ones, the gates' arithmetic, and each published form."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.moh.attention import HeadRouter, MoHAttention, Routing, keep_largest, mixture_of_heads
from core_attention.mechanisms.moh.heads import selected_heads_attention
from core_attention.mechanisms.moh.llama import MoHLlamaAttention, MoHLlamaLayer, norm_routing
from core_attention.mechanisms.moh.vit import MoHAggregatedAttention, MoHCosineAttention, relative_coordinates


def tokens(length=21, width=24, batch=2, dtype=torch.float64):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def heads_problem(queries=21, keys=21, heads=6, kv_heads=3, candidates=4, chosen=2):
    g = torch.Generator().manual_seed(0)
    shapes = [(heads, queries, 4), (kv_heads, keys, 4), (kv_heads, keys, 5)]
    q, k, v = (torch.randn(2, *s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)
    p = torch.randn(2, queries, candidates, generator=g, dtype=torch.float64).softmax(-1)
    selected = keep_largest(p, chosen)
    shared = torch.rand(2, queries, heads - candidates, generator=g, dtype=torch.float64)
    return (q, k, v), Routing(torch.cat([shared, p * selected], -1), selected, p)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("queries", "kv_heads", "candidates", "chosen"),
    [(21, 3, 4, 2), (21, 3, 3, 1), (7, 6, 6, 2), (1, 1, 5, 1), (21, 2, 4, 4), (21, 6, 4, 0)],
)
def test_skipped_heads_equal_computed_ones(causal, padded, queries, kv_heads, candidates, chosen):
    inputs, routing = heads_problem(queries=queries, kv_heads=kv_heads, candidates=candidates, chosen=chosen)
    mask = None
    if padded:
        mask = torch.rand(2, 21, generator=torch.Generator().manual_seed(2)) > 0.3
        mask[0, :6] = False
    results = []
    for skip in (True, False):
        out = mixture_of_heads(*inputs, routing, mask=mask, causal=causal, skip=skip)
        probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad((out * probe).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_many_tiles_of_selected_queries(monkeypatch):
    monkeypatch.setattr("core_attention.mechanisms.moh.heads.ROWS", 3)
    (q, k, v), routing = heads_problem()
    out = selected_heads_attention(q[:, 2:], k, v, routing.selected, kv_head=[1, 1, 2, 2], causal=True)
    full = F.scaled_dot_product_attention(q[:, 2:], *(x[:, [1, 1, 2, 2]] for x in (k, v)), is_causal=True)
    torch.testing.assert_close(out, full * routing.selected.transpose(1, 2)[..., None])


def test_gradcheck():
    (q, k, v), routing = heads_problem(queries=5, keys=7, heads=3, kv_heads=3, candidates=3, chosen=1)

    def run(q, k, v):
        return selected_heads_attention(q, k, v, routing.selected, causal=True)

    assert torch.autograd.gradcheck(run, (q, k, v), fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("shared", [1, 3])
def test_gates_sum_as_published(shared):
    router, x = HeadRouter(24, 8, shared=shared, routed=2).double(), tokens()
    gates, selected, _ = router(x)
    kinds = 2 * (x @ router.wg_0.weight.T).softmax(-1)
    torch.testing.assert_close(gates[..., :shared].sum(-1), shared * kinds[..., 0])
    torch.testing.assert_close(gates[..., shared:].sum(-1), 2 * kinds[..., 1])
    assert ((gates[..., shared:] != 0).sum(-1) == 2).all()
    assert torch.equal(gates[..., shared:] != 0, selected)


def test_the_papers_gates_are_not_rescaled():
    router, x = HeadRouter(24, 8, shared=3, routed=2, gate_scale="paper").double(), tokens()
    gates, selected, p = router(x)
    kinds = (x @ router.wg_0.weight.T).softmax(-1)
    torch.testing.assert_close(gates[..., :3], (x @ router.wg_1.weight.T).softmax(-1) * kinds[..., :1])
    torch.testing.assert_close(gates[..., 3:], p * selected * kinds[..., 1:])


@pytest.mark.parametrize(("shared", "routed"), [(0, 8), (1, 7), (3, 5), (8, 0)])
def test_uniform_gates_are_ordinary_attention(shared, routed):
    module = MoHAttention(24, 8, shared=shared, routed=routed).double()
    for layer in (module.router.wg, module.router.wg_0, module.router.wg_1):
        if layer is not None:
            nn.init.zeros_(layer.weight)
    x = tokens()
    q, k, v = module.qkv(x).unflatten(-1, (3, 8, 3)).permute(2, 0, 3, 1, 4)
    expected = module.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    y, loss = module(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(loss, torch.tensor(float(routed), dtype=torch.float64))


def test_balance_loss_of_uniform_and_of_lopsided_routing():
    p = torch.full((2, 6, 4), 0.25, dtype=torch.float64)
    turning = torch.stack([keep_largest(torch.eye(4).roll(i, 0)[0], 1) for i in range(4)]).repeat(3, 1).view(2, 6, 4)
    torch.testing.assert_close(Routing(p, turning, p).balance_loss(), torch.tensor(1.0, dtype=torch.float64))
    one = torch.zeros_like(p)
    one[..., 2] = 1
    assert Routing(one, one.bool(), one).balance_loss() == 4
    assert Routing(p, None, None).balance_loss() == 0


def test_gradients_reach_the_router_but_not_unselected_outputs():
    module, x = MoHAttention(24, 8, shared=3, routed=2).double(), tokens()
    y, loss = module(x)
    (y.sum() + loss).backward()
    for layer in (module.router.wg, module.router.wg_0, module.router.wg_1):
        assert layer.weight.grad.abs().sum() > 0
    (q, k, v), routing = heads_problem()
    out = mixture_of_heads(q, k, v, routing)
    (grad,) = torch.autograd.grad(out.sum(), q)
    unselected = ~routing.selected.transpose(1, 2)
    assert (grad[:, 2:][unselected] == 0).all()
    changed = q.detach().clone()
    changed[:, 2:][unselected] += 5.0
    assert torch.equal(mixture_of_heads(changed, k, v, routing), out)


def test_cross_attention_and_masks():
    module = MoHAttention(24, 6, shared=2, routed=2, context_dim=10, head_dim=5).double()
    x, context = tokens(), tokens(9, 10)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 5:] = False
    y, _ = module(x, context, mask=mask)
    alone, _ = module(x[:1], context[:1, :5])
    torch.testing.assert_close(y[:1], alone)
    full = mask[:, None, None].expand(2, 1, 21, 9)
    torch.testing.assert_close(module(x, context, mask=full)[0], y)
    with pytest.raises(ValueError, match="context_dim=10, and was given context=None"):
        module(x)


@pytest.mark.parametrize("kv_heads", [2, 8])
@pytest.mark.parametrize("router", ["norm", "learned"])
@torch.no_grad()
def test_decoding_equals_the_full_forward(kv_heads, router):
    torch.manual_seed(0)
    module = MoHLlamaAttention(24, 8, head_dim=4, num_kv_heads=kv_heads, shared=3, routed=2, router=router).double()
    x = tokens(15)
    cache = module.new_cache()
    parts = [module(part, cache=cache)[0] for part in x.split([6, 1, 1, 4, 1, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x)[0])
    assert cache.length == 15
    torch.testing.assert_close(module(x, skip=False)[0], module(x)[0])


def test_all_heads_kept_is_llama():
    module = MoHLlamaAttention(24, 6, num_kv_heads=2, shared=3, routed=3).double()
    plain = MoHLlamaAttention(24, 6, num_kv_heads=2, shared=6, routed=0).double()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(tokens())[0], plain(tokens())[0])
    assert MoHLlamaAttention(32, 8).shared == 4
    assert MoHLlamaAttention(32, 8).routed == 2


def test_norm_routing_by_hand():
    q = torch.tensor([3.0, 1.0, 5.0, 2.0]).view(1, 4, 1, 1)
    routing = norm_routing(q, shared=1, routed=1)
    z = torch.tensor([1.0, 5.0, 2.0])
    torch.testing.assert_close(routing.probabilities[0, 0], (z / z.std()).softmax(-1))
    assert routing.gates[0, 0].tolist() == [1, 0, 1, 0]
    assert norm_routing(q, shared=3, routed=1).gates[0, 0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equal_norms_are_finite_and_keep_the_first(dtype):
    routing = norm_routing(torch.ones(1, 6, 3, 4, dtype=dtype), shared=2, routed=2)
    assert routing.probabilities.isfinite().all()
    assert routing.gates[0].tolist() == [[1, 1, 1, 1, 0, 0]] * 3
    module = MoHLlamaLayer(16, 4, inner=8).to(dtype)
    assert module(torch.zeros(1, 3, 16, dtype=dtype))[0].isfinite().all()


def test_straight_through_gradient():
    q = torch.randn(1, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    hard = norm_routing(q, shared=2, routed=2)
    soft = norm_routing(q, shared=2, routed=2, straight_through=True)
    assert not hard.gates.requires_grad
    torch.testing.assert_close(soft.gates, hard.gates)
    (grad,) = torch.autograd.grad(soft.gates.sum(), q, retain_graph=True)
    (expected,) = torch.autograd.grad((soft.probabilities * soft.selected).sum(), q)
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-9)
    module = MoHLlamaAttention(24, 6, shared=3, routed=1).double()
    module(tokens())[0].sum().backward()
    with_gradient = module.q_proj.weight.grad.clone()
    module.zero_grad()
    module.straight_through = False
    module(tokens())[0].sum().backward()
    assert not torch.allclose(with_gradient, module.q_proj.weight.grad)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_aggregated_attention_equals_the_unfolded_definition(window):
    torch.manual_seed(0)
    grid, heads, dim = (6, 8), 4, 6
    module = MoHAggregatedAttention(24, heads, grid, shared=1, routed=2, window=window, pool=2).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = tokens(48)
    y, _ = module(x)

    def of(t, count):
        return t.unflatten(-1, (count * heads, dim)).transpose(1, 2).chunk(count, dim=1)

    q = F.normalize(of(module.q(x), 1)[0], dim=-1)
    k, v = of(module.kv(x), 2)
    unfolded = [
        F.unfold(t.transpose(2, 3).reshape(2 * heads, dim, *grid), window, padding=window // 2)
        .view(2, heads, dim, window**2, 48)
        .permute(0, 1, 4, 2, 3)
        for t in (F.normalize(k, dim=-1), v)
    ]
    valid = F.unfold(torch.ones(1, 1, *grid), window, padding=window // 2)[0].T > 0
    pooled = F.gelu(module.sr(x.transpose(1, 2).unflatten(-1, grid)))
    pooled = module.norm(F.adaptive_avg_pool2d(pooled, (3, 4)).flatten(2).transpose(1, 2))
    pool_k, pool_v = of(module.kv(pooled), 2)
    scaled = (q + module.query_embedding) * F.softplus(module.temperature) * (valid.sum(-1) + 12).log()[:, None]
    local = (scaled[..., None, :] @ unfolded[0]).squeeze(-2) + module.relative_pos_bias_local[:, None]
    far = scaled @ F.normalize(pool_k, dim=-1).mT + module.position_bias()
    weights = torch.cat([local.masked_fill(~valid, -math.inf), far], -1).softmax(-1)
    near, rest = weights.split([window**2, 12], -1)
    near = near + q @ module.learnable_tokens + module.learnable_bias
    out = (unfolded[1] @ near[..., None]).squeeze(-1) + rest @ pool_v
    gates = module.router(x).gates
    torch.testing.assert_close(y, module.proj((out.transpose(1, 2) * gates[..., None]).flatten(2)))


def test_position_bias_is_kept_only_for_the_same_parameters():
    module = MoHCosineAttention(24, 4, (3, 5), shared=1, routed=2)
    x = tokens(15, dtype=torch.float32)
    with torch.no_grad():
        first = module.position_bias()
        assert module.position_bias() is first
        before = module(x)[0]
        module.cpb_fc2.weight.add_(0.5)
        assert module.position_bias() is not first
        assert not torch.allclose(module(x)[0], before)
    assert module.position_bias().requires_grad


def test_coordinates_of_a_pooled_grid():
    index, table = relative_coordinates((4, 4), (2, 2))
    assert index.shape == (64,)
    # query (0, 0) and the pooled key of rows and columns 0, 1, which stands at 0.5
    c = 8 * -0.5 / 3
    expected = -math.log2(abs(c) + 1) / 3
    torch.testing.assert_close(table[index[0]], torch.tensor([expected, expected]))
    assert len(table) == len(table.unique(dim=0))
    wider = relative_coordinates((4, 4), (4, 4), pretrain=(7, 7))
    assert wider.table.abs().max() < relative_coordinates((4, 4), (4, 4)).table.abs().max()
    assert relative_coordinates((1, 1), (1, 1)).table.tolist() == [[0.0, 0.0]]


def test_capture_records_gates_and_weights():
    module, x = MoHAttention(24, 8, shared=3, routed=2).double(), tokens()
    plain = module(x)[0]
    with capture(module, rows=[3, 20]) as maps:
        y, _ = module(x)
    assert torch.equal(y, plain)
    (layer,) = maps
    gates, weights = maps.all(layer, "gates")[0], maps[layer]
    torch.testing.assert_close(gates[:, 0], module.router(x).gates[:, [3, 20]])
    assert weights.shape == (2, 8, 2, 21)
    assert torch.equal(weights.sum(-1) > 0.5, gates[:, 0].transpose(1, 2) != 0)
    for module in (
        MoHAggregatedAttention(24, 4, (4, 6), shared=2, routed=1, pool=2).double(),
        MoHCosineAttention(24, 4, (4, 6), shared=2, routed=1).double(),
    ):
        with capture(module) as maps:
            module(tokens(24))
        (layer,) = maps
        assert set(maps.kinds(layer)) == {"weights", "gates"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("causal", [False, True])
def test_bad_queries_stay_in_their_rows(bad, causal):
    (q, k, v), routing = heads_problem()
    q = q.detach().clone()
    q[0, :, 7] = bad
    out = mixture_of_heads(q, k.detach(), v.detach(), routing, causal=causal)
    chosen = routing.gates[0, 7].repeat_interleave(5) != 0
    assert not out[0, 7, chosen].isfinite().any()
    out[0, 7] = 0
    assert out.isfinite().all()


def test_half_precision_strides_and_nothing():
    (q, k, v), routing = heads_problem()
    out = mixture_of_heads(q, k, v, routing)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(mixture_of_heads(*strided, routing), out)
    one = [x[:, :1].expand(-1, 3, -1, -1) for x in (k, v)]
    torch.testing.assert_close(
        mixture_of_heads(q, *one, routing), mixture_of_heads(q, *(x.contiguous() for x in one), routing)
    )
    half = [x.detach().to(torch.bfloat16) for x in (q, k, v)]
    torch.testing.assert_close(mixture_of_heads(*half, routing).double(), out, rtol=5e-2, atol=3e-2)
    large = [x.detach().half() * 200 for x in (q, k)]
    assert mixture_of_heads(*large, v.detach().half(), routing).isfinite().all()
    module = MoHAttention(24, 8, shared=3, routed=2)
    assert module(torch.zeros(0, 5, 24))[0].shape == (0, 5, 24)
    assert module(torch.zeros(2, 0, 24))[0].shape == (2, 0, 24)
    (q, k, v), routing = heads_problem(keys=0)
    assert (mixture_of_heads(q, k, v, routing) == 0).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo, at the frame of the type checker
@pytest.mark.parametrize(
    "module",
    [
        MoHAttention(24, 8, shared=3, routed=2, causal=True),
        MoHLlamaAttention(24, 6, num_kv_heads=3, shared=3, routed=1),
        MoHAggregatedAttention(24, 4, (4, 6), shared=2, routed=1, pool=2),
    ],
    ids=["dit", "llama", "vit"],
)
def test_compiles_and_autocasts(module):
    x = tokens(24, dtype=torch.float32).requires_grad_()
    expected = module(x)[0]
    out = torch.compile(module, backend="aot_eager")(x)[0]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected)]
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, loss = module(x)
    assert y.isfinite().all()
    assert loss.isfinite()


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_what_was_given():
    with pytest.raises(ValueError, match="of 8 heads, 9 cannot be shared"):
        HeadRouter(24, 8, shared=9, routed=0)
    with pytest.raises(ValueError, match="5 cannot be shared and 4 of the other 3 be chosen"):
        HeadRouter(24, 8, shared=5, routed=4)
    with pytest.raises(ValueError, match="with no routed head all 8 must be shared, got 4"):
        HeadRouter(24, 8, shared=4, routed=0)
    with pytest.raises(ValueError, match="'code' or 'paper', got 'both'"):
        HeadRouter(24, 8, shared=4, routed=2, gate_scale="both")
    with pytest.raises(ValueError, match="multiple of num_heads unless head_dim is given, got 25 and 8"):
        MoHAttention(25, 8, shared=4, routed=2)
    with pytest.raises(ValueError, match="got 24, 8 and 3"):
        MoHLlamaAttention(24, 8, num_kv_heads=3)
    with pytest.raises(ValueError, match="window must be odd, got 2"):
        MoHAggregatedAttention(24, 4, (4, 4), shared=4, routed=0, window=2)
    with pytest.raises(ValueError, match=r"a grid of \(4, 4\) cannot be pooled by 8"):
        MoHAggregatedAttention(24, 4, (4, 4), shared=4, routed=0, pool=8)
    with pytest.raises(ValueError, match=r"expected \(batch, 16, 24\) for a grid of \(4, 4\), got \(2, 15, 24\)"):
        MoHCosineAttention(24, 4, (4, 4), shared=4, routed=0)(torch.zeros(2, 15, 24))
    with pytest.raises(ValueError, match=r"expected \(batch, tokens, 24\), got \(2, 5, 8\)"):
        MoHAttention(24, 8, shared=3, routed=2)(torch.zeros(2, 5, 8))
    (q, k, v), routing = heads_problem()
    with pytest.raises(ValueError, match=r"gates \(2, 21, 6\) are not .* of q \(2, 6, 9, 4\)"):
        mixture_of_heads(q[:, :, :9], k, v, routing)
    with pytest.raises(ValueError, match=r"multiple of key heads: q \(2, 6, 21, 4\), k \(2, 4, 21, 4\)"):
        mixture_of_heads(q, k.repeat(1, 2, 1, 1)[:, :4], v.repeat(1, 2, 1, 1)[:, :4], routing)
    with pytest.raises(ValueError, match=r"selected be \(batch, queries, heads\): .*selected \(2, 21, 4\)"):
        selected_heads_attention(q, k, v, routing.selected)
    with pytest.raises(ValueError, match=r"key_mask must be \(batch, keys\) = \(2, 21\), got \(2, 3\)"):
        selected_heads_attention(q[:, 2:], k, v, routing.selected, kv_head=[0] * 4, key_mask=torch.ones(2, 3).bool())
    with pytest.raises(ValueError, match=r"kv_head must name one of 3 key heads for each of 4 heads, got \[0, 3\]"):
        selected_heads_attention(q[:, 2:], k, v, routing.selected, kv_head=[0, 3])
