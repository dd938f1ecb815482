"""Config dataclasses as JSON and back: what a model folder keeps of how its model was built."""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

import torch


def encode(value: Any) -> Any:
    """A config as JSON: dataclasses as objects, tuples as lists, enumerations by value, dtypes by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: encode(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value


def decode(kind: Any, value: Any, where: str) -> Any:
    """The inverse of `encode`, by the type that a field is annotated with.

    Raises:
        ValueError: the value is not of that type; says where.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(parts, value, where)
    if origin is typing.Literal and value not in parts:
        raise ValueError(f"{where} is {value!r}, expected one of {list(parts)}")
    if kind in (bool, int, float, str, type(None)):
        # JSON may hold 1 for 1.0; exact types, because True is an int too
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ValueError(f"{where} is {value!r}, expected {kind.__name__}")
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if (origin or kind) in (tuple, list) and not isinstance(value, list):
        raise ValueError(f"{where} is {value!r}, expected a list")
    if (origin or kind) is tuple:
        return tuple(_decode_items(_item_kinds(parts, len(value)), value, where))
    if origin is list:
        return _decode_items(parts * len(value), value, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)  # raises ValueError itself
    if kind is torch.dtype:
        dtype = getattr(torch, str(value), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{where} is {value!r}, which is not a dtype of torch")
        return dtype
    return value


def _item_kinds(parts: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The kinds of the `count` items of ``tuple[parts]``: ``tuple[int, ...]`` and a bare ``tuple`` have any number."""
    if len(parts) == 2 and parts[1] is Ellipsis:
        return parts[:1] * count
    return parts or (Any,) * count


def _decode_items(kinds: tuple[Any, ...], items: list[Any], where: str) -> list[Any]:
    if len(kinds) != len(items):
        raise ValueError(f"{where} has {len(items)} values, expected {len(kinds)}")
    decoded = []
    for i, (kind, item) in enumerate(zip(kinds, items, strict=True)):
        decoded.append(decode(kind, item, f"{where}[{i}]"))
    return decoded


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return decode(kind, value, where)
        except ValueError:
            continue
    names = ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ValueError(f"{where} is {value!r}, which is none of {names}")


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}, expected the fields of {kind.__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(value.keys() - fields.keys())
    # also a field with a default: the weights were made with a value, and that was perhaps another one
    missing = sorted(fields.keys() - value.keys())
    if unknown or missing:
        raise ValueError(f"{where} does not fit {kind.__name__}: unknown {unknown}, missing {missing}")
    # transformers' own fields name torch for type checkers alone
    hints = typing.get_type_hints(kind, localns={"torch": torch})
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})
