"""RefAM's prompts: magnets behind the sentence, sub-words, truncation, and scripts of every kind."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from core_runtime.errors import UserError
from vision_language.model.prompts import MAGNETS, make_prompt


@pytest.fixture(scope="module")
def tokenizer():
    """Words of one or two pieces between <s> and </s>."""
    pieces = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "red",
        "cup",
        "##board",
        "the",
        "of",
        "with",
        ".",
        "and",
        "pink",
        "on",
        ",",
        "left",
    ]
    made = Tokenizer(WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")


def test_every_token_has_its_part(tokenizer):
    prompt = make_prompt("the red cupboard, on", tokenizer, longest=16)
    assert prompt.text == "the red cupboard, on of with . and pink"
    assert prompt.magnets == ("of", "with", ".", "and", "pink")  # "the" stands in the sentence
    tokens = prompt.tokens
    assert tokens.names == ("red", "cupboard")
    assert tokens.words == ((2,), (3, 4))
    assert tokens.stop == (1, 5, 6)
    assert tokens.magnets == (7, 8, 9, 10, 11)
    assert tokens.special == (0, 12, 13, 14, 15)


def test_magnets_go_first_and_words_stay_where_they_are(tokenizer):
    whole = make_prompt("red cup", tokenizer, longest=99)
    assert whole.magnets == MAGNETS
    cut = make_prompt("red cup", tokenizer, longest=6)
    assert cut.magnets == MAGNETS[:2]
    assert cut.tokens.words == whole.tokens.words
    assert "4 magnets were left out" in cut.notes[0]
    bare = make_prompt("red cup", tokenizer, longest=4)
    assert bare.magnets == ()
    with pytest.raises(UserError, match="has 4 tokens, the text encoder takes 3"):
        make_prompt("red cup", tokenizer, longest=3)


def test_positions_behind_another_encoder(tokenizer):
    assert make_prompt("red cup", tokenizer, longest=12, first=77).tokens.words == ((78,), (79,))


def test_sentences_without_a_word_that_counts_are_refused(tokenizer):
    for sentence in ("the of", "…", "."):
        with pytest.raises(UserError, match="only stop words"):
            make_prompt(sentence, tokenizer, longest=20)


@pytest.mark.parametrize("sentence", ["الكوب الأحمر", "红色 杯子", "cup 🏺"])
def test_other_scripts_keep_their_words(tokenizer, sentence):
    prompt = make_prompt(sentence, tokenizer, longest=20)
    assert prompt.tokens.words
    assert " ".join(prompt.tokens.names) in sentence
