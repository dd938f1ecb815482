"""Landmark attention, Scatterbrain, dynamic masks and mixture of heads inside transformers' and timm's own models."""

import copy

import jaxtyping
import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.landmark.attention import insert_landmarks, landmark_attention, strip_landmarks
from core_attention.mechanisms.moh.pretrained import balance_loss
from core_attention.pretrained.convert import convert_model, converted
from core_attention.pretrained.transformers import register_with_transformers

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True, scope="module")
def registered():
    return register_with_transformers()


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=2)).eval()


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**TEXT)).eval()


def vit():
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**options).eval()


def ids(batch=2, length=24):
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(0))


def padded():
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, :9] = 0
    return mask


def switched(model, name, **options):
    model.config.core_attention = {name: options}
    model.set_attn_implementation(name)
    return model


def without_padding(model):
    """The first sample alone, and where it stands in the padded batch."""
    return model(ids()[:1, 9:]).logits[0]


# name → options that keep everything, options that do not
BY_NAME = {"landmark": ({"block": 100}, {"block": 5}), "scatterbrain": ({"window": 60}, {"window": 6, "features": 8})}
BY_CONVERTER = {
    "dma": ({"window": 24}, {"window": 4}),
    "moh": ({"shared": 2, "routed": 2}, {"shared": 2, "routed": 1}),
}


def few_of(name):
    if name in BY_NAME:
        return switched(llama(), name, **BY_NAME[name][1])
    model = convert_model(llama(), name, **BY_CONVERTER[name][1])
    for module in model.modules():
        if hasattr(module, "A"):
            torch.nn.init.normal_(module.A)
    return model


@pytest.mark.parametrize("name", [*BY_NAME, *BY_CONVERTER])
def test_everything_kept_is_the_model_itself(name):
    model = llama()
    want = model(ids(), attention_mask=padded()).logits
    change, options = (switched, BY_NAME) if name in BY_NAME else (convert_model, BY_CONVERTER)
    ours = change(model, name, **options[name][0])(ids(), attention_mask=padded()).logits
    real = padded().bool()
    torch.testing.assert_close(ours[real], want[real], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(few_of(name)(ids()).logits, llama()(ids()).logits, atol=1e-4)


@pytest.mark.parametrize("name", [*BY_NAME, *BY_CONVERTER])
def test_padding_has_no_influence(name):
    model = few_of(name)
    # positions from each sample's first token: random features are not blind to a common rotation
    places = (padded().cumsum(-1) - 1).clamp(min=0)
    out = model(ids(), attention_mask=padded(), position_ids=places).logits[0, 9:]
    torch.testing.assert_close(out, without_padding(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*BY_NAME, *BY_CONVERTER])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_with_a_cache_equals_full_passes(name, cache):
    model = few_of(name)
    steps = model.generate(ids(), max_new_tokens=4, do_sample=False, cache_implementation=cache)
    whole = ids()
    for _ in range(4):
        whole = torch.cat([whole, model(whole).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(steps, whole)


@pytest.mark.parametrize("name", [*BY_NAME, *BY_CONVERTER])
def test_gradients_and_capture(name):
    model = few_of(name).train()
    with capture(model, layers=0, rows=[20]) as maps:
        model(ids()).logits.square().mean().backward()
    (layer,) = maps
    assert "weights" in maps.kinds(layer)
    assert maps[layer].shape == (2, 4, 1, 24)
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_landmarks_in_a_stream():
    model, every = switched(llama(), "landmark", block=5), 4
    longer = insert_landmarks(ids(), 1, every)
    logits = strip_landmarks(model(longer).logits, every, dim=1)
    assert logits.shape == (2, 24, 50)
    later = ids()
    later[:, 20:] = 3
    changed = strip_landmarks(model(insert_landmarks(later, 1, every)).logits, every, dim=1)
    torch.testing.assert_close(logits[:, :20], changed[:, :20])


def test_landmark_by_name_is_our_function(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "core_attention.mechanisms.landmark.pretrained.landmark_attention",
        lambda *qkv, **options: seen.append(options) or landmark_attention(*qkv, **options),
    )
    switched(llama(), "landmark", block=7)(ids())
    assert [s["block"] for s in seen] == [7, 7]


@pytest.mark.parametrize("name", ["scatterbrain", "dma", "moh"])
def test_encoders(name):
    model, real = bert(), padded().bool()
    want = model(ids(), attention_mask=padded()).last_hidden_state
    if name in BY_NAME:
        model = switched(model, name, **BY_NAME[name][0])
    else:
        model = convert_model(vit(), name, **BY_CONVERTER[name][1])
        out = model(torch.randn(2, 3, 32, 32))
        assert out.isfinite().all()
        out.sum().backward()
        return
    ours = model(ids(), attention_mask=padded()).last_hidden_state
    torch.testing.assert_close(ours[real], want[real], rtol=1e-4, atol=1e-5)


def test_a_learned_router_sees_the_layers_input_and_returns_its_loss():
    model = convert_model(llama(), "moh", shared=2, routed=1, router="learned")
    new = dict(converted(model))
    assert len(new) == 2
    names = {"mechanism.router.wg.weight", "mechanism.router.wg_0.weight", "mechanism.router.wg_1.weight"}
    assert all(set(parameters) == names for parameters in new.values())
    with pytest.raises(ValueError, match="2 of 2 routed layers have not been called yet"):
        balance_loss(model)
    out = model(ids()).logits
    loss = balance_loss(model)
    assert 1 - 1e-4 <= loss <= 2
    (out.mean() + 0.01 * loss).backward()
    assert all(m.router.wg.weight.grad.abs().sum() > 0 for m in model.modules() if hasattr(m, "balance_loss"))
    assert balance_loss(llama()) == 0
    image = convert_model(vit(), "moh", shared=2, routed=1)
    image(torch.randn(2, 3, 32, 32)).sum().backward()
    assert balance_loss(image) > 0
    twin = copy.deepcopy(image)  # the loss and its graph stay where they are
    assert torch.equal(twin.eval()(torch.ones(1, 3, 32, 32)), image.eval()(torch.ones(1, 3, 32, 32)))
    assert {n for _, p in converted(image) for n in p} == names


def test_moh_by_norm_adds_no_weight_and_equals_our_layer():
    from core_attention.mechanisms.moh.llama import MoHLlamaAttention

    model = convert_model(llama(), "moh", shared=2, routed=1)
    assert set(model.state_dict()) == set(llama().state_dict())
    attention = model.model.layers[0].self_attn
    ours = MoHLlamaAttention(32, 4, num_kv_heads=2, shared=2, routed=1, theta=10000.0)
    ours.load_state_dict(attention.state_dict())
    x = torch.randn(2, 9, 32)
    angles = model.model.rotary_emb(x, torch.arange(9)[None])
    torch.testing.assert_close(
        attention(x, position_embeddings=angles, attention_mask=None)[0], ours(x)[0], rtol=1e-4, atol=1e-6
    )


def test_what_cannot_be_done_says_why(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the errors that users see
    with pytest.raises(ValueError, match="landmark is causal attention"):
        switched(bert(), "landmark")(ids())
    with pytest.raises(ValueError, match="landmark has no option every; it has block"):
        switched(llama(), "landmark", every=5)(ids())
    with pytest.raises(ValueError, match="of the other 1 be chosen"):
        convert_model(llama(), "moh", shared=3, routed=2)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        convert_model(llama(), "dma", window=0)
    with pytest.raises(ValueError, match="'norm' or 'learned', got 'best'"):
        convert_model(llama(), "moh", router="best")
    with pytest.raises(ValueError, match=r"'landmark' is a mechanism that cannot be put in.*go by name"):
        convert_model(llama(), "landmark")
    mistral = transformers.MistralForCausalLM(
        transformers.MistralConfig(**TEXT, num_key_value_heads=2, sliding_window=8)
    ).eval()
    for name in BY_NAME:
        with pytest.raises(ValueError, match=f"{name} knows causal attention and padding"):
            switched(mistral, name)(ids())
    for name in BY_CONVERTER:
        model = transformers.MistralForCausalLM(mistral.config).eval()
        with pytest.raises(ValueError, match=f"{name} knows causal attention and padding"):
            convert_model(model, name)(ids())
