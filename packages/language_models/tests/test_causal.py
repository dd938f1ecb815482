"""The loss, and what is refused before a model reads it."""

import pytest
import torch
from tiny import ids_of, tiny
from torch.nn import functional as F

from language_models.model.causal import next_token_loss


@pytest.fixture(scope="module")
def predictions():
    """Logits (1, 8, 5) and labels (1, 8) under which every place has a loss of its own."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 8, 5, generator=generator), torch.randint(5, (1, 8), generator=generator)


def mean_loss(logits, labels, places):
    """The loss by hand: the logits of each place, the label of the next."""
    losses = [F.cross_entropy(logits[0, place], labels[0, place + 1]) for place in places]
    return torch.stack(losses).mean()


def test_a_token_is_predicted_from_the_one_before(predictions):
    torch.testing.assert_close(next_token_loss(*predictions), mean_loss(*predictions, range(7)))


def test_padding_is_neither_asked_for_nor_asked(predictions):
    real = torch.tensor([[False, False, True, True, True, False, True, True]])
    torch.testing.assert_close(next_token_loss(*predictions, real), mean_loss(*predictions, (2, 3, 6)))


def test_no_loss_crosses_the_border_of_documents(predictions):
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]])
    loss = next_token_loss(*predictions, None, documents)
    torch.testing.assert_close(loss, mean_loss(*predictions, (0, 1, 3, 4, 5)))


@pytest.mark.parametrize(("name", "options"), [("moh-learned", {}), ("doge-moe", {"output_router_logits": True})])
def test_the_loss_holds_the_auxiliary_loss_of_the_layers(name, options):
    model, ids = tiny(name, **options).train(), ids_of(2, 12)
    with torch.no_grad():
        output = model(ids, labels=ids)
        auxiliary = model.model(ids)[1]
    assert auxiliary > 0
    expected = next_token_loss(output.logits, ids) + model.auxiliary_weight * auxiliary
    torch.testing.assert_close(output.loss, expected)
    assert model.auxiliary_weight > 0


@pytest.mark.parametrize("wrong", [37, -1])
def test_ids_outside_the_vocabulary_are_refused(wrong):
    ids = ids_of(1, 6)
    ids[0, 3] = wrong
    with pytest.raises(ValueError, match=r"the vocabulary has 0 … 36"):
        tiny("standard")(ids)


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_a_sample_that_is_all_padding_is_named(way):
    model, ids = tiny("standard"), ids_of(3, 6)
    mask = torch.ones_like(ids)
    mask[1] = 0
    options = {"max_new_tokens": 2, "pad_token_id": 0} if way == "generate" else {}
    with pytest.raises(ValueError, match=r"samples \[1\] of the batch are all padding"):
        getattr(model, way)(ids, attention_mask=mask, **options)
