"""Documents of text files, records, compressed bytes and token files, as one stream of ids."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, named
from core_runtime.terminal import track
from language_models.texts.formats import DATASET, find_texts, kind_of
from language_models.texts.tokens import Tokenizer
from language_models.texts.zstd import ZstdStream

LONGEST_LINE = 64 * 2**20  # bytes of one record


@dataclass(frozen=True)
class Corpus:
    """A stream of ids.

    Attributes:
        ids: all documents one after the other, each followed by the end of text.
        starts: where each document begins.
        files: what was read.
        tokenizer: whose ids they are.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    files: Sequence[Path]
    tokenizer: Tokenizer

    def window(self, begin: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of a window, and the number of each one's document."""
        ids = np.asarray(self.ids[begin : begin + length]).astype(np.int64)
        places = np.arange(begin, begin + len(ids))
        return ids, np.searchsorted(self.starts, places, side="right")


def read_corpus(path: Path | str, tokenizer: Tokenizer, *, field: str = "text") -> Corpus:
    """Everything of a file, a folder, or a Hugging Face data set (``hf:NAME`` or ``hf:NAME:SPLIT``).

    Token files of plain ids are mapped, not read. All other ids are held in memory, two bytes each (four from 65,536 on).

    Args:
        field: of records: what holds the text.

    Raises:
        UserError: nothing readable, a damaged file, text that is not UTF-8, ids outside the vocabulary.
    """
    if str(path).startswith(DATASET):
        documents = _dataset(str(path).removeprefix(DATASET), field)
        return _joined(documents, [], tokenizer, str(path))
    files = find_texts(Path(path))
    if len(files) == 1 and kind_of(files[0]) == "tokens":
        ids = read_tokens(files[0], tokenizer)
        starts = np.concatenate([[0], np.flatnonzero(ids == tokenizer.end) + 1])
        return Corpus(ids, starts[starts < len(ids)].astype(np.int64), files, tokenizer)
    return _joined(_documents(files, field), files, tokenizer, str(path))


def _joined(documents: Iterator[bytes | str], files: Sequence[Path], tokenizer: Tokenizer, name: str) -> Corpus:
    parts, starts, length = [], [], 0
    blank = True  # nothing but spaces and line ends is no text
    end = np.array([tokenizer.end], tokenizer.dtype)
    for document in documents:
        try:
            ids = tokenizer.encode(document)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}: byte {error.start} of a document is not UTF-8, which this tokenizer needs",
                "use the byte tokenizer",
            ) from None
        except UnicodeEncodeError as error:
            raise UserError(
                f"{name}: a record holds half of a character (\\u{ord(error.object[error.start]):04x})",
                "repair the escapes of the file, or write it as UTF-8",
            ) from None
        blank = blank and not document.strip()
        if len(ids):
            starts.append(length)
            parts += [ids, end]
            length += len(ids) + 1
    if blank:
        raise UserError(f"{name} holds no text", "give a file with text in it")
    return Corpus(np.concatenate(parts), np.asarray(starts, np.int64), files, tokenizer)


def _documents(files: Sequence[Path], field: str) -> Iterator[bytes | str]:
    """The documents of each file: a text is one, every record is one."""
    for file in track(files, "Reading", len(files)):
        kind = kind_of(file)
        try:
            if kind == "records":
                yield from _records(file, field)
            elif kind == "text":
                yield _plain(file)
            elif kind == "bytes":
                with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                    yield stream.read()
            else:
                raise UserError(
                    f"{file} holds token ids, other files of the folder text", "read token files by themselves"
                )
        except damage_errors() as error:
            raise UserError(named(file, error), "the file is damaged or cannot be opened") from None


def damage_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises; decompressors have errors of their own."""
    errors: list[type[Exception]] = [OSError, EOFError, zlib.error]
    if "zstandard" in sys.modules:
        errors.append(sys.modules["zstandard"].ZstdError)
    return tuple(errors)


def _plain(file: Path) -> bytes:
    data = file.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: byte {error.start} is not UTF-8", "convert it, or name it .bytes to read its bytes as they are"
        ) from None
    if b"\0" in data:
        raise UserError(
            f"{file} is not text: byte {data.index(0)} is 0",
            "name it .bytes to read its bytes as they are, .bin if it holds token ids",
        )
    return data


def _records(file: Path, field: str) -> Iterator[str]:
    with _opened(file) as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{file}: line {number} is longer than {LONGEST_LINE // 2**20} MiB",
                    "split the record, or give the text as .txt",
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}: line {number} is not JSON: {error}", "each line is one record") from None
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                known = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
                raise UserError(f"{file}: line {number} has no text under {field!r}", f"--field names one of: {known}")
            yield record[field]


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return gzip.open(file)  # pyright: ignore[reportReturnType]
    if file.suffix != ".zst":
        return file.open("rb")
    try:
        return io.BufferedReader(ZstdStream(file))
    except ImportError:
        raise UserError(
            f"{file} needs zstandard", "pip install 'attention-suite-language-models[zstd]', or decompress it"
        ) from None


def _dataset(name: str, field: str) -> Iterator[str]:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"hf:{name} needs the datasets library", "pip install 'attention-suite-language-models[hub]'"
        ) from None
    name, _, split = name.partition(":")
    try:
        data = load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # whatever the hub or the network says
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf:{name} cannot be read: {first_line}", "check the name, the split and the network"
        ) from None
    for record in data:
        if field not in record:
            raise UserError(f"hf:{name} has no field {field!r}", f"--field names one of: {', '.join(record)}")
        yield record[field]


def read_tokens(file: Path, tokenizer: Tokenizer) -> NDArray[Any]:
    """Ids of a ``.npy`` (any whole numbers, one axis) or a ``.bin`` (uint16, or uint32 for large vocabularies), mapped.

    Raises:
        UserError: another type or shape, a length that does not fit, or an id that the tokenizer does not have.
    """
    try:
        if file.suffix == ".npy":
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
        else:
            ids = np.memmap(file, tokenizer.dtype, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(named(file, error), "expected token ids: .npy of whole numbers, or .bin of uint16") from None
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or not len(ids):
        raise UserError(
            f"{file} holds {ids.dtype} of shape {ids.shape}", "expected whole numbers on one axis, at least one"
        )
    outside = 0
    for start in range(0, len(ids), 1 << 24):
        part = ids[start : start + (1 << 24)]
        outside += int(((part < 0) | (part >= tokenizer.text_size)).sum())
    if outside:
        raise UserError(
            f"{file}: {outside} of {len(ids)} ids are outside the vocabulary 0 … {tokenizer.text_size - 1}",
            "give the tokenizer.json that made them with --tokenizer",
        )
    return ids
