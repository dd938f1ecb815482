"""Redistribution in tiny LLaVA models: what the published code gets wrong, each as a test that fails on it.

Published: sinks of the first prompt are reused for all later ones, batches edit the wrong rows, the last layer is edited.
"""

import pytest
import torch

from core_attention import capture
from core_attention.mechanisms.var_sink.finding import find_sink_dims
from core_attention.mechanisms.var_sink.known import known_dims
from core_attention.mechanisms.var_sink.pretrained import VisualAttentionRedistribution
from core_attention.mechanisms.var_sink.redistribution import Rule, redistribute
from core_attention.pretrained.transformers import register_with_transformers

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

IMAGE, SINK, TAU = 63, 5, 4.0
RULE = Rule(keep_fraction=0.3, least_image_share=0.3, most_sink_share=0.4)


def llava(implementation="sdpa", kv_heads=2, layers=5):
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": 28, "patch_size": 7, "model_type": "clip_vision_model", "projection_dim": 16}
    text = {"model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 4, "num_key_value_heads": kv_heads, "vocab_size": 64, "initializer_range": 0.15}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=16,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation=implementation).eval()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[1, SINK] = 30  # the first token, as in trained models
        projector = model.model.multi_modal_projector
        projector.linear_1.weight[0].normal_(std=2)
        projector.linear_1.bias[0] = -2.0  # some patches pass, and which ones depends on the picture
        projector.linear_2.weight[SINK, 0] = 20
    return model


def picture(seed):
    return torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def prompt(seed, after=5, images=1, between=2, pad=0):
    generator = torch.Generator().manual_seed(seed)
    words = lambda n: torch.randint(3, 60, (n,), generator=generator).tolist()  # noqa: E731
    ids = [1]
    for _ in range(images):
        ids += [*words(between), *[IMAGE] * 16]
    ids += words(after)
    mask = [0] * pad + [1] * len(ids)
    pixels = torch.cat([picture(100 + seed + place) for place in range(images)])
    return {
        "input_ids": torch.tensor([[0] * pad + ids]),
        "attention_mask": torch.tensor([mask]),
        "pixel_values": pixels,
    }


def redistribution(model, **options):
    return VisualAttentionRedistribution(model, dims=(SINK,), tau=TAU, rule=RULE, **options)


def hooks(model):
    return [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in model.modules()]


@torch.no_grad()
def logits(model, given):
    return model(**given).logits


def test_it_changes_answers_and_counts_what_it_edits():
    model, given = llava(), prompt(0)
    plain = logits(model, given)
    with redistribution(model) as var:
        edited = logits(model, given)
    assert 0 < var.edited_share < 1
    assert set(var.counts.edited) == {2, 3}  # not the first two layers, not the last
    assert not torch.allclose(plain[:, -1], edited[:, -1])
    last_image = int((given["input_ids"][0] == IMAGE).nonzero().max())
    torch.testing.assert_close(plain[:, : last_image + 1], edited[:, : last_image + 1], rtol=0, atol=0)


@torch.no_grad()
def test_two_pictures_in_one_process_are_as_in_fresh_ones():
    """The published code keeps the sinks of the first prompt for all that follow."""
    first, second = prompt(0), prompt(7, after=4, between=5)
    fresh = llava()
    with redistribution(fresh):
        expected = fresh.generate(
            **second, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    model = llava()
    with redistribution(model) as var:
        model.generate(**first, max_new_tokens=6, do_sample=False)
        before = var.sinks(2)
        found = model.generate(
            **second, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert not torch.equal(before[:, :20], var.sinks(2)[:, :20])  # the pictures do have other sinks
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "core_attention"])
@torch.no_grad()
def test_a_padded_batch_with_several_pictures_is_as_its_samples_alone(implementation):
    """The published code truncates the batch's coordinates instead of filtering them."""
    register_with_transformers("core_attention")
    model = llava(implementation)
    singles = [prompt(0), prompt(3, after=7, images=2), prompt(5, after=2, between=6)]
    longest = max(one["input_ids"].shape[1] for one in singles)
    padded = []
    for seed, options in ((0, {}), (3, {"after": 7, "images": 2}), (5, {"after": 2, "between": 6})):
        length = prompt(seed, **options)["input_ids"].shape[1]
        padded.append(prompt(seed, **options, pad=longest - length))
    batch = {key: torch.cat([one[key] for one in padded]) for key in padded[0]}
    arguments = {
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with redistribution(model) as var:
        together = model.generate(**batch, **arguments)
    assert var.edited_share > 0
    for place, one in enumerate(singles):
        with redistribution(model) as var:
            alone = model.generate(**one, **arguments)
        assert var.edited_share > 0
        for ours, theirs in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[place], theirs[0], rtol=1e-4, atol=2e-4)


def test_the_last_layer_is_left_alone_unless_asked():
    """The published configuration says so and the published code edits it all the same."""
    model, given = llava(), prompt(0)
    with redistribution(model) as var:
        logits(model, given)
    assert 4 not in var.counts.edited
    with redistribution(model, skip_last_layer=False) as var:
        logits(model, given)
    assert var.counts.edited[4] > 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_restored_also_after_an_exception_in_generate(implementation):
    model, given = llava(implementation), prompt(0)
    plain, before = logits(model, given), hooks(model)

    class Fails(transformers.LogitsProcessor):
        def __call__(self, ids, scores):
            raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"), redistribution(model):
        model.generate(**given, max_new_tokens=3, logits_processor=transformers.LogitsProcessorList([Fails()]))
    text = model.model.language_model
    assert text.config._attn_implementation == implementation
    assert model.model.vision_tower.config._attn_implementation == implementation
    assert hooks(model) == before
    torch.testing.assert_close(logits(model, given), plain, rtol=0, atol=0)
    with redistribution(model):  # and it can be used again
        logits(model, given)


@pytest.mark.parametrize(
    "options",
    [{"rule": Rule(keep_fraction=1.0)}, {"rule": Rule(0.3, least_image_share=1.5)}, {"dims": (9,)}],
    ids=["keeps all", "no head looks", "no sinks"],
)
def test_where_nothing_moves_every_bit_stays(options):
    model, given = llava(), prompt(0)
    plain = logits(model, given)
    given_options = {"dims": (SINK,), "tau": TAU, "rule": RULE} | options
    with VisualAttentionRedistribution(model, **given_options) as var:
        torch.testing.assert_close(logits(model, given), plain, rtol=0, atol=0)
    assert var.edited_share == 0


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_the_fast_path_is_the_explicit_one(kv_heads):
    """Captured weights are the definition's, and values under them give the layer's output."""
    model, given = llava(kv_heads=kv_heads), prompt(0)
    name = "model.language_model.layers.2.self_attn"
    layer = model.get_submodule(name)
    outputs = []
    handle = layer.o_proj.register_forward_pre_hook(lambda m, a: outputs.append(a[0]))
    values = []
    second = layer.v_proj.register_forward_hook(lambda m, a, o: values.append(o))
    with capture(model, layers=name) as maps:
        logits(model, given)
    with redistribution(model) as var, capture(model, layers=name) as edited_maps:
        logits(model, given)
    handle.remove()
    second.remove()
    image = given["input_ids"] == IMAGE
    last = int(image[0].nonzero().max())
    editable = (torch.arange(image.shape[1]) > last)[None]
    expected, selected = redistribute(maps[name], image, var.sinks(2), editable, RULE)
    torch.testing.assert_close(edited_maps[name], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(edited_maps.all(name, "edited")[-1][..., 0].bool(), selected)
    heads = values[-1].unflatten(-1, (kv_heads, -1)).transpose(1, 2).repeat_interleave(4 // kv_heads, 1)
    by_hand = (expected @ heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(outputs[-1], by_hand, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_decoding_with_a_cache_is_as_without_and_with_a_static_one():
    model, given = llava(), prompt(0)
    arguments = {
        "max_new_tokens": 5,
        "min_new_tokens": 5,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with redistribution(model):
        dynamic = model.generate(**given, **arguments)
        static = model.generate(**given, **arguments, cache_implementation="static", disable_compile=True)
    for ours, theirs in zip(static.logits, dynamic.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def kept_by(output):
    """What a pass keeps for the next one, by the name that this version of transformers gives it."""
    name = "cache" if hasattr(output, "cache") else "past_key_values"
    return {name: getattr(output, name)}


@torch.no_grad()
def test_a_prompt_in_two_parts_is_as_in_one():
    model, given = llava(), prompt(0)
    ids = given["input_ids"]
    cut = int((ids[0] == IMAGE).nonzero().max()) + 3
    with redistribution(model):
        whole = model(**given).logits
    with redistribution(model):
        first = model(input_ids=ids[:, :cut], pixel_values=given["pixel_values"], use_cache=True)
        rest = model(input_ids=ids[:, cut:], use_cache=True, **kept_by(first)).logits
    torch.testing.assert_close(rest, whole[:, cut:], rtol=1e-4, atol=1e-4)


def test_what_it_cannot_do_is_refused():
    model, given = llava(), prompt(0)
    kept, before = kept_by(model(**given, use_cache=True)), hooks(model)
    with redistribution(model), pytest.raises(ValueError, match="start with the whole prompt"):
        model(input_ids=torch.tensor([[5]]), **kept)
    with redistribution(model), pytest.raises(ValueError, match="in another redistribution"), redistribution(model):
        pass
    with redistribution(model), pytest.raises(ValueError, match="give image_mask"):
        model(inputs_embeds=torch.randn(1, 4, 48))
    with pytest.raises(ValueError, match="at most √48"):
        VisualAttentionRedistribution(model, dims=(SINK,))
    with pytest.raises(ValueError, match="no decoder layers"):
        VisualAttentionRedistribution(torch.nn.Linear(2, 2), dims=(0,))
    assert hooks(model) == before


def test_planted_dimensions_are_found_and_an_untrained_model_has_none():
    model = llava()
    found = find_sink_dims(model, [prompt(seed) for seed in range(4)], tau=TAU)
    assert found.dims == (SINK,)
    assert found.evidence[0].dim == SINK
    assert found.evidence[0].prompts == 1
    assert found.evidence[0].ratio > TAU > found.evidence[1].ratio
    padded = find_sink_dims(model, [prompt(seed, pad=3) for seed in range(4)], tau=TAU)
    assert padded.dims == (SINK,)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[1, SINK] = 0
    assert find_sink_dims(model, [prompt(0)], tau=TAU).dims == ()


def test_published_dimensions_belong_to_their_configurations_only():
    assert known_dims(llava().config) is None
    text = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32}
    assert known_dims(transformers.LlavaConfig(text_config=text)).dims == (1415, 2533)
    assert known_dims(transformers.LlavaConfig(text_config=text | {"model_type": "mistral"})) is None
