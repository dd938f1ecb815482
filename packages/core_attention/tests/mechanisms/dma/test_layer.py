"""The Doge attention layer: published recordings, decoding, and what it refuses."""

import pytest
import torch
from torch import nn

from core_attention.mechanisms.dma.declaration import system
from core_attention.mechanisms.dma.layer import DynamicMaskAttention, DynamicMaskCache


def layer(window=4, **options):
    torch.manual_seed(0)
    module = DynamicMaskAttention(24, 4, num_kv_heads=2, window=window, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def test_the_windows_name_tells_whose_layer_a_config_is():
    build = system.components["DogeAttention"].build
    config = {"hidden_size": 8, "num_attention_heads": 2}
    transformers, kernels = (build(config | {name: 3}) for name in ("keep_window_size", "window_size"))
    assert (transformers.form, transformers.selection, transformers.window) == ("exp", "per_query", 3)
    assert (kernels.form, kernels.selection, kernels.window) == ("log", "shared", 3)


@pytest.mark.parametrize("name", ["doge_lm", "doge_lm_padded"])
def test_the_exponential_form_is_that_of_transformers(recorded, name):
    case = recorded("dma", name)
    mask = case.input["attention_mask"].bool() if "attention_mask" in case.input else None
    config = case.config
    for i in range(config["num_hidden_layers"]):
        module = DynamicMaskAttention(
            config["hidden_size"],
            config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            window=config["keep_window_size"],
            bias=config.get("attention_bias", False),
        )
        prefix = f"model.layers.{i}.self_attn."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in case.state_dict.items() if k.startswith(prefix)})
        out, expected = module(case.output[f"attn_in.{i}"], mask=mask), case.output[f"attn_out.{i}"]
        kept = slice(None) if mask is None else mask
        torch.testing.assert_close(out[kept], expected[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("window", [1, 4, 50])
@pytest.mark.parametrize("split", [[1] * 23, [7, 1, 1, 1, 1, 5, 1, 6], [22, 1]])
@torch.no_grad()
def test_decoding_equals_the_full_forward(padded, window, split):
    module = layer(window)
    x = torch.randn(2, 23, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = None
    if padded:
        mask = torch.ones(2, 23, dtype=torch.bool)
        mask[0, :9] = mask[1, :2] = False
    cache = DynamicMaskCache(window)
    masks = [None] * len(split) if mask is None else mask.split(split, dim=1)
    parts = [module(part, mask=m, cache=cache) for part, m in zip(x.split(split, dim=1), masks, strict=True)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x, mask=mask))
    assert cache.length == 23
    assert cache.kept.keys.shape == (2, 2, min(window, 23), 6)


@torch.no_grad()
def test_decoding_with_all_keys_tied():
    module = layer()
    module.A.zero_()  # as a fresh checkpoint starts: every key is equally important, the most recent stay
    x = torch.randn(2, 12, 24, dtype=torch.float64)
    cache = DynamicMaskCache(4)
    parts = [module(part, cache=cache) for part in x.split([6, 1, 1, 3, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), module(x))
    assert cache.kept.position.sort(-1).values[0, 0].tolist() == [8, 9, 10, 11]


def test_chunks_with_gradients_leave_the_cache_detached():
    module, cache = layer(), DynamicMaskCache(4)
    x = torch.randn(1, 8, 24, dtype=torch.float64)
    module(x, cache=cache)
    out = module(x[:, :1], cache=cache)
    out.sum().backward()
    assert not cache.kept.keys.requires_grad
    assert all(p.grad is not None for p in module.parameters())


def test_zero_decay_is_plain_attention():
    module = layer(window=99, form="log")
    nn.init.zeros_(module.A)
    x = torch.randn(1, 9, 24, dtype=torch.float64)
    q, k, v, bias = module.project(x)
    assert (bias == 0).all()
    plain = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    expected = module.o_proj(plain.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x), expected)
    module.form = "exp"  # a constant bias of 1
    torch.testing.assert_close(module(x), expected)


def test_initial_weights():
    assert (DynamicMaskAttention(8, 2).A == 0).all()
    assert (DynamicMaskAttention(8, 2, form="log").A != 0).all()


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(ValueError, match="multiple of num_kv_heads, got 3 and 2"):
        DynamicMaskAttention(12, 3, num_kv_heads=2)
    with pytest.raises(ValueError, match="multiple of num_heads unless head_dim is given, got 10 and 3"):
        DynamicMaskAttention(10, 3)
    with pytest.raises(ValueError, match=r"expected \(batch, length, 24\), got \(2, 3, 8\)"):
        layer()(torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match="the cache keeps 8 keys, this layer 4"):
        layer()(torch.zeros(1, 3, 24).double(), cache=DynamicMaskCache(8))
    with pytest.raises(ValueError, match=r"with a cache the mask must be \(batch, length\) = \(1, 3\), got \(1, 5\)"):
        layer()(torch.zeros(1, 3, 24).double(), cache=DynamicMaskCache(4), mask=torch.ones(1, 5, dtype=torch.bool))
    cache, module = DynamicMaskCache(4), layer()
    module(torch.zeros(1, 3, 24).double(), cache=cache)
    with pytest.raises(ValueError, match=r"the cache holds \(batch, kv_heads\) = \(1, 2\), the new keys are \(2, 2\)"):
        module(torch.zeros(2, 3, 24).double(), cache=cache)
