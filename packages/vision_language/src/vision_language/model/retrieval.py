"""FocalLens-CLIP with all that stands around it: pictures and instructions in, unit vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from core_runtime.errors import UserError
from vision_language.model.focallens_clip import FocalLensCLIP, FocalLensConfig
from vision_language.model.grounding import to_pixels
from vision_language.model.sentences import words_of

if TYPE_CHECKING:
    from PIL.Image import Image

BEGIN, END, PAD, UNKNOWN = "<begin>", "<end>", "<pad>", "<unknown>"


@dataclass
class Embedder:
    """A network, its tokenizer, and the side of the square that pictures are resized to."""

    network: FocalLensCLIP
    tokenizer: Tokenizer
    side: int

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, padded behind; a text that is too long is cut, its end token stays."""
        longest = self.network.clip.config.text_config.max_position_embeddings
        end = self.tokenizer.token_to_id(END)
        rows = []
        for text in texts:
            ids = self.tokenizer.encode(" ".join([BEGIN, *words_of(text), END])).ids
            rows.append(ids if len(ids) <= longest else [*ids[: longest - 1], end])
        width = max(len(row) for row in rows)
        pad = self.tokenizer.token_to_id(PAD)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = next(self.network.parameters()).device
        return ids.to(device), mask.to(device)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of texts; each different one is computed once."""
        different = list(dict.fromkeys(texts))
        vectors = self.network.embed_text(*self.ids(different))
        return vectors[[different.index(text) for text in texts]]

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Pictures as the network takes them, −1…1."""
        device = next(self.network.parameters()).device
        return (torch.stack([to_pixels(image, self.side) for image in images]) * 2 - 1).to(device)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image], instruction: str = "", *, batch: int = 64) -> np.ndarray:
        """Unit vectors of pictures under an instruction; without one, CLIP's own. (pictures, dim), float32."""
        condition = self.embed_texts([instruction]) if instruction.strip() else None
        rows = []
        for start in range(0, len(images), batch):
            pixels = self.pixels(images[start : start + batch])
            given = None if condition is None else condition.expand(len(pixels), -1)
            rows.append(self.network.embed_image(pixels, given).float().cpu())
        vectors = torch.cat(rows).numpy()
        if not np.isfinite(vectors).all():
            raise UserError("the model's embeddings are not finite", "its weights are damaged: train again")
        return vectors


def word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer that knows the words of `texts`."""
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = sorted({word for text in texts for word in words_of(text)})
    vocabulary = {token: number for number, token in enumerate([PAD, UNKNOWN, BEGIN, *words, END])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def tiny_embedder(texts: Iterable[str], *, side: int = 32, width: int = 48, layers: int = 2, seed: int = 0) -> Embedder:
    """A small untrained FocalLens-CLIP, for the demo, for tests, and to train from nothing."""
    tokenizer = word_tokenizer(texts)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "projection_dim": 32}
    clip = {
        "projection_dim": 32,
        "vision_config": sizes | {"num_hidden_layers": layers, "image_size": side, "patch_size": side // 4},
        "text_config": sizes
        | {
            "num_hidden_layers": 1,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 32,
            "eos_token_id": tokenizer.token_to_id(END),
            "bos_token_id": tokenizer.token_to_id(BEGIN),
            "pad_token_id": tokenizer.token_to_id(PAD),
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FocalLensCLIP(FocalLensConfig(clip))
        vocabulary = tokenizer.get_vocab()
        _tell_words_apart(network, [vocabulary[token] for token in (PAD, BEGIN, END)])
        torch.nn.init.normal_(network.condition_proj.weight, std=network.clip.config.projection_dim**-0.5)
    return Embedder(network.eval(), tokenizer, side)


@torch.no_grad()
def _tell_words_apart(network: FocalLensCLIP, marks: Sequence[int]) -> None:
    """Makes a random text encoder a bag of random words.

    As CLIP is initialised, the end token's own embedding drowns what it attends to, and all texts are nearly one vector.
    """
    text = network.clip.text_model
    torch.nn.init.normal_(text.embeddings.token_embedding.weight)
    text.embeddings.token_embedding.weight[list(marks)] = 0
    text.embeddings.position_embedding.weight.zero_()
    for layer in text.encoder.layers:
        for projection in (layer.self_attn.v_proj, layer.self_attn.out_proj):
            torch.nn.init.normal_(projection.weight, std=projection.weight.shape[1] ** -0.5)
