"""Multi-variate parallel attention: what must hold in its limits, streaming, dropout, LoRA, and bad input."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from core_attention.capture.capture import capture
from core_attention.mechanisms.mvpformer.mvpa import MVPACache, MVPFormerGQAAttention, mvpa, structured_keep

WIDTH, ROWS = 24, 20


def layer(dtype=torch.float64, **options) -> MVPFormerGQAAttention:
    torch.manual_seed(0)
    made = MVPFormerGQAAttention(WIDTH, **({"num_heads": 4, "num_kv_heads": 2} | options)).to(dtype)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def grid(time: int, channels: int, batch: int = 2, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    shapes = (batch, time, channels, WIDTH), (ROWS, WIDTH), (ROWS, WIDTH)
    return [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def spelled_out(m: MVPFormerGQAAttention, x, positions, channels):
    """The published formula, score by score."""
    batch, time, count, _ = x.shape
    dim, group = m.head_dim, m.num_heads // m.num_kv_heads
    u, w, z = m.attn_bias.view(3, m.num_kv_heads, dim)
    q = (x @ m.q_attn.weight.T).unflatten(-1, (m.num_heads, dim))
    k, v = (t.unflatten(-1, (m.num_kv_heads, dim)) for t in (x @ m.c_attn.weight.T).chunk(2, -1))
    r = (positions[:time] @ m.position_net.weight.T).unflatten(-1, (m.num_kv_heads, dim))
    s = (channels[:count] @ m.channel_net.weight.T).unflatten(-1, (m.num_kv_heads, dim))
    out = torch.zeros(batch, time, count, m.num_heads, dim, dtype=x.dtype)
    for h in range(m.num_heads):
        kv = h // group
        for t in range(time):
            for c in range(count):
                scores = []
                for past in range(t + 1):
                    for other in range(count):
                        query = q[:, t, c, h]
                        score = (query + w[kv]) @ r[time - 1 - (t - past), kv] + (query + z[kv]) @ s[
                            count - 1 - abs(c - other), kv
                        ]
                        if m.window is None or t - past <= m.window or t == time - 1:
                            score = score + ((query + u[kv]) * k[:, past, other, kv]).sum(-1)
                        scores.append(score)
                weights = (torch.stack(scores, -1) * m.scale).softmax(-1)
                out[:, t, c, h] = torch.einsum("bn,bnd->bd", weights, v[:, : t + 1, :, kv].flatten(1, 2))
    return out.flatten(3) @ m.c_proj.weight.T


@pytest.mark.parametrize(
    ("time", "channels", "window", "kv_heads"), [(5, 3, 2, 2), (4, 2, None, 1), (3, 1, 0, 4), (1, 1, 10, 2)]
)
def test_layer_is_the_published_formula(time, channels, window, kv_heads):
    m, given = layer(window=window, num_kv_heads=kv_heads), grid(time, channels)
    torch.testing.assert_close(m(*given), spelled_out(m, *given))


def test_short_grids_do_not_feel_the_window():
    given = grid(11, 2)
    torch.testing.assert_close(layer()(*given), layer(window=None)(*given))
    given = grid(13, 2)
    assert (layer()(*given) - layer(window=None)(*given))[:, 11:12].abs().max() > 1e-3
    torch.testing.assert_close(layer(window=13)(*given), layer(window=None)(*given))


def test_without_relative_terms_it_is_block_causal_attention():
    m, (x, *tables) = layer(window=None, num_kv_heads=4), grid(5, 3)
    for parameter in (m.position_net.weight, m.channel_net.weight, m.attn_bias):
        nn.init.zeros_(parameter)
    q, k, v = (t.flatten(1, 2).unflatten(-1, (4, -1)).transpose(1, 2) for t in (m.q_attn(x), *m.c_attn(x).chunk(2, -1)))
    segment = torch.arange(15) // 3
    y = scaled_dot_product_attention(q, k, v, attn_mask=segment[:, None] >= segment)
    torch.testing.assert_close(m(x, *tables), m.c_proj(y.transpose(1, 2).reshape(2, 5, 3, WIDTH)))


def test_one_channel_is_relative_attention_over_time():
    """Transformer-XL's: (q + u)·k + (q + w)·r[distance], causal."""
    m, (x, positions, channels) = layer(window=None, num_kv_heads=4), grid(6, 1)
    nn.init.zeros_(m.channel_net.weight)
    heads = lambda t: t.unflatten(-1, (4, -1)).transpose(-2, -3)  # noqa: E731
    q, k, v = (heads(t[:, :, 0]) for t in (m.q_attn(x), *m.c_attn(x).chunk(2, -1)))
    u, w, _ = m.attn_bias.view(3, 4, 1, -1)
    by_distance = heads(m.position_net(positions[:6])).flip(-2)
    back = torch.arange(6)[:, None] - torch.arange(6)
    relative = ((q + w) @ by_distance.mT).gather(-1, back.clamp_min(0).expand(2, 4, 6, 6))
    weights = (((q + u) @ k.mT + relative) * m.scale).masked_fill(back < 0, -torch.inf).softmax(-1)
    torch.testing.assert_close(m(x, positions, channels)[:, :, 0], m.c_proj((weights @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("relative_index", ["official", "distance"])
def test_causal(relative_index):
    m, (x, *tables) = layer(window=3, relative_index=relative_index), grid(8, 3)
    changed = x.clone()
    changed[:, 5] += 1
    before, after = m(x, *tables), m(changed, *tables)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert (before - after)[:, 5:].abs().amin((0, 2, 3)).min() > 0


def test_indices_by_distance_do_not_depend_on_the_grid():
    m, (x, *tables) = layer(window=3, relative_index="distance"), grid(9, 5)
    whole = m(x, *tables)
    torch.testing.assert_close(m(x[:, :6], *tables), whole[:, :6])
    official = layer(window=3)
    assert (official(x[:, :6], *tables) - official(x, *tables)[:, :6]).abs().max() > 1e-3
    # fewer channels are other keys, but their weights relate as before
    some, all_ = (m.weights(part, *tables).unflatten(-1, (9, -1)).unflatten(2, (9, -1)) for part in (x[:, :, :3], x))
    of_first = all_[..., :3, :, :3]
    torch.testing.assert_close(some, of_first / of_first.sum((-2, -1), keepdim=True))


def test_order_of_channels():
    m, (x, *tables) = layer(), grid(4, 5)
    torch.testing.assert_close(m(x.flip(2), *tables).flip(2), m(x, *tables))
    order = torch.tensor([1, 0, 2, 3, 4])
    assert (m(x[:, :, order], *tables) - m(x, *tables)[:, :, order]).abs().max() > 1e-3


def test_rows_of_weights_sum_to_one_and_the_future_is_unseen():
    m, given = layer(window=2), grid(6, 3)
    weights = m.weights(*given)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 18).double())
    segment = torch.arange(18) // 3
    assert weights[..., segment[:, None] < segment].eq(0).all()
    with capture(m, rows=[17], heads=[2]) as maps:
        m(*given)
    torch.testing.assert_close(maps["MVPFormerGQAAttention"], weights[:, [2]][:, :, [17]])


@pytest.mark.parametrize("step", [1, 3])
def test_streaming_is_the_end_of_one_call(step):
    m, (x, *tables) = layer(window=3), grid(9, 3)
    cache = m.new_cache()
    for end in range(step, 10, step):
        got = m(x[:, end - step : end], *tables, cache=cache)
        torch.testing.assert_close(got, m(x[:, :end], *tables)[:, -step:])
    saved = MVPACache()
    saved.load_state_dict(cache.state_dict())
    more = grid(1, 3)[0]
    torch.testing.assert_close(m(more, *tables, cache=saved), m(torch.cat([x, more], 1), *tables)[:, -1:])
    cache.reset()
    torch.testing.assert_close(m(x[:, :2], *tables, cache=cache), m(x[:, :2], *tables))


def test_streaming_by_distance_is_one_call_and_a_limit_forgets():
    m, (x, *tables) = layer(window=3, relative_index="distance"), grid(9, 3)
    cache = m.new_cache()
    parts = [m(part, *tables, cache=cache) for part in x.split(2, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), m(x, *tables))
    bounded = m.new_cache(limit=4)
    for t in range(9):
        got = m(x[:, t : t + 1], *tables, cache=bounded)
    assert bounded.keys.shape[2] == 4
    torch.testing.assert_close(got, m(x[:, 5:], *tables)[:, -1:])
    with pytest.raises(ValueError, match="at most the cache's 4 segments; got 9"):
        m(x, *tables, cache=bounded)
    with pytest.raises(ValueError, match=r"holds keys of .*brings"):
        m(x[:1, :1], *tables, cache=bounded)


def test_hidden_channels_are_as_absent():
    m, (x, *tables) = layer(relative_index="distance"), grid(4, 5)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    masked = m(x, *tables, mask=mask)
    torch.testing.assert_close(masked[:1, :, :3], m(x[:1, :, :3], *tables))
    torch.testing.assert_close(masked[1:], m(x[1:], *tables))


def test_structured_dropout_drops_segments_and_channels():
    torch.manual_seed(0)
    keep = torch.stack([structured_keep(6, 5, 0.3, like=torch.zeros(1)) for _ in range(2000)])[..., 0]
    assert (keep.mean(0) - 1).abs().max() < 0.1
    torch.testing.assert_close(keep.unique(), torch.tensor([0.0, 1 / 0.7]))
    kept = keep > 0
    assert (kept == kept.any(2, keepdim=True) & kept.any(1, keepdim=True)).all()  # an outer product
    m, given = layer(attention_dropout=0.5, structured_dropout=True), grid(4, 3)
    evaluated = m(*given)
    torch.testing.assert_close(m(*given), evaluated)
    m.train()
    assert (m(*given) - evaluated).abs().max() > 1e-3


def test_elementwise_dropout_is_for_training_alone():
    m, given = layer(attention_dropout=0.5), grid(4, 3)
    evaluated = m(*given)
    torch.testing.assert_close(m(*given), evaluated)
    m.train()
    torch.manual_seed(0)
    one = m(*given)
    torch.manual_seed(0)
    torch.testing.assert_close(m(*given), one)
    assert (one - evaluated).abs().max() > 1e-3


def test_lora_is_its_merged_weight_and_freezes_the_rest():
    m, given = layer(lora_rank=3, lora_alpha=6), grid(4, 3)
    assert not m.q_attn.weight.requires_grad
    assert not m.c_attn.weight.requires_grad
    merged = layer()
    state = {k: v for k, v in m.state_dict().items() if "lora" not in k}
    merged.load_state_dict(state | {f"{n}.weight": getattr(m, n).merged() for n in ("q_attn", "c_attn")})
    torch.testing.assert_close(m(*given), merged(*given))
    torch.testing.assert_close(m.c_attn.merged()[: WIDTH // 2], m.c_attn.weight[: WIDTH // 2])  # keys
    fresh = MVPFormerGQAAttention(WIDTH, num_heads=4, num_kv_heads=2, lora_rank=3)
    assert torch.equal(fresh.q_attn.merged(), fresh.q_attn.weight)
    sizes = {
        n: sum(p.numel() for p in MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4, lora_rank=r).parameters())
        for n, r in (("base", 0), ("lora", 8))
    }
    assert (sizes["lora"] - sizes["base"]) * 12 == 245_760  # of MVPFormer-S


def test_published_sizes():
    """Attention, norms and MLP of 12 layers, final norm and both tables: the transformer of MVPFormer-S."""
    attention = sum(p.numel() for p in MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4).parameters())
    assert 12 * (attention + 2 * 768 + 3 * 768 * 1728) + 768 + (110 + 128) * 768 == 71_579_904


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    m, given = layer(torch.float32), grid(13, 3, dtype=torch.float32)
    want = m(*given)
    with torch.autocast("cpu", dtype):
        got = m(*given)
        loss = got.float().square().sum()
    torch.testing.assert_close(got.float(), want, rtol=5e-2, atol=8e-2)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())
    half = m.to(dtype)(*(t.to(dtype) for t in given))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), want, rtol=5e-2, atol=8e-2)


def test_not_a_number_and_strides():
    m, (x, *tables) = layer(), grid(4, 3)
    want = m(x, *tables)
    torch.testing.assert_close(m(x.transpose(1, 2).contiguous().transpose(1, 2), *(t[None] for t in tables)), want)
    spoiled = x.clone()
    spoiled[0, 2] = float("nan")
    got = m(spoiled, *tables)
    torch.testing.assert_close(got[1], want[1])
    torch.testing.assert_close(got[0, :2], want[0, :2])


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    m, (x, positions, channels) = layer(), grid(4, 3)
    for given, message in (
        ((x[0], positions, channels), r"\(batch, time, channels, 24\).*\(4, 3, 24\)"),
        ((x[:, :, :0], positions, channels), r"only the batch may be empty; got \(2, 4, 0, 24\)"),
        ((x[:, :0], positions, channels), r"only the batch may be empty; got \(2, 0, 3, 24\)"),
        ((x[..., 1:], positions, channels), r"24\).*got \(2, 4, 3, 23\)"),
        ((x, positions[:3], channels), r"positions is \(4 or more, 24\); got \(3, 24\)"),
        ((x, positions, channels[:2]), r"channels is \(3 or more, 24\); got \(2, 24\)"),
        ((x, positions[:, 1:], channels), r"got \(20, 23\)"),
    ):
        with pytest.raises(ValueError, match=message):
            m(*given)
    with pytest.raises(ValueError, match=r"\(2, 3\); got \(3, 2\)"):
        m(x, positions, channels, mask=torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="got 3, 4 and 24"):
        MVPFormerGQAAttention(24, num_heads=4, num_kv_heads=3)
    with pytest.raises(ValueError, match="got 5, 5 and 24"):
        MVPFormerGQAAttention(24, num_heads=5, num_kv_heads=5)
    with pytest.raises(ValueError, match="relative_index"):
        MVPFormerGQAAttention(24, num_heads=4, num_kv_heads=2, relative_index="start")
    with pytest.raises(TypeError):
        MVPFormerGQAAttention(24, num_heads=4, num_kv_heads=2, layers=3)
    q, k = torch.zeros(1, 2, 3, 4, 8), torch.zeros(1, 1, 3, 4, 8)
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 4, 8\); got \(1, 2, 8\) and \(1, 4, 8\)"):
        mvpa(q, k, k, torch.zeros(1, 2, 8), torch.zeros(1, 4, 8))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiles_in_one_graph():
    m, given = layer(torch.float32, window=1), grid(4, 3, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(m, backend="aot_eager", fullgraph=True)
    weights = list(m.parameters())
    for a, b in zip(*(torch.autograd.grad(f(*given).square().sum(), weights) for f in (m, compiled)), strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_last_segments_ask():
    layer = MVPFormerGQAAttention(32, num_heads=4, num_kv_heads=2).eval()
    x, positions, channels = torch.randn(2, 13, 3, 32), torch.randn(16, 32), torch.randn(4, 32)
    torch.testing.assert_close(layer(x, positions, channels, queries=2), layer(x, positions, channels)[:, -2:])
    with pytest.raises(ValueError, match="from 1 to the 13"):
        layer(x, positions, channels, queries=14)
