"""Sentences as vectors: a hashed bag of words that needs nothing, or a sentence encoder from a folder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from core_runtime.errors import UserError

HASHED = "hashed-words"


class SentenceEncoder(Protocol):
    """Sentences → unit vectors.

    Attributes:
        name: what a model folder calls it.
        dim: size of the vectors.
    """

    name: str
    dim: int

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """(sentences, dim)."""
        ...


def words_of(sentence: str) -> list[str]:
    """The words of a sentence in small letters, of any script; emoji and other symbols are words of their own."""
    pieces = re.findall(r"\w+|\S", sentence.lower())
    return [word for word in pieces if word[0].isalnum() or unicodedata.category(word[0]).startswith(("L", "N", "S"))]


class HashedWords:
    """Each word and each pair of neighbours adds a fixed random direction (feature hashing, Weinberger et al. 2009).

    Needs no download, knows every script, and knows nothing of meaning: "cup" and "mug" are unrelated.
    """

    def __init__(self, dim: int = 384):
        self.name, self.dim = HASHED, dim
        self._directions: dict[str, Tensor] = {}

    def encode(self, sentences: Sequence[str]) -> Tensor:
        rows = []
        for sentence in sentences:
            words = words_of(sentence)
            terms = words + [f"{a} {b}" for a, b in pairwise(words)]
            row = torch.zeros(self.dim)
            for term in terms:
                weight = 1.0 if " " not in term else 0.25  # order counts less than presence
                row = row + weight * self._direction(term)
            rows.append(row)
        return F.normalize(torch.stack(rows), dim=-1)

    def _direction(self, term: str) -> Tensor:
        if term not in self._directions:
            seed = int.from_bytes(hashlib.sha256(term.encode()).digest()[:7], "big")
            self._directions[term] = torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))
        return self._directions[term]


class FolderEncoder:
    """A sentence encoder of transformers from a local folder (all-MiniLM-L6-v2 …): frozen, mean over tokens; sentences are encoded once."""

    def __init__(self, folder: str):
        from transformers import AutoModel, AutoTokenizer

        if not Path(folder).is_dir():
            raise UserError(f"{folder} is not a folder with a sentence encoder", f"or use --encoder {HASHED}")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no sentence encoder: {str(error).splitlines()[0]}") from None
        self.name, self.dim = folder, self.model.config.hidden_size
        self._known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        if new:
            inputs = self.tokenizer(new, padding=True, truncation=True, return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(hidden)
            vectors = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
            self._known |= dict(zip(new, vectors, strict=True))
        return torch.stack([self._known[sentence] for sentence in sentences])


def encoder_named(name: str, dim: int = 384) -> SentenceEncoder:
    """The encoder that a model folder or the user names."""
    return HashedWords(dim) if name == HASHED else FolderEncoder(name)


def usable_sentence(sentence: str) -> str:
    """The sentence without outer spaces.

    Raises:
        UserError: it holds no word.
    """
    if not words_of(sentence):
        raise UserError(f"the sentence {sentence!r} holds no word", "say what is to be found, as in 'the red circle'")
    return sentence.strip()
