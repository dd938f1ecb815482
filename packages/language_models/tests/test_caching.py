"""What transformers asks of a cache: beams change places, and the last tokens are forgotten again."""

import pytest
import torch
from tiny import ids_of, tiny

close = {"rtol": 1e-7, "atol": 1e-8}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", ["sliding", "doge", "titans-mag", "landmark-llama"])
def test_beams_go_on_as_copies_of_those_they_come_from(name):
    model, ids = tiny(name), ids_of(3, 12)
    cache = model.new_cache()
    model(ids[:, :9], cache=cache)
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    continued = model(ids[order, 9:], cache=cache).logits
    torch.testing.assert_close(continued, model(ids[order]).logits[:, 9:], **close)


def test_beams_of_unequal_padding_change_places():
    model, ids = tiny("standard"), ids_of(3, 12)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    cache = model.new_cache()
    model(ids[:, :9], attention_mask=mask[:, :9], cache=cache)
    order = torch.tensor([1, 2, 1])
    cache.reorder_cache(order)
    continued = model(ids[order, 9:], attention_mask=mask[order], cache=cache).logits
    torch.testing.assert_close(continued, model(ids[order], attention_mask=mask[order]).logits[:, 9:], **close)


@pytest.mark.parametrize("name", ["standard", "mlp"])
@pytest.mark.parametrize("keep", [5, -4], ids=["to a length", "by a number"])
def test_a_cache_goes_back_and_reads_other_tokens(name, keep):
    model, ids, others = tiny(name), ids_of(2, 9), ids_of(2, 9, seed=2)
    cache = model.new_cache()
    model(ids, cache=cache)
    cache.crop(keep)
    continued = model(others[:, 5:], cache=cache).logits
    whole = torch.cat([ids[:, :5], others[:, 5:]], 1)
    torch.testing.assert_close(continued, model(whole).logits[:, 5:], **close)
    assert cache.get_seq_length() == 9


def test_a_summary_cannot_go_back():
    model, cache = tiny("nonapprox"), tiny("nonapprox").new_cache()
    model(ids_of(2, 9), cache=cache)
    with pytest.raises(ValueError, match="cannot go back to 5 tokens: keep a copy"):
        cache.crop(5)


def test_a_window_keeps_the_keys_that_later_tokens_see_and_no_more():
    model, ids = tiny("sliding", window=5), ids_of(1, 20)
    cache = model.new_cache()
    model(ids, cache=cache)
    for layer in cache.groups[0].layers:
        assert layer.keys.shape[2] == layer.values.shape[2] == 4
