"""A small Qwen2.5-VL with random weights and a tokenizer made in code: for the demo, for tests, and to train from nothing on a CPU."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from gui_grounding.model.answers import END, PAD, START
from gui_grounding.model.pointer import PointerConfig, PointerModel
from gui_grounding.model.tokens import IMAGE, TEXT_END, TURN_END, VIDEO, VISION, VISION_END, Tokens, make_tokenizer


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a small backbone; 14 × 14 patches merged 2 × 2 as in the published ones.

    Attributes:
        width: of the language model and of the head; a multiple of 8.
        layers: of the language model.
        vision_width, vision_layers: of the vision tower; all of its layers see the whole picture.
        heads: of every attention layer.
        longest: tokens of the longest prompt.
    """

    width: int = 64
    layers: int = 2
    vision_width: int = 64
    vision_layers: int = 2
    heads: int = 4
    longest: int = 4096


def tiny_backbone(
    tokens: Tokens, sizes: TinySizes, *, family: str = "qwen2_5_vl", tied: bool = False
) -> dict[str, Any]:
    """transformers' configuration of a small backbone for this tokenizer."""
    # the published 0.02 suits thousands of channels; of a few dozen it would leave next to nothing of a signal
    spread = sizes.width**-0.5
    half = sizes.width // sizes.heads // 2
    section = [half - 2 * (half // 3), half // 3, half // 3]
    text = {
        "vocab_size": tokens.size,
        "hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads // 2,
        "max_position_embeddings": sizes.longest,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "bos_token_id": tokens.id(TEXT_END),
        "eos_token_id": tokens.id(TURN_END),
        "pad_token_id": tokens.id(TEXT_END),
        "initializer_range": spread,
    }
    vision: dict[str, Any] = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision_width,
        "intermediate_size": 2 * sizes.vision_width,
        "num_heads": sizes.heads,
        "out_hidden_size": sizes.width,
        "window_size": 112,
        "fullatt_block_indexes": list(range(sizes.vision_layers)),
        "initializer_range": spread,
    }
    if family == "qwen2_vl":
        vision = {
            "depth": sizes.vision_layers,
            "embed_dim": sizes.vision_width,
            "hidden_size": sizes.width,
            "mlp_ratio": 2,
            "num_heads": sizes.heads,
            "initializer_range": spread,
        }
    return {
        "model_type": family,
        "text_config": text,
        "vision_config": vision,
        "image_token_id": tokens.id(IMAGE),
        "video_token_id": tokens.id(VIDEO),
        "vision_start_token_id": tokens.id(VISION),
        "vision_end_token_id": tokens.id(VISION_END),
        "tie_word_embeddings": tied,
    }


def tiny_model(
    texts: Iterable[str],
    *,
    sizes: TinySizes = TinySizes(),
    seed: int = 0,
    family: str = "qwen2_5_vl",
    tied: bool = False,
    suppress: bool = True,
) -> tuple[PointerModel, Tokens]:
    """A small untrained model, and a tokenizer that knows the words of `texts`.

    Args:
        texts: to learn words from.
        sizes: of the backbone.
        seed: of the weights; torch's own generator is left as it was.
        family: ``qwen2_5_vl`` or ``qwen2_vl``.
        tied: whether input and output embeddings are one tensor, as in the published 2B and 3B models.
        suppress: V2P's loss, or GUI-Actor's.
    """
    tokens = make_tokenizer(texts)
    config = PointerConfig(
        backbone=tiny_backbone(tokens, sizes, family=family, tied=tied),
        pointer_start=tokens.id(START),
        pointer_pad=tokens.id(PAD),
        pointer_end=tokens.id(END),
        suppress=suppress,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PointerModel(config)
    return model.eval(), tokens
