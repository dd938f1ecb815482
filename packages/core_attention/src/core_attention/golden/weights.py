"""The two rules that generate the weights of a golden case from the names and shapes of its official keys.

Both fill a tensor in C order, compute in float64 and round to float32 once at the end. They need numpy alone, so that
a recorder in another environment can use this file as it stands.
"""

import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

Shapes = Mapping[str, Sequence[int]]

_COUNTER = "num_batches_tracked"


def generate(
    rule: str, shapes: Shapes, *, gain: float = 1.0, scale: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """The state dict that `rule` makes for `shapes`.

    Args:
        rule: ``"mix32"`` or ``"sin-crc32"``.
        shapes: every official key, buffers and counters too, with its shape.
        gain: factor of the tensors of rank two or more; `mix32` only.
        scale: ``{pattern: factor}``; a tensor is multiplied by the factor of the first pattern that matches its key.

    Returns:
        float32 arrays; int64 scalars for the ``num_batches_tracked`` counters.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in _RULES:
        raise ValueError(f"unknown weight rule {rule!r}; known: {', '.join(sorted(_RULES))}")
    fill, counter = _RULES[rule]
    state: dict[str, np.ndarray] = {}
    for number, key in enumerate(sorted(shapes), start=1):
        shape = tuple(shapes[key])
        if _last(key) == _COUNTER:
            state[key] = np.array(counter, dtype=np.int64)
            continue
        size = int(np.prod(shape, dtype=np.int64))
        values = fill(key, shape, number, size, gain) * _factor(key, scale or {})
        state[key] = values.astype(np.float32).reshape(shape)
    return state


def _mix32(key: str, shape: tuple[int, ...], number: int, size: int, gain: float) -> np.ndarray:
    """Values of tensor `number` (its place among all sorted keys, from 1) by an integer hash of the element's index."""
    h = np.arange(1, size + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)
    h += np.uint32((number * 0x85EBCA77) & 0xFFFFFFFF)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    u = h.astype(np.float64) / 2**32 * 2 - 1
    last = _last(key)
    if last == "running_mean":
        return 0.3 * u
    if last == "running_var":
        return 1.25 + 0.75 * u
    if key.endswith(("pos_embed", "cls_token")):
        return 0.5 * u
    if key.endswith("affine.alpha"):
        return 1 + 0.3 * u
    if key.endswith("affine.beta"):
        return 0.3 * u
    if len(shape) >= 2:
        return gain * u * _fan_in_bound(shape, size)
    if len(shape) == 0:
        return 0.5 + 0.4 * u
    return 1 + 0.4 * u if last == "weight" else 0.2 * u


def _sin_crc32(key: str, shape: tuple[int, ...], number: int, size: int, gain: float) -> np.ndarray:
    """Values by the fractional part of a large sine whose phase is the checksum of the key."""
    r = zlib.crc32(key.encode()) % 10007
    z = np.sin(12.9898 * np.arange(1, size + 1, dtype=np.float64) + 0.618 * r) * 43758.5453
    u = z - np.floor(z)
    last = _last(key)
    if len(shape) >= 2:
        return (2 * u - 1) * _fan_in_bound(shape, size)
    if last in ("running_var", "weight"):
        return 0.5 + u
    if last == "gamma":
        return 0.5 + 0.5 * u
    return 0.4 * (u - 0.5)


_RULES = {"mix32": (_mix32, 7), "sin-crc32": (_sin_crc32, 0)}  # rule → its values, its batch counter


def _fan_in_bound(shape: tuple[int, ...], size: int) -> float:
    return float(np.sqrt(3 * shape[0] / size)) if size else 0.0


def _factor(key: str, scale: Mapping[str, float]) -> float:
    return next((factor for pattern, factor in scale.items() if fnmatchcase(key, pattern)), 1.0)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
