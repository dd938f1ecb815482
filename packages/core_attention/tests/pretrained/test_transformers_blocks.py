"""Mixture of blocks and top-k blocks under transformers' own models."""

import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.vmoba.attention import mixture_of_blocks
from core_attention.pretrained.transformers import register_with_transformers

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = TEXT | {"num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(autouse=True, scope="module")
def registered():
    return register_with_transformers()


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)).eval()


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**TEXT)).eval()


def vit():
    torch.manual_seed(0)
    return transformers.ViTModel(transformers.ViTConfig(**VISION)).eval()


def ids(batch=2, length=24):
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(0))


def switched(model, name, **options):
    model.config.core_attention = {name: options}
    model.set_attn_implementation(name)
    return model


def test_moba_with_enough_blocks_is_the_model_itself():
    model = llama()
    want = model(ids()).logits
    torch.testing.assert_close(switched(model, "moba", block=4, topk=6)(ids()).logits, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(switched(model, "moba")(ids()).logits, want, rtol=1e-4, atol=1e-5)  # 512 tokens a block
    few = switched(model, "moba", block=4, topk=2)(ids()).logits
    torch.testing.assert_close(few[:, :8], want[:, :8], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(few, want, atol=1e-3)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_moba_generates_with_a_cache(cache):
    model = switched(llama(), "moba", block=4, topk=2)
    steps = model.generate(ids(), max_new_tokens=4, do_sample=False, cache_implementation=cache)
    whole = ids()
    for _ in range(4):
        whole = torch.cat([whole, model(whole, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(steps, whole)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    real = slice(5, None) if side == "left" else slice(0, 19)
    tokens = torch.zeros(2, 24, dtype=torch.long)
    tokens[0], tokens[1, real] = 1, 1
    for model in (
        switched(llama(), "moba", block=4, topk=2),
        switched(bert(), "vmoba", chunks=(4,)),
        switched(bert(), "routed_topk", block=4, topk=2),
    ):
        places = (torch.cumsum(tokens, 1) - 1).clamp(min=0)
        padded = model(ids(), attention_mask=tokens, position_ids=places)[0][1, real]
        alone = model(ids()[1:, real])[0][0]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_moba_generates_with_left_padding():
    model = switched(llama(), "moba", block=4, topk=2)
    tokens = torch.ones(2, 24, dtype=torch.long)
    tokens[1, :5] = 0
    both = model.generate(ids(), attention_mask=tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
    alone = model.generate(ids()[1:, 5:], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(both[1, 5:], alone[0])


@pytest.mark.parametrize(
    ("name", "options"), [("vmoba", {"chunks": (4,), "tau": 1.0}), ("routed_topk", {"block": 4, "topk": 6})]
)
def test_everything_chosen_is_the_model_itself(name, options):
    model = bert()
    want = model(ids())[0]
    torch.testing.assert_close(switched(model, name, **options)(ids())[0], want, rtol=1e-4, atol=1e-5)
    model = vit()
    image = torch.randn(2, 3, 32, 32)
    want = model(image)[0]
    torch.testing.assert_close(switched(model, name, **options)(image)[0], want, rtol=1e-4, atol=1e-5)


def test_vmoba_on_the_grid_of_a_vision_transformer():
    """Patches choose blocks of 2 × 2 patches; the class token sees all and is seen by all."""
    model, image = vit(), torch.randn(2, 3, 32, 32)
    want = model(image)[0]
    full = switched(model, "vmoba", grid=(1, 4, 4), chunks=((2, 2), (4, 2)), prefix=1, tau=1.0)
    torch.testing.assert_close(full(image)[0], want, rtol=1e-4, atol=1e-5)
    few = switched(model, "vmoba", grid=(1, 4, 4), chunks=((2, 2), (4, 2)), prefix=1, tau=0.0)
    few(image)[0].sum().backward()
    with capture(few, kinds="blocks") as maps:
        few(image)
    assert {maps.all(layer, "blocks")[0].shape for layer in maps} == {(2, 4, 16, 4), (2, 4, 16, 2)}


def test_what_cannot_be_done_says_why():
    with pytest.raises(ValueError, match=r"moba is causal attention with padding.*the mask none"):
        switched(bert(), "moba")(ids())
    with pytest.raises(ValueError, match=r"cannot be causal.*LlamaAttention.*there is 'moba'"):
        switched(llama(), "vmoba")(ids())
    with pytest.raises(ValueError, match="cannot be causal"):
        switched(llama(), "routed_topk")(ids())
    with pytest.raises(ValueError, match="moba has no option chunk; it has block, topk, full_below"):
        switched(llama(), "moba", chunk=4)(ids())
    sliding = transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=4)).eval()
    with pytest.raises(ValueError, match="sliding windows"):
        switched(sliding, "moba")(ids())
    holes = torch.ones(2, 24, dtype=torch.long)
    holes[0, 5] = 0
    with pytest.raises(ValueError, match="sample 0 are not one run"):
        switched(bert(), "vmoba")(ids(), attention_mask=holes)


def test_lse_of_a_mixture():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 30, 8, generator=g) for _ in range(3))
    for full_below in (0, 99):
        _, lse = mixture_of_blocks(
            q, k, v, grid=(2, 3, 5), chunk=(2, 2), tau=1.0, full_below=full_below, return_lse=True
        )
        torch.testing.assert_close(lse, (q @ k.mT * 8**-0.5).logsumexp(-1), rtol=1e-4, atol=1e-5)
