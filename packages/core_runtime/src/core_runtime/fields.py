"""Fields of config.json, config.yaml and side-cars: each is there and of its type, or one line names it. No default is ever filled in silently."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core_runtime.errors import UserError

_REQUIRED: Any = object()
_WORDS: dict[type, str] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "text",
}


def read_field(
    values: Any,
    name: str,
    kind: type,
    *,
    where: object,
    default: Any = _REQUIRED,
    low: float | None = None,
    high: float | None = None,
    hint: str = "",
) -> Any:
    """One field of nested objects.

    Args:
        values: the outermost object, as JSON or YAML gave it.
        name: of the field, with dots: ``"preprocessing.rate"``.
        kind: bool, dict, float (an integer will do), int, list or str.
        where: the file, for the message.
        default: for a field that may be absent, or null.
        low, high: limits of a number, included.
        hint: what to do about it.

    Raises:
        UserError: absent without a default, of another type, not finite, or outside its limits; the field is named.
    """
    value = values
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping):
            outer = ".".join(parts[:depth]) or "what it holds"
            raise UserError(f"{where}: {outer} is {_shown(value)}, expected an object", hint)
        value = value.get(part)
        if value is None:
            if default is _REQUIRED:
                # null and absent are one: JSON writers differ in which of the two they leave
                raise UserError(f"{where}: the field {name} is missing", hint)
            return default
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted)
    if isinstance(value, bool) and kind is not bool:  # bool is a subclass of int
        fits = False
    if not fits:
        raise UserError(f"{where}: {name} is {_shown(value)}, expected {_WORDS[kind]}", hint)
    if kind is float:
        value = float(value)
        if not math.isfinite(value):
            raise UserError(f"{where}: {name} is {value}, expected a finite number", hint)
    if low is not None and value < low:
        raise UserError(f"{where}: {name} is {value}, expected at least {low:g}", hint)
    if high is not None and value > high:
        raise UserError(f"{where}: {name} is {value}, expected at most {high:g}", hint)
    return value


def check_names(values: Any, name: str, expected: Iterable[str], *, where: object, hint: str = "") -> None:
    """An object has exactly these fields, so that a misspelt one is not passed over and its default taken.

    Args:
        values: the outermost object, as JSON or YAML gave it.
        name: of the object, with dots.
        expected: the fields that it has; their values may be null.
        where: the file, for the message.
        hint: what to do about it.

    Raises:
        UserError: it is not an object; a field is missing or unknown, and named.
    """
    fields = read_field(values, name, dict, where=where, hint=hint)
    names = list(expected)
    for field in names:
        if field not in fields:
            raise UserError(f"{where}: the field {name}.{field} is missing", hint)
    for field in fields:
        if field not in names:
            raise UserError(f"{where}: there is no field {name}.{field}: known are {', '.join(names)}", hint)


def read_names(values: Any, name: str, *, where: object, default: Any = _REQUIRED, hint: str = "") -> Sequence[str]:
    """A field that is a list of different names, such as classes or bands.

    Raises:
        UserError: absent without a default, or not such a list.
    """
    entries = read_field(values, name, list, where=where, default=default, hint=hint)
    if entries is default:  # not there; the default need not be a list
        return entries
    if not all(isinstance(entry, str) for entry in entries) or len(set(entries)) != len(entries):
        raise UserError(f"{where}: {name} is {_shown(entries)}, expected a list of different names", hint)
    return entries


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
