"""The kinds of the study as models: where queries and keys come from, and the fixed stream."""

import pytest
import torch
from tiny import SIZES, ids_of, tiny

from language_models.arena.cells import train_plainly
from language_models.model.deconstructed import DeconstructedConfig, DeconstructedForCausalLM
from language_models.tasks.measures import recall
from language_models.tasks.recall import recall_batch


def test_the_first_static_layer_is_a_standard_one():
    """Its input is the embedding itself, which passes the same norm."""
    ids = torch.arange(12)[None]
    torch.manual_seed(0)
    static = DeconstructedForCausalLM(DeconstructedConfig(**{**SIZES, "num_hidden_layers": 1}, pattern="static"))
    standard = DeconstructedForCausalLM(DeconstructedConfig(**{**SIZES, "num_hidden_layers": 1}, pattern="standard"))
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.normal_(std=0.5)
        standard.load_state_dict(static.state_dict())
        torch.testing.assert_close(static(ids).logits, standard(ids).logits)


def test_the_fixed_stream_grows_with_the_text_that_is_read():
    model = tiny("rnd", fixed_length=200)
    ids = torch.randint(36, (1, 150), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache()
    lengths, parts = [], []
    with torch.no_grad():
        for part in ids.split((40, 35, 75), 1):
            parts.append(model(part, cache=cache).logits)
            lengths.append(cache.groups[0].layers[0].stream.shape[1])
        torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits)
    assert lengths == [80, 80, 200], "twice the tokens read, up to the whole stream"


@pytest.mark.parametrize("name", ["rnd", "fixedseq"])
def test_fixed_maps_are_the_same_for_all_texts(name):
    model = tiny(name)
    one, other = (model.attention_maps(ids_of(2, 12, seed)) for seed in (1, 2))
    fixed = [i for i, kind in enumerate(model.config.kinds) if kind == name]
    assert fixed
    for layer in fixed:
        torch.testing.assert_close(one[layer], other[layer])
        torch.testing.assert_close(one[layer][0], one[layer][1])


def test_static_maps_depend_on_the_ids_and_not_on_the_layers_before():
    model, ids = tiny("static"), ids_of(1, 12)
    before = model.attention_maps(ids)
    assert not torch.allclose(model.attention_maps(ids.flip(1))[2], before[2])
    for layer in model.model.layers[:2]:
        for parameter in layer.parameters():
            parameter.data.mul_(3)
    after = model.attention_maps(ids)
    torch.testing.assert_close(after[2], before[2])
    assert not torch.allclose(after[1], before[1]), "its own weights count"


def test_layers_of_mlps_alone_mix_no_tokens():
    model, ids = tiny("mlp"), ids_of(1, 12)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 36
    with torch.no_grad():
        differs = (model(ids).logits != model(changed).logits).any(-1)
    assert differs[0].nonzero()[:, 0].tolist() == [5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "solves"), [("standard", True), ("hybrid:even:fixedseq", True), ("uniform:mlp", False)]
)
def test_recall_is_solved_by_standard_layers_and_hybrids_and_not_by_mlps(pattern, solves):
    """Two layers, pairs of 32 keys and 32 values: the smallest setting that a Standard model learns within a minute."""
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    model = DeconstructedForCausalLM(
        DeconstructedConfig(**sizes, pattern=pattern, fixed_length=64, initializer_range=0.075)
    )
    generator = torch.Generator().manual_seed(0)

    def batches(steps):
        for _ in range(steps):
            pairs = (2, 4)[int(torch.randint(2, (1,), generator=generator))]
            yield (*recall_batch(64, pairs, generator), None)

    train_plainly(model, batches(700), 700, 3e-3, "cpu", "32-true")
    accuracy = recall(model, (2,), 128, 2_000)[2]
    assert accuracy > 0.9 if solves else accuracy < 0.1, accuracy
