"""A tiny LLaVA with random weights, a tokenizer made in code, and a planted sink: for the demo and for tests, offline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vision_language.model.sentences import words_of

SINK = 5  # the dimension in which the first token and some picture tokens are massive
TAU = 4.0  # φ is at most √48 here


def tiny_llava(texts: Iterable[str], *, seed: int = 0, planted: bool = True) -> tuple[Any, Any]:
    """(model, processor) of a LLaVA with 16 picture tokens that knows the words of `texts`.

    Args:
        texts: to learn words from.
        seed: of the weights.
        planted: whether the first token and the patches of one look are massive in dimension `SINK`, as in trained models.
    """
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _tokenizer(texts)
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 4, "image_size": 28, "patch_size": 7, "projection_dim": 16}
    text = {"model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 5}
    text |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "initializer_range": 0.15,
    }
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256}
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
        if planted:
            with torch.no_grad():
                _plant(model)
    size = {"height": 28, "width": 28}
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=7, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return model, processor


def _plant(model: Any) -> None:
    model.model.language_model.embed_tokens.weight[1, SINK] = 30
    projector = model.model.multi_modal_projector
    projector.linear_1.weight[0].normal_(std=2)
    projector.linear_1.bias[0] = -2.0  # some patches pass; which ones depends on the picture
    projector.linear_2.weight[SINK, 0] = 20


def _tokenizer(texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in [*texts, "user assistant yes no"] for word in words_of(text)})
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", ":", "?", *words, "<image>"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # pyright: ignore[reportAttributeAccessIssue]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        padding_side="left",
    )  # fmt: skip
    wrapped.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return wrapped


def save_tiny_llava(folder: Path, texts: Iterable[str], *, seed: int = 0, planted: bool = True) -> Path:
    """Writes it as transformers does."""
    model, processor = tiny_llava(texts, seed=seed, planted=planted)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
