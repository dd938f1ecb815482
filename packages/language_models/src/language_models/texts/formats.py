"""Which files hold text or tokens; imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError

PLAIN = (".txt", ".md", ".py", ".rst", ".tex")
RECORDS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
BYTES = (".gz", ".bytes")
TOKENS = (".npy", ".bin")
ALL = (*PLAIN, *RECORDS, *BYTES, *TOKENS)
DATASET = "hf:"


def kind_of(path: Path) -> str | None:
    """``"text"``, ``"records"``, ``"bytes"`` or ``"tokens"``, by the name; None if it is none of them."""
    name = path.name.lower()
    for suffixes, kind in ((RECORDS, "records"), (PLAIN, "text"), (BYTES, "bytes"), (TOKENS, "tokens")):
        if name.endswith(suffixes):
            return kind
    return None


def find_texts(path: Path) -> Sequence[Path]:
    """The file itself, or the readable files of a folder, sorted by name.

    Raises:
        UserError: nothing readable is there.
    """
    if path.is_file():
        if kind_of(path) is None:
            raise UserError(
                f"{path} does not have the name of a text or token file", f"known are {', '.join(ALL)}; rename it"
            )
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist", "give a text file, a folder of them, or hf:NAME for a Hugging Face data set"
        )
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and kind_of(file) is not None]
    if not files:
        raise UserError(f"{path} holds no text or token files", f"known are {', '.join(ALL)}")
    return files


def claim(path: Path) -> Claim | None:
    """How likely this domain is meant, with little certainty: tables and recordings of other domains are also text."""
    if path.is_dir():
        if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
            return None
        names = [file.name for file in path.iterdir() if file.is_file() and kind_of(file) in ("text", "records")]
        if names:
            return Claim("a folder of text files", 0.1, f"{len(names)} files such as {names[0]}")
        return None
    kind = kind_of(path)
    if kind == "records":
        return Claim("text records (JSON lines)", 0.3, path.name)
    if kind == "text":
        return Claim("text", 0.2, path.name)
    if kind == "tokens" and path.suffix == ".bin":
        return Claim("token ids", 0.1, path.name)
    return None
