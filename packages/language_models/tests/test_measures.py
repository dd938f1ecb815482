"""Measures of models whose answers are known."""

import math

import pytest
import torch
from tiny import ids_of, tiny

from language_models.model.causal import next_token_loss
from language_models.tasks import measures
from language_models.tasks.measures import bits_per_byte, window_loss
from language_models.texts.reading import read_corpus
from language_models.texts.tokens import BYTE_TOKENIZER
from language_models.texts.windows import windows_of


def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(97 + i % 26) for i in range(1000)))
    windows = windows_of(read_corpus(tmp_path / "a.txt", BYTE_TOKENIZER), 40)
    model = tiny("standard", vocab_size=BYTE_TOKENIZER.size)
    torch.nn.init.zeros_(model.lm_head.weight)
    values = bits_per_byte(model, windows, (20,), most=3)[20]
    assert values == pytest.approx([math.log2(BYTE_TOKENIZER.size)] * 3)


@pytest.mark.parametrize("name", ["standard", "sliding", "titans-mag"])
def test_a_long_text_is_judged_as_one(name, monkeypatch):
    monkeypatch.setattr(measures, "PIECE", 4)
    model, ids = tiny(name, max_position_embeddings=8), ids_of(1, 30)
    with torch.no_grad():
        whole = float(next_token_loss(model(ids).logits, ids))
    assert window_loss(model, ids) == pytest.approx(whole)
