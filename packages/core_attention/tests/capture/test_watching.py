"""Maps out of timm's and transformers' models with tiny random weights, against their own unfused forms."""

import pytest
import torch

from core_attention import capture

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = TEXT | {"num_key_value_heads": 2}


def unfused(model, x):
    """The weights that timm's own unfused layers compute, which they hand to their dropout."""
    found, hooks = {}, []
    for name, layer in model.named_modules():
        if hasattr(layer, "fused_attn") and isinstance(getattr(layer, "attn_drop", None), torch.nn.Module):
            layer.fused_attn = False
            hooks.append(
                layer.attn_drop.register_forward_hook(lambda _, given, out, name=name: found.setdefault(name, given[0]))
            )
    model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"depth": 2, "img_size": 48}, 48),
        ("vit_tiny_patch16_224", {"depth": 2, "img_size": 48, "qk_norm": True}, 48),
        ("eva02_tiny_patch14_224", {"depth": 2, "img_size": 42}, 42),  # rotary positions
        (
            "beit_base_patch16_224",
            {"depth": 2, "embed_dim": 32, "num_heads": 4, "img_size": 48},
            48,
        ),  # a bias of relative positions
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16, "img_size": 56},
            56,
        ),  # not fused
    ],
)
def test_timm(name, options, size):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        plain = model(x)
        with capture(model, rows=[0, -1]) as maps:
            watched = model(x)
        want = unfused(model, x)
    assert torch.equal(plain, watched)
    assert set(want) == set(maps)
    for layer, seen in maps.items():
        torch.testing.assert_close(seen, want[layer][:, :, [0, -1]], rtol=1e-3, atol=1e-6)


def models():
    t = transformers
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
    }
    t5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    return {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
        "mistral, sliding window": lambda: t.MistralForCausalLM(t.MistralConfig(**GROUPED, sliding_window=4)),
        "qwen3, normed heads": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, head_dim=16)),
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
        "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**vision, patch_size=8)),
        "t5, position bias": lambda: t.T5Model(t.T5Config(**t5)),
    }


def given(name):
    g = torch.Generator().manual_seed(0)
    if name == "clip":
        return {"pixel_values": torch.randn(1, 3, 32, 32, generator=g)}
    ids = torch.randint(3, 50, (2, 9), generator=g)
    padding = torch.ones(2, 9, dtype=torch.long)
    padding[1, :3] = 0
    return {"input_ids": ids, "attention_mask": padding} | ({"decoder_input_ids": ids} if name.startswith("t5") else {})


def attentions(out):
    if out.get("attentions") is not None:
        return out.attentions
    pairs = zip(out.decoder_attentions, out.cross_attentions, strict=True)
    return (*out.encoder_attentions, *(one for pair in pairs for one in pair))


def run(model, name, **options):
    with torch.no_grad():
        return model(**given(name), **options)


def tensors(out):
    return [t for t in out.to_tuple() if isinstance(t, torch.Tensor)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", models())
def test_transformers(name):
    torch.manual_seed(0)
    model = models()[name]().eval()
    assert model.config._attn_implementation == "sdpa"
    plain = run(model, name)
    with capture(model) as maps:
        watched = run(model, name)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(watched), strict=True))
    model.set_attn_implementation("eager")
    want = attentions(run(model, name, output_attentions=True))
    with capture(model) as eager:
        run(model, name)
    assert len(maps) == len(want) == len(eager)
    for seen, slow, other in zip(maps.values(), want, eager.values(), strict=True):
        hidden = (seen.sum(-1, keepdim=True) == 0).expand_as(
            seen
        )  # padding queries: SDPA gives 0 there, eager an even spread
        torch.testing.assert_close(seen[~hidden], slow[~hidden], rtol=1e-3, atol=1e-6)
        assert torch.equal(other, slow)


@pytest.mark.filterwarnings("ignore")
def test_decoding_one_token_at_a_time():
    torch.manual_seed(0)
    model = models()["llama"]().eval()
    ids = given("llama")["input_ids"]
    with capture(model, layers="model.layers.1.*", rows=-1) as maps:
        out = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    steps = maps.all("model.layers.1.self_attn")
    assert [m.shape for m in steps] == [(2, 4, 1, 9), (2, 4, 1, 10), (2, 4, 1, 11)]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        want = model(out[:, :-1], output_attentions=True).attentions[1]
    torch.testing.assert_close(steps[-1], want[:, :, -1:], rtol=1e-3, atol=1e-6)


def blackbox(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **options):
    """A kernel that calls nothing we watch, as flash attention: padding as (batch, keys), causal by the module."""
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, 1) for t in (key, value))
    n, m = query.shape[2], key.shape[2]
    distance = torch.arange(m) - torch.arange(n)[:, None]
    hidden = distance > m - n
    if sliding_window is not None:
        hidden = hidden | (distance <= m - n - sliding_window)
    hidden = hidden.expand(query.shape[0], 1, n, m)
    if attention_mask is not None:
        hidden = hidden | ~attention_mask[:, None, None, :].bool()
    weights = (query @ key.mT * scaling).masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num()
    return (weights @ value).transpose(1, 2), None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "mistral, sliding window"])
def test_kernels_that_call_nothing_we_know(name):
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register("blackbox", blackbox)
    AttentionMaskInterface.register("blackbox", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    torch.manual_seed(0)
    model = models()[name]().eval()
    with capture(model) as want:
        run(model, name)
    model.set_attn_implementation("blackbox")
    plain = run(model, name)
    with capture(model) as maps:
        watched = run(model, name)
    assert torch.equal(plain.logits, watched.logits)
    first = next(iter(maps))
    torch.testing.assert_close(maps[first], want[first], rtol=1e-3, atol=1e-6)
