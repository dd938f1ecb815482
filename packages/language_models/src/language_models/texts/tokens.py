"""Tokenizers: bytes by default, or any ``tokenizer.json``.

Both have an end of text, which stands between documents, and ids of their own that no text holds: the landmark, and the mark and the values of
synthetic needles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, named

VALUES = 16  # what a synthetic needle may hold
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]", "[EOS]", "<|im_end|>")


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
        name: ``"bytes"``, or the digest of the file.
        text_size: ids that text can give.
        end: the id of the end of a text.
        inner: a `tokenizers.Tokenizer`; None: bytes.
        json: the file's text, which goes with a model.
    """

    name: str
    text_size: int
    end: int
    inner: Any = None
    json: str | None = None

    @property
    def landmark(self) -> int:
        """Stands for a block in landmark attention."""
        return self.text_size

    @property
    def mark(self) -> int:
        """Stands before a needle, and before the question for it."""
        return self.text_size + 1

    @property
    def size(self) -> int:
        """Rows of the embedding."""
        return self.text_size + 2 + VALUES

    @property
    def values(self) -> range:
        """The ids of what needles hold."""
        return range(self.text_size + 2, self.size)

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The narrowest ids."""
        return np.uint16 if self.size <= 65536 else np.uint32

    def encode(self, text: bytes | str) -> NDArray[Any]:
        """Ids of a text, without the end.

        Raises:
            UnicodeDecodeError: bytes that are not UTF-8, where the tokenizer needs text.
        """
        if self.inner is None:
            data = text.encode() if isinstance(text, str) else text
            return np.frombuffer(data, np.uint8).astype(self.dtype)
        return np.asarray(self.inner.encode(text if isinstance(text, str) else text.decode()).ids, self.dtype)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of ids; those that stand for no text are left out."""
        plain = [int(i) for i in ids if int(i) < self.text_size and int(i) != self.end]
        if self.inner is None:
            return bytes(plain).decode(errors="replace")
        return self.inner.decode(plain)

    def byte_count(self, ids: NDArray[Any]) -> int:
        """Bytes of UTF-8 that these ids stand for; an end counts as one."""
        if self.inner is None:
            return len(ids)
        return len(self.decode(ids).encode()) + int((ids == self.end).sum())


BYTE_TOKENIZER = Tokenizer("bytes", 257, 256)


def read_tokenizer(path: Path | str | None) -> Tokenizer:
    """The byte tokenizer (None or ``"bytes"``), or that of a ``tokenizer.json``.

    Raises:
        UserError: the file cannot be read, or has no end of text.
    """
    if path is None or str(path) == "bytes":
        return BYTE_TOKENIZER
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "give a tokenizer.json of the tokenizers library, or bytes") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(named(Path(path), error), "give a tokenizer.json of the tokenizers library, or bytes") from None
    return tokenizer_of(text, str(path))


def tokenizer_of(text: str, where: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer of the text of a ``tokenizer.json``."""
    from tokenizers import Tokenizer as Inner

    try:
        inner = Inner.from_str(text)
    except Exception as error:  # the library raises plain exceptions
        raise UserError(
            f"{where} is not a tokenizer: {error}", "give a tokenizer.json of the tokenizers library"
        ) from None
    numbers = [inner.token_to_id(name) for name in ENDS]
    ends = [number for number in numbers if number is not None]
    if not ends:
        raise UserError(f"{where} has no end of text", f"it needs one of {', '.join(ENDS)}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Tokenizer(digest, inner.get_vocab_size(), ends[0], inner, text)
