"""Our attention under transformers' own models, and a table that mechanisms add themselves to."""

import subprocess
import sys

import pytest
import torch

from core_attention import capture
from core_attention.masks import Causal, Dense, KeyLengths, Window, parts
from core_attention.pretrained import transformers as huggingface
from core_attention.pretrained.transformers import register_with_transformers

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = TEXT | {"num_key_value_heads": 2}


def models():
    t = transformers
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
    }
    return {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**GROUPED, sliding_window=4)),
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
        "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**vision, patch_size=8)),
        "t5": lambda: t.T5Model(
            t.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4, dropout_rate=0)
        ),
    }


def given(name, padding):
    g = torch.Generator().manual_seed(0)
    if name == "clip":
        return {"pixel_values": torch.randn(1, 3, 32, 32, generator=g)}
    ids = torch.randint(3, 50, (2, 9), generator=g)
    found = {"input_ids": ids} | ({"decoder_input_ids": ids} if name == "t5" else {})
    if padding != "none":
        tokens = torch.ones(2, 9, dtype=torch.long)
        tokens[1, slice(0, 3) if padding == "left" else slice(6, 9)] = 0
        found["attention_mask"] = tokens
    return found


@pytest.fixture
def registered():
    return register_with_transformers()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", models())
def test_models_give_the_same_as_with_their_own(name, padding):
    torch.manual_seed(0)
    model = models()[name]().eval()
    inputs = given(name, padding)
    want = model(**inputs)[0]
    model.set_attn_implementation("core_attention")
    got = model(**inputs)[0]
    real = (
        inputs.get("attention_mask", torch.ones(want.shape[:2])).bool() if name in ("llama", "mistral", "bert") else ...
    )
    torch.testing.assert_close(got[real], want[real], rtol=1e-3, atol=1e-5)
    with capture(model, rows=-1) as maps:
        watched = model(**inputs)[0]
    assert torch.equal(watched, got)
    assert len(maps) >= 2


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_with_a_cache(name, cache, padding):
    torch.manual_seed(0)
    model = models()[name]().eval()
    inputs = given(name, padding) | {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "cache_implementation": cache,
    }
    inputs["disable_compile"] = True
    want = model.generate(**inputs)
    model.set_attn_implementation("core_attention")
    assert torch.equal(model.generate(**inputs), want)


@pytest.mark.usefixtures("registered")
def test_training_and_its_gradients():
    torch.manual_seed(0)
    model = models()["llama"]().train()
    inputs = given("llama", "right")
    found = []
    for implementation in ("sdpa", "core_attention"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_masks_are_typed_not_written_out():
    from transformers.masking_utils import (
        bidirectional_mask_function,
        causal_mask_function,
        sliding_window_causal_mask_function,
    )

    def make(*size, **options):
        return huggingface.typed_mask(*size, **options).typed

    assert make(2, 5, 9, q_offset=4, mask_function=causal_mask_function) == Causal(4)
    assert make(2, 5, 9, mask_function=bidirectional_mask_function) is None
    right = make(2, 4, 4, mask_function=causal_mask_function, attention_mask=torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]))
    assert [type(m) for m in parts(right)] == [Causal, KeyLengths]
    left = make(2, 4, 4, mask_function=causal_mask_function, attention_mask=torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]))
    assert [type(m) for m in parts(left)] == [Causal, Dense]
    assert parts(left)[1].visible.shape == (2, 1, 1, 4)
    sliding = make(1, 9, 9, mask_function=sliding_window_causal_mask_function(3), local_size=3)
    assert [type(m) for m in parts(sliding)] == [Window, huggingface.Indexed]


@pytest.mark.parametrize("padding", [None, [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]])
def test_whoever_touches_a_mask_gets_it_written_out(padding):
    from transformers.masking_utils import causal_mask_function, sdpa_mask, sliding_window_causal_mask_function

    tokens = None if padding is None else torch.tensor(padding).bool()
    for pattern, local in ((causal_mask_function, None), (sliding_window_causal_mask_function(3), 3)):
        ours = huggingface.typed_mask(2, 6, 6, mask_function=pattern, attention_mask=tokens, local_size=local)
        want = sdpa_mask(2, 6, 6, mask_function=pattern, attention_mask=tokens, allow_is_causal_skip=False)
        assert ours.contiguous() is ours
        assert ours.shape == want.shape
        assert ours.dtype == torch.bool
        assert torch.equal(ours[..., 1:, 2:], want[..., 1:, 2:])
        assert torch.equal(~ours, ~want)
        assert torch.equal(torch.where(ours, 1.0, -1.0), torch.where(want, 1.0, -1.0))


def doubled(q, k, v, *, mask, scale, module):
    return 2 * huggingface.plain(q, k, v, mask=mask, scale=scale, module=module) + module.layer_idx


def test_a_mechanism_adds_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "doubling", type(sys)("doubling"))
    sys.modules["doubling"].doubled = doubled
    monkeypatch.setitem(huggingface.OWN, "doubled", "doubling:doubled")
    assert register_with_transformers("doubled") == ("doubled",)
    model = models()["llama"]().eval()
    model.set_attn_implementation("doubled")
    assert model(**given("llama", "none"))[0].isfinite().all()
    with pytest.raises(ValueError, match="unknown mechanism 'nothing': one of core_attention"):
        register_with_transformers("nothing")
    with pytest.raises(ValueError, match=r"'dma' has weights of its own: put it in by convert_model\(model, 'dma'\)"):
        register_with_transformers("dma")


@pytest.mark.usefixtures("registered")
def test_what_it_does_not_compute_is_refused():
    gemma = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**GROUPED, head_dim=8)).eval()
    gemma.set_attn_implementation("core_attention")
    with pytest.raises(ValueError, match="Gemma2Attention asks for softcap="):
        gemma(**given("llama", "none"))
    model = transformers.BertModel(transformers.BertConfig(**TEXT)).train()
    model.set_attn_implementation("scatterbrain")
    with pytest.raises(ValueError, match="attention dropout to 0"):
        model(**given("bert", "none"))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("padding", ["none", "right"])
def test_a_model_with_attention_dropout_trains(padding):
    torch.manual_seed(0)
    options = TEXT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.3}
    model = transformers.BertModel(transformers.BertConfig(**options)).train()
    model.set_attn_implementation("core_attention")
    inputs, outputs = given("bert", padding), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(**inputs)[0])
    assert torch.equal(outputs[0], outputs[1])  # seeded
    assert not torch.allclose(outputs[0], outputs[2])
    outputs[0].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.encoder.parameters())
    model.eval()
    assert torch.equal(model(**inputs)[0], model(**inputs)[0])


def test_importing_us_imports_no_transformers():
    code = "import sys, core_attention, core_attention.pretrained.transformers; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
