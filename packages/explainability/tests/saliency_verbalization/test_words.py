import json

import numpy as np
import pytest
import torch

from explainability.saliency_verbalization.words import (
    cov_at_k,
    instruction,
    merge_pieces,
    quotes,
    read_template,
    recitation_precision,
    verbalize,
    verbalize_with,
)

TOKENS = ["the", "film", "was", "truly", "wonderful", "and", "all", "actors", "were", "fine", "today"]
VALUES = [0.01, 0.1, 0.02, 0.8, 1.2, 0.03, 0.01, 0.05, 0.02, 0.2, 0.01]


def test_spans_print_their_coverage():
    said = verbalize(TOKENS, VALUES, label="positive")
    assert "truly wonderful" in said.spans[0].text
    for span in said.spans:
        assert f"{100 * span.coverage:.1f}%" in said.text
        assert said.spans[0].coverage == pytest.approx(
            sum(VALUES[said.spans[0].first : said.spans[0].last + 1]) / sum(VALUES)
        )
    assert recitation_precision(TOKENS, said.text) == 1


def test_captum_tensors_languages_and_templates(tmp_path):
    assert verbalize(TOKENS, torch.tensor(VALUES), template=read_template("de")).text.startswith("Am meisten zählt")
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**read_template("en"), "first": "{text}!"}))
    assert verbalize(TOKENS, VALUES, template=read_template(own)).text.startswith("the film was truly wonderful")
    with pytest.raises(ValueError, match="no template for 'xx'"):
        read_template("xx")


def test_pieces_become_words_and_keep_their_sum():
    for tokens in (
        ["un", "##believ", "##able", "film"],
        ["Ġun", "believ", "able", "Ġfilm"],
        ["▁un", "believ", "able", "▁film"],
    ):
        words, sums = merge_pieces(tokens, np.array([1.0, 2, 3, 4]))
        assert words == ["unbelievable", "film"]
        assert sums.tolist() == [6, 4]


def test_texts_without_a_salient_part():
    assert verbalize(TOKENS, [-1.0] * 11).text == "No part of the text stands out."
    assert not verbalize([], []).spans
    with pytest.raises(ValueError, match="one attribution per token"):
        verbalize(TOKENS, [1.0])


def test_instruction_and_a_stub():
    messages = instruction(TOKENS, VALUES, "positive")
    asked = messages[1]["content"]
    places = [asked.index(f"{token} ({value:.2f})") for token, value in zip(TOKENS, VALUES, strict=True)]
    assert places == sorted(places)
    answer = verbalize_with(
        lambda m: "It is positive for its “truly wonderful” film.", TOKENS, VALUES, "positive", mask="LABEL"
    )
    assert "positive" not in answer
    assert quotes(answer) == ["truly wonderful"]
    assert recitation_precision(TOKENS, answer) == 1
    assert recitation_precision(TOKENS, "‘’ “never said”") == 0
    assert cov_at_k(TOKENS, VALUES, answer, 2) == pytest.approx(2.0 / sum(VALUES))
    assert cov_at_k(TOKENS, VALUES, answer, 1) == pytest.approx(1.2 / sum(VALUES))
