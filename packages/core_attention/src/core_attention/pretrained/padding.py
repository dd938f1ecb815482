"""Padding and the causal rule as a layer of transformers asks for them, for mechanisms that know nothing else.

Padding is handled by computing each padded sample alone on its own tokens, so a sample's result does not depend on how it was padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core_attention.masks import Causal, Dense, KeyLengths, Mask, Part, Size, parts
from core_attention.parts.transforms import readable

Run = Callable[[Tensor, Tensor, Tensor], Tensor]


class Visible(NamedTuple):
    """A mask that is padding, causal or not.

    Attributes:
        causal: whether a query sees no key after itself.
        first: place of the first query among the keys.
        keys: which keys are tokens, (batch, keys); None if all are.
    """

    causal: bool
    first: int
    keys: Tensor | None


def visible(name: str, q: Tensor, k: Tensor, mask: Mask | None, module: nn.Module) -> Visible:
    """What a layer's mask says, for a mechanism that knows padding and the causal rule.

    Raises:
        ValueError: any other mask (windows, biases of positions, patterns).
    """
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    kinds = parts(mask)
    causal = [m for m in kinds if isinstance(m, Causal)]
    if not all(isinstance(m, Causal | KeyLengths) or is_padding(m) for m in kinds):
        names = " & ".join(type(m).__name__ for m in kinds)
        raise ValueError(
            f"{name} knows causal attention and padding; {type(module).__name__} asks for the mask {names}. "
            "Models with sliding windows or biases of positions keep their own attention"
        )
    if not size.queries or not size.keys:
        return Visible(bool(causal), 0, None)
    last = torch.tensor([size.queries - 1], device=q.device)
    row = None if mask is None else mask.allowed(size, Part(rows=last), q.device)
    keys = None
    # in a graph whether there is padding is not known, so it is taken to be there
    if row is not None and not (readable(row) and bool(row.all())):
        keys = row.expand(size.batch, 1, 1, size.keys)[:, 0, 0]
    if causal:
        return Visible(True, causal[0].offset, keys)
    # one decoded token comes without a causal mask: it stands at the last key that it sees
    single = size.queries == 1 and bool(getattr(module, "is_causal", False))
    if not single:
        return Visible(False, 0, keys)
    last_key = size.keys - 1
    if keys is not None:
        last_key = int(keys.any(0).nonzero().max()) if bool(keys.any()) else 0
    return Visible(True, last_key, keys)


def cut_keys(seen: Visible, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and their mask up to the last query; a static cache has room behind it."""
    if not seen.causal:
        return k, v, seen.keys
    stop = seen.first + q.shape[2]
    return k[:, :, :stop], v[:, :, :stop], None if seen.keys is None else seen.keys[:, :stop]


def is_padding(mask: Mask) -> bool:
    """Whether a mask hides the same keys from every query and head of a sample."""
    return (
        isinstance(mask, Dense)
        and (mask.visible.ndim < 2 or mask.visible.shape[-2] == 1)
        and all(n == 1 for n in mask.visible.shape[1:-2])
    )


def require_self_attention(name: str, q: Tensor, k: Tensor, mask: Mask | None, module: nn.Module) -> None:
    """Raises ValueError where a layer asks for more than self-attention over all tokens, with padding."""
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"{name} is self-attention over all tokens; {type(module).__name__} has {q.shape[2]} queries and {k.shape[2]} keys"
        )
    if not all(isinstance(m, KeyLengths) or is_padding(m) for m in parts(mask)):
        raise ValueError(
            f"{name} chooses blocks with tokens to come, so it cannot be causal, windowed or biased as {type(module).__name__} "
            "asks; for causal language models there is 'moba'"
        )


def each_sample(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, run: Run) -> Tensor:
    """Runs the batch at once, or where there is padding each sample on its own tokens; queries that are padding give 0."""
    size = Size(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    last = torch.tensor([size.queries - 1], device=q.device)
    visible_keys = None if mask is None else mask.allowed(size, Part(rows=last), q.device)
    if visible_keys is None or bool(visible_keys.all()):
        return run(q, k, v)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    for b, row in enumerate(visible_keys.expand(size.batch, 1, 1, size.keys)[:, 0, 0]):
        keys = row.nonzero()[:, 0]
        if not len(keys):
            continue
        first, stop = int(keys[0]), int(keys[-1]) + 1
        if len(keys) != stop - first:
            raise ValueError(
                f"the tokens of sample {b} are not one run: padding inside a sequence has no place in blocks"
            )
        # with a static cache the keys end where the last query stands, whose row this is; queries end with them
        behind = _queries_behind(mask, size, stop)
        start = max(first, behind - size.queries)
        rows = slice(start - (behind - size.queries), stop - (behind - size.queries))
        one = slice(b, b + 1)
        out[one, :, rows] = run(q[one, :, rows], k[one, :, first:stop], v[one, :, first:stop])
    return out


def _queries_behind(mask: Mask | None, size: Size, stop: int) -> int:
    """The key position behind the last query's own."""
    shifts = [m.offset for m in parts(mask) if isinstance(m, Causal)]
    if shifts:
        return size.queries + shifts[0]
    return stop if size.queries == 1 else size.keys
