"""The public implementation's memory: against its definition, against the package where it is installed, and inside its transformer."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, pad, rms_norm, silu

from core_attention.mechanisms.titans.attention import SegmentedAttention
from core_attention.published.titans.memory import PublicMemoryCache, PublicNeuralMemory
from core_attention.systems import system

DIM = 6

OPTIONS = {
    "plain": {"chunk_size": 3},
    "one token a chunk": {},
    "no momentum, masked": {"chunk_size": 3, "momentum": False, "num_kv_per_token": 2},
    "batches": {
        "chunk_size": 2,
        "batch_size": 4,
        "num_heads": 2,
        "head_dim": 4,
        "max_grad_norm": 2.0,
        "qk_rmsnorm": True,
    },
    "orders": {
        "chunk_size": 2,
        "batch_size": 6,
        "momentum_order": 3,
        "learned_momentum_combine": True,
        "learned_combine_include_zeroth": True,
        "per_parameter_lr_modulation": True,
        "max_mem_layer_modulation": 2.0,
    },
    "combined without the update": {"chunk_size": 2, "momentum_order": 2, "learned_momentum_combine": True},
    "spectral": {"chunk_size": 2, "batch_size": 4, "spectral_norm_surprises": True, "momentum_order": 2},
    "spectral, no momentum": {"chunk_size": 2, "spectral_norm_surprises": True, "momentum": False},
    "pooled, shared, plain network": {
        "chunk_size": 3,
        "attn_pool_chunks": True,
        "num_heads": 2,
        "head_dim": 3,
        "per_head_learned_parameters": False,
        "mem_model_norm_add_residual": False,
        "pre_rmsnorm": False,
        "post_rmsnorm": True,
        "activation": "silu",
    },
    "views, another activation": {"chunk_size": 3, "qkv_receives_diff_views": True, "activation": "gelu"},
    "weight residual": {
        "chunk_size": 2,
        "batch_size": 4,
        "accept_weight_residual": True,
        "num_heads": 2,
        "head_dim": 4,
    },
}


def memory(name, dtype=torch.float64, **more):
    torch.manual_seed(0)
    made = PublicNeuralMemory(DIM, **({"default_step_transform_max_lr": 0.3} | OPTIONS[name] | more)).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def sequence(name, time=13, dtype=torch.float64):
    shape = (3, 2, time, DIM) if "views" in name else (2, time, DIM)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def previous(m, time=13):
    """Another layer's weight sets, where the memory takes them."""
    if m.to_residual_mix is None:
        return None
    g = torch.Generator().manual_seed(2)
    count = time // m.chunk_size + 1
    shapes = [(*w.shape[1:],) for w in m.memory] + ([] if m.memory_gain is None else [(m.head_dim,)])
    return tuple(torch.randn(2, m.num_heads, count, *shape, generator=g, dtype=torch.float64) * 0.3 for shape in shapes)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "weight residual"])
@pytest.mark.parametrize("cuts", [[6, 6, 1], [1] * 13, [2, 4, 7]])
def test_calls_that_continue_a_cache_are_one_call(name, cuts):
    m, x = memory(name), sequence(name)
    whole = m.new_cache()
    want, cache, ys = m(x, cache=whole), m.new_cache(), []
    for part in x.split(cuts, -2):
        ys.append(m(part, cache=cache))
        saved = PublicMemoryCache()
        saved.load_state_dict(cache.state_dict())
        cache = saved
    torch.testing.assert_close(torch.cat(ys, 1), want)
    for a, b in zip(cache.memory, whole.memory, strict=True):
        torch.testing.assert_close(a, b)
    assert cache.index == whole.index == 13 // m.chunk_size * m.chunk_size


@pytest.mark.parametrize("name", OPTIONS)
def test_length_of_runs_and_recomputing_change_nothing(name, monkeypatch):
    m, x = memory(name), sequence(name)
    call = {"prev_weights": previous(m)}
    want = m(x, **call)
    grads = torch.autograd.grad(want.square().sum(), list(m.parameters()), allow_unused=True)
    plan = m._plan

    def one_chunk(index, chunks):
        return [(c, c + 1, plan(index + c * m.chunk_size, 1)[0][2]) for c in range(chunks)]

    monkeypatch.setattr(m, "_plan", one_chunk)
    m.recompute = True
    got = m(x, **call)
    torch.testing.assert_close(got, want)
    again = torch.autograd.grad(got.square().sum(), list(m.parameters()), allow_unused=True)
    for a, b in zip(again, grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_only_whole_chunks_are_stored_and_read_from_their_last_token_on():
    m, x = memory("plain"), sequence("plain")
    changed = x.clone()
    changed[:, 4] += 1  # of the second chunk, 3 … 5
    difference = (m(changed) - m(x)).abs().amax((0, 2))
    assert difference[[0, 1, 2, 3]].max() == 0
    assert difference[4:].min() > 0  # its own query, and the memory from token 5 on
    cache = m.new_cache()
    m(x[:, :2], cache=cache)
    assert cache.index == 0
    assert cache.remainder.shape == (1, 2, 2, DIM)
    assert torch.equal(cache.memory[0], m.memory[0].expand(2, 1, -1, -1))


def test_masked_keys_are_not_learned_from():
    m, x = memory("no momentum, masked"), sequence("no momentum, masked")
    mask = torch.ones(2, 13, dtype=torch.bool)
    mask[:, 3:6] = False
    cache = m.new_cache()
    m(x, mask=mask, cache=cache)
    assert cache.rate[..., 6:12].eq(0).all()
    assert cache.rate[..., :6].gt(0).all()
    parts = m.new_cache()
    for piece, seen in zip(x.split([2, 5, 6], 1), mask.split([2, 5, 6], 1), strict=True):
        m(piece, mask=seen, cache=parts)
    torch.testing.assert_close(parts.memory[0], cache.memory[0])


def test_a_chunk_of_masked_tokens_alone_has_finite_gradients():
    """The published clamp divides 0 by 0 there."""
    m, x = memory("batches"), sequence("batches").requires_grad_()
    mask = torch.arange(13).expand(2, -1) < 4
    y = m(x, mask=mask)
    grads = torch.autograd.grad(y.square().sum(), [x, *m.parameters()])
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


def test_initial_weights_can_be_stepped_in_place():
    m = memory("batches", torch.float32)
    for optimiser in (torch.optim.SGD(m.parameters(), 0.1), torch.optim.AdamW(m.parameters(), 0.1)):
        m(sequence("batches", dtype=torch.float32)).square().sum().backward()
        optimiser.step()


def test_weight_sets_are_those_before_each_chunk():
    m, x = memory("batches", expose_weight_sets=True), sequence("batches")
    cache = m.new_cache()
    m(x, cache=cache)
    assert cache.weight_sets[0].shape == (2, 2, 7, 4, 16)
    for chunks in range(7):
        some = m.new_cache()
        m(x[:, : 2 * chunks or 1], cache=some)
        for a, b in zip(cache.weight_sets, some.memory, strict=True):
            torch.testing.assert_close(a[:, :, chunks], b)


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "batches",
        "spectral",
        "no momentum, masked",
        "views, another activation",
        "orders",
        "pooled, shared, plain network",
    ],
)
def test_equals_the_package(name):
    package = pytest.importorskip("titans_pytorch")
    theirs = {"num_heads": "heads", "head_dim": "dim_head"}  # the package's words
    options = {theirs.get(k, k): v for k, v in OPTIONS[name].items() if k != "activation"}
    activation = {k: v for k, v in OPTIONS[name].items() if k == "activation"}
    published = package.NeuralMemory(
        DIM,
        default_step_transform_max_lr=0.3,
        **options,
        activation={"silu": nn.SiLU(), "gelu": nn.GELU()}.get(activation.get("activation")),
    )
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.set_(parameter.clone() + torch.randn_like(parameter) * 0.2)
    published = published.double()
    ours = (
        system("titans")
        .components["NeuralMemory"]
        .load({"dim": DIM, "default_step_transform_max_lr": 0.3} | options | activation, published.state_dict())
    )
    x = sequence(name)
    cache = ours.new_cache()
    y, state = published(x)
    torch.testing.assert_close(ours(x, cache=cache), y)
    last = dict(state.states[0].items())
    gain = [key for key in last if "gamma" in key]
    for a, key in zip(cache.memory, [*(k for k in last if k not in gain), *gain], strict=True):
        torch.testing.assert_close(a.flatten(0, 1), last[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    for name in ("plain", "batches"):
        m, x = memory(name, torch.float32, default_step_transform_max_lr=0.03), sequence(name, dtype=torch.float32)
        want, cache = m(x), m.new_cache()
        with torch.autocast("cpu", dtype):
            got = m(x, cache=cache)
        assert cache.memory[0].dtype == torch.float32
        torch.testing.assert_close(got.float(), want, rtol=5e-2, atol=2e-1)
        half = m.to(dtype)(x.to(dtype))
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), want, rtol=1e-1, atol=2e-1)


def test_not_a_number_and_strides():
    m, x = memory("plain"), sequence("plain")
    want = m(x)
    torch.testing.assert_close(m(x.transpose(0, 1).contiguous().transpose(0, 1)), want)
    spoiled = x.clone()
    spoiled[0, 4] = float("nan")
    got = m(spoiled)
    torch.testing.assert_close(got[1], want[1])
    assert got[0, 5:].isnan().all()


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    m, x = memory("plain"), sequence("plain")
    for wrong, message in ((x[0], r"got \(13, 6\)"), (x[:, :0], r"got \(2, 0, 6\)"), (x[..., 1:], r"got \(2, 13, 5\)")):
        with pytest.raises(ValueError, match=message):
            m(wrong)
    with pytest.raises(ValueError, match=r"\(3, batch, time, 6\).*got \(2, 13, 6\)"):
        memory("views, another activation")(x)
    with pytest.raises(ValueError, match=r"\(2, 13\); got \(2, 3\)"):
        m(x, mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="accept_weight_residual"):
        memory("weight residual")(x)
    cache = m.new_cache()
    m(x[:, :3], cache=cache)
    with pytest.raises(ValueError, match=r"of \(2, 1\) \(batch, heads\); got \(1, 1\)"):
        m(x[:1], cache=cache)
    for options, message in (
        ({"num_heads": 2, "head_dim": 0}, "at least 1"),
        ({"head_dim": 3}, "one head"),
        ({"chunk_size": 3, "batch_size": 4}, "multiple"),
        ({"attn_pool_chunks": True}, "chunk_size above 1"),
        ({"learned_momentum_combine": True}, "order 2"),
        ({"activation": "linear"}, "'linear'"),
    ):
        with pytest.raises(ValueError, match=message):
            PublicNeuralMemory(DIM, **options)
    attention = SegmentedAttention(DIM, segment_len=3, head_dim=4, num_heads=2, accept_value_residual=True)
    with pytest.raises(ValueError, match="accept_value_residual"):
        attention(x.float())
    with pytest.raises(ValueError, match=r"got \(13, 6\)"):
        attention(x[0].float())
    with pytest.raises(ValueError, match="head_dim is even"):
        SegmentedAttention(DIM, segment_len=3, head_dim=3)


@pytest.mark.parametrize("name", ["mac_micro", "mac_gated_sliding"])
def test_the_public_transformer_made_of_these_parts(name, recorded):
    """Memory with views and weight residuals, attention with value residuals: only their transformer's cases record these."""
    case = recorded("titans", name)
    weights = {k: v for k, v in case.state_dict.items() if "memory_model." not in k}
    leaves = {k: v.requires_grad_() for k, v in weights.items() if v.is_floating_point()}
    logits = public_transformer(case.config, leaves, case.input["ids"])
    expected, ids = case.output, case.input["ids"]
    torch.testing.assert_close(logits, expected["logits"], rtol=case.rtol, atol=case.atol)
    loss = cross_entropy(public_transformer(case.config, leaves, ids[:, :-1]).mT, ids[:, 1:])
    torch.testing.assert_close(loss, expected["loss"], rtol=case.rtol, atol=case.atol)
    loss.backward()
    for key, grad in case.grad_state.items():
        torch.testing.assert_close(leaves[key].grad, grad, rtol=case.rtol, atol=case.atol)


def public_transformer(config, state, ids):
    """titans-pytorch's memory-as-context transformer with one residual stream, on its published keys."""
    dim, segment, mems = config["dim"], config["segment_len"], config["num_longterm_mem_tokens"]
    under = lambda prefix: {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}  # noqa: E731
    time = ids.shape[1]
    kept = (time - 1) // segment * mems + time
    x = pad(state["token_emb.weight"][ids], (0, 0, 0, -time % segment)).unflatten(1, (-1, segment))
    longterm = state["longterm_mems"].expand(*x.shape[:2], -1, -1)
    x = torch.cat([x, longterm], 2).flatten(1, 2)[:, :kept]
    memory_segment = config.get("neural_memory_segment_len", segment + mems)
    for axis, place in enumerate((torch.arange(kept) // memory_segment, torch.arange(kept) % memory_segment)):
        mlp, h = under(f"axial_pos_emb.mlps.{axis}."), place[:, None].float()
        for layer in (0, 2, 4):
            h = linear(silu(h) if layer else h, mlp[f"{layer}.weight"], mlp[f"{layer}.bias"])
        x = x + h
    views, sets, first = [], None, None
    for layer in range(config["depth"]):
        names = under(f"layers.{layer}.")
        part = lambda prefix, names=names: {k[len(prefix) :]: v for k, v in names.items() if k.startswith(prefix)}  # noqa: E731
        residual = config.get("neural_mem_weight_residual", False)
        options = {
            "dim": dim,
            "chunk_size": memory_segment,
            "batch_size": config.get("neural_memory_batch_size"),
            "qkv_receives_diff_views": True,
            "accept_weight_residual": residual and layer > 0,
            **config["neural_memory_kwargs"],
        }
        given = torch.stack([x] * 3)
        if "3.0.weight" in names:
            choice = linear(rms_norm(x, (dim,), names["3.0.weight"]), names["3.1.weight"], names["3.1.bias"])
            given = torch.einsum("lbnd,bnvl->vbnd", torch.stack([x, *views]), choice.unflatten(-1, (3, -1)).softmax(-1))
        component = system("titans").components["NeuralMemory"]
        mem = component.build(options)
        mem.expose_weight_sets = residual
        cache = mem.new_cache()
        ours = component.converted(options, part("4."))
        retrieved = torch.func.functional_call(
            mem, ours, (given,), {"cache": cache, "prev_weights": sets if residual else None}
        )
        sets = cache.weight_sets
        gated = config.get("neural_mem_gate_attn_output", False)
        x = x if gated else x + retrieved
        attention = system("titans").components["SegmentedAttention"]
        settings = {
            k: config[k]
            for k in ("dim", "segment_len", "dim_head", "heads", "num_longterm_mem_tokens", "num_persist_mem_tokens")
        }
        settings |= {"sliding": config.get("sliding_window_attn", False), "accept_value_residual": layer > 0}
        attend = attention.build(settings)
        call = {"first_values": first, "return_values": True}
        y, values = torch.func.functional_call(attend, attention.converted(settings, part("5.")), (x,), call)
        y = y * retrieved.sigmoid() if gated else y
        first = values if first is None else first
        views += [x, y]
        x = x + y
        a, g = linear(rms_norm(x, (dim,), names["6.0.weight"]), names["6.1.weight"], names["6.1.bias"]).chunk(2, -1)
        h = linear(a * silu(g), names["6.3.weight"], names["6.3.bias"])
        views += [x, h]
        x = x + h
    tokens = (
        pad(x, (0, 0, 0, -kept % (segment + mems)))
        .unflatten(1, (-1, segment + mems))[:, :, :segment]
        .flatten(1, 2)[:, :time]
    )
    return linear(rms_norm(tokens, (dim,), state["norm.weight"]), state["to_logits.weight"])
