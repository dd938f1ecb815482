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
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


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
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{where} is {value!r}, expected {kind.__name__}")
        return kind(value) if kind is float else value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if (origin or kind) in (tuple, list) and not isinstance(value, list):
        raise ValueError(f"{where} is {value!r}, expected a list")
    if (origin or kind) is tuple:
        inner = parts[:1] * len(value) if len(parts) == 2 and parts[1] is Ellipsis else parts or (Any,) * len(value)
        if len(inner) != len(value):
            raise ValueError(f"{where} has {len(value)} values, expected {len(inner)}")
        return tuple(
            decode(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(zip(inner, value, strict=True))
        )
    if origin is list:
        return [decode(parts[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)  # raises ValueError itself
    if kind is torch.dtype:
        found = getattr(torch, str(value), None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{where} is {value!r}, which is no dtype of torch")
        return found
    return value


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return decode(kind, value, where)
        except ValueError:
            continue
    raise ValueError(
        f"{where} is {value!r}, which is none of {', '.join(getattr(k, '__name__', str(k)) for k in kinds)}"
    )


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a {type(value).__name__}, expected the fields of {kind.__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(value.keys() - fields.keys())
    required = {f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - value.keys())
    if unknown or missing:
        raise ValueError(f"{where} does not fit {kind.__name__}: unknown {unknown}, missing {missing}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})
