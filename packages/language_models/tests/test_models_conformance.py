"""What every registered model must do, whatever its mechanism."""

import pytest
import torch
from tiny import TINY, ids_of, tiny

from language_models.model.registration import MODELS

LENGTH = 30
# one of each family in the quick tests; all with -m slow
QUICK = ("sliding", "landmark-llama", "doge", "titans-mag", "moh-learned", "scatterbrain", "rnd")
every = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
names = pytest.mark.parametrize("name", every)
all_slow = [pytest.param(name, marks=pytest.mark.slow) for name in TINY]
close = {"rtol": 1e-7, "atol": 1e-8}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_every_model_type_is_here():
    assert {model_type for model_type, _ in TINY.values()} == set(MODELS)


@names
def test_a_later_token_changes_nothing_before(name):
    model, ids = tiny(name), ids_of(2, LENGTH)
    logits = model(ids).logits
    for place in (1, 7, 16, LENGTH - 1):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 5) % 36
        after = model(changed).logits
        torch.testing.assert_close(after[:, :place], logits[:, :place], **close)
        assert not torch.allclose(after[:, place], logits[:, place]), "the token itself changes its own logits"


@names
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((1,) * LENGTH, marks=pytest.mark.slow),
        (11, 1, 1, 5, 12),
        pytest.param((LENGTH - 1, 1), marks=pytest.mark.slow),
    ],
)
def test_cached_equals_uncached(name, pieces):
    model, ids = tiny(name), ids_of(2, LENGTH)
    cache = model.new_cache()
    parts = [model(part, cache=cache).logits for part in ids.split(pieces, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits, **close)
    assert cache.get_seq_length() == LENGTH
    assert cache.state_bytes() > 0 or name == "mlp"


@pytest.mark.parametrize("name", all_slow)
def test_a_batch_equals_its_samples(name):
    model, ids = tiny(name), ids_of(3, LENGTH)
    single = torch.cat([model(sample[None]).logits for sample in ids])
    torch.testing.assert_close(model(ids).logits, single, **close)


@names
@pytest.mark.parametrize(
    "side", ["left", pytest.param("right", marks=pytest.mark.slow), pytest.param("holes", marks=pytest.mark.slow)]
)
def test_padded_equals_unpadded(name, side):
    model = tiny(name)
    lengths, ids = (LENGTH, 9, 17), ids_of(3, LENGTH)
    mask = torch.zeros_like(ids)
    for sample, length in enumerate(lengths):
        if side == "left":
            mask[sample, LENGTH - length :] = 1
        elif side == "right":
            mask[sample, :length] = 1
        else:
            mask[sample, torch.randperm(LENGTH, generator=torch.Generator().manual_seed(sample))[:length]] = 1
    logits = model(ids, attention_mask=mask).logits
    cache = model.new_cache()
    begun = model(ids[:, :20], attention_mask=mask[:, :20], cache=cache).logits
    continued = torch.cat([begun, model(ids[:, 20:], attention_mask=mask, cache=cache).logits], 1)
    for sample in range(3):
        real = mask[sample].bool()
        alone = model(ids[sample, real][None]).logits[0]
        torch.testing.assert_close(logits[sample, real], alone, **close)
        torch.testing.assert_close(continued[sample, real], alone, **close)


@names
def test_packed_documents_do_not_see_each_other(name):
    model, ids = tiny(name), ids_of(1, LENGTH)
    documents = torch.tensor([[0] * 7 + [1] * 12 + [2] * 11])
    logits = model(ids, document_ids=documents, labels=ids)
    alone = torch.cat([model(part).logits for part in ids.split((7, 12, 11), 1)], 1)
    torch.testing.assert_close(logits.logits, alone, **close)


@names
def test_greedy_generation_equals_repeated_forwards(name):
    model, ids = tiny(name), ids_of(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0  # left padding
    generated = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    for sample in range(2):
        expected = ids[sample, mask[sample].bool()][None]
        for _ in range(8):
            expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], 1)
        assert generated[sample, 9:].tolist() == expected[0, -8:].tolist()


@pytest.mark.parametrize("name", all_slow)
def test_beams_equal_a_search_without_cache(name):
    model, ids = tiny(name), ids_of(2, 6)
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    torch.testing.assert_close(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


@names
def test_saved_and_loaded_by_transformers(name, tmp_path):
    from transformers import AutoModelForCausalLM

    model, ids = tiny(name), ids_of(1, LENGTH)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert type(loaded) is type(model)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, **close)


@pytest.mark.parametrize("name", all_slow)
def test_gradient_checkpointing_changes_no_gradient(name):
    model, ids = tiny(name).train(), ids_of(2, 12)
    found = []
    with torch.enable_grad():
        for on in (False, True):
            if on:
                enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
                enable({"use_reentrant": False})
            model.zero_grad()
            torch.manual_seed(0)
            model(ids, labels=ids).loss.backward()
            found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, grad in found[0].items():
        torch.testing.assert_close(found[1][key], grad, **close)


@pytest.mark.parametrize("name", all_slow)
def test_half_precision_is_close(name):
    model, ids = tiny(name).float(), ids_of(1, 20)
    exact = model(ids).logits
    half = model.to(torch.bfloat16)(ids).logits.float()
    assert half.isfinite().all()
    assert (half - exact).norm() < 0.35 * exact.norm()
