"""JSON lines and JSON lists as dictionaries, with the number of each line for messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError


def read_entries(path: Path, *, what: str) -> list[tuple[str, dict[str, Any]]]:
    """(where, entry) of every entry of JSON lines, of a list, or of a dictionary of entries (its key as ``key``).

    Raises:
        UserError: unreadable, broken at a line that is named, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8", f"expected {what}") from None
    if not text.strip():
        raise UserError(f"{path} is empty", f"expected {what}")
    whole = _whole(text)
    if whole is None and text.lstrip().startswith("{"):
        entries = _entries_of_lines(path, text)
    else:
        entries = _entries_of_json(path, text, what)
    if not entries:
        raise UserError(f"{path} is empty", f"expected {what}")
    return entries


def _whole(text: str) -> object | None:
    """The content of a file that is one JSON value; None of JSON lines, also of a single one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict) and not all(isinstance(value, dict) for value in content.values()):
        return None  # an entry, not a dictionary of entries
    return content


def _entries_of_lines(path: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not JSON: {line:.60}", "mend or remove the line") from None
        if not isinstance(entry, dict):
            raise UserError(f"{where} is not an object", "each line is {…}")
        entries.append((where, entry))
    return entries


def _entries_of_json(path: Path, text: str, what: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", f"expected {what}") from None
    entries = []
    if isinstance(content, Mapping):
        pairs = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        pairs = [(str(number), value) for number, value in enumerate(content)]
    else:
        pairs = []
    for key, entry in pairs:
        where = f"{path}, entry {key}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is not an object", f"expected {what}")
        entries.append((where, {"key": key, **entry}))
    return entries


def text_of(where: str, entry: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that is there, as text.

    Raises:
        UserError: none is, or it is not text.
    """
    for name in names:
        if name in entry:
            value = entry[name]
            if not isinstance(value, str):
                raise UserError(f"{where}: {name} is {value!r:.40}, expected text")
            return value
    raise UserError(f"{where} has no {' or '.join(names)}")


def refuse_repeats(path: Path, ids: list[str]) -> None:
    """Raises UserError where two entries have one id."""
    names: set[str] = set()
    repeated = []
    for name in ids:
        if name in names:
            repeated.append(name)
        names.add(name)
    if repeated:
        shown = ", ".join(dict.fromkeys(repeated))
        raise UserError(
            f"{path}: {len(repeated)} ids occur again: {shown:.80}", "ids tell entries apart: remove repeats"
        )
