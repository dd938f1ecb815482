"""JSON as people hand it on: read whole, and what is wrong with it in one line."""

import json
from pathlib import Path
from typing import Any, TypeGuard

from core_runtime.errors import UserError, clean
from gaze.scanpaths.columns import LARGEST


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return without_surrogates(json.loads(path.read_bytes().decode("utf-8-sig")))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8", "save it as JSON in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {clean(str(error))}") from None


def without_surrogates(value: Any) -> Any:
    """The value with ``?`` for halves of characters, which JSON can spell and no file can hold."""
    if isinstance(value, str):
        if not value.isascii():
            return value.encode("utf-8", "replace").decode()
        return value
    if isinstance(value, list):
        return [without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(entry) for name, entry in value.items()}
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number, not true or false, and of a size that something measured has."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def numbers(values: Any) -> list[float] | None:
    """A list of numbers, null as NaN; None: it is something else."""
    if not isinstance(values, list):
        return None
    read = []
    for value in values:
        if value is None or (isinstance(value, float) and value != value):
            read.append(float("nan"))
        elif is_number(value):
            read.append(float(value))
        else:
            return None
    return read


def text(value: Any) -> str:
    """A name, which some files spell as a number; "" for anything else."""
    if isinstance(value, str):
        return value
    if is_number(value):
        if isinstance(value, float):
            return f"{value:g}"
        return str(value)
    return ""
