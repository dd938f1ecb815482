"""What dynamic mask attention is given: shapes, masks, windows and packed sequences that fit together."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def four_axes(mask: Tensor | None, shape: Sequence[int], queries: int) -> Tensor | None:
    """A key padding mask with four axes; a mask that has four as it is, if it broadcasts.

    Args:
        mask: (batch, keys), or (batch | 1, heads, queries | 1, keys).
        shape: (batch, heads, …, keys) of what it is put on.
        queries: how many there are.

    Returns:
        (batch, 1, 1, keys), or the mask as it is; None of None.

    Raises:
        ValueError: a mask that fits neither.
    """
    if mask is None:
        return None
    batch, keys = shape[0], shape[-1]
    four = mask[:, None, None] if mask.ndim == 2 else mask
    fits = (
        four.ndim == 4
        and four.shape[-1] == keys
        and four.shape[2] in (1, queries)
        and (1 in (four.shape[0], batch) or four.shape[0] == batch)
    )
    if not fits:
        raise ValueError(
            f"mask {tuple(mask.shape)} fits neither (batch, keys) nor (batch, heads, queries, keys) = {(*shape[:2], queries, keys)}"
        )
    return four


def same_heads(bias: Tensor, mask: Tensor | None, kv_heads: int, heads: int) -> tuple[Tensor, Tensor | None]:
    """Bias and mask with as many heads as each other: where one has a value per query head, one per key head is repeated for its group.

    Returns:
        bias and mask, each (batch | 1, heads, queries | 1, keys) with heads that broadcast; no mask of none.

    Raises:
        ValueError: a mask of another number of heads.
    """
    if mask is None:
        return bias, None
    if mask.shape[1] not in (1, kv_heads, heads):
        raise ValueError(
            f"a mask with four axes has 1, {kv_heads} (keys') or {heads} (queries') heads, got {tuple(mask.shape)}"
        )
    if heads not in (bias.shape[1], mask.shape[1]):
        return bias, mask
    group = heads // kv_heads
    if 1 < bias.shape[1] == kv_heads:
        bias = bias.repeat_interleave(group, dim=1)
    if 1 < mask.shape[1] == kv_heads:
        mask = mask.repeat_interleave(group, dim=1)
    return bias, mask


def check_window(window: int) -> None:
    """Raises ValueError for a window without a key."""
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")


def check_inputs(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, causal: bool) -> None:
    """Raises ValueError for tensors that do not fit together; their shapes are quoted."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, bias {tuple(bias.shape)}"
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or bias.ndim != 4:
        raise ValueError(f"q, k, v and bias need four axes: {shapes}")
    if not all(x.is_floating_point() for x in (q, k, v, bias)):
        raise ValueError(f"q, k, v and bias must be floating point, got {q.dtype}, {k.dtype}, {v.dtype}, {bias.dtype}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"batch, keys or head dimension differ: {shapes}")
    if q.shape[1] % max(k.shape[1], 1):
        raise ValueError(f"query heads must be a multiple of key heads: {shapes}")
    if causal and q.shape[2] > k.shape[2] > 0:
        raise ValueError(f"more queries than keys, although the last query is the last key: {shapes}")
    target = (k.shape[0], q.shape[1], q.shape[2], k.shape[2])
    # tuples: a length that is symbolic has no hash
    options = ((1, target[0]), (1, k.shape[1], target[1]), (1, target[2]), (target[3],))
    if any(size not in allowed for size, allowed in zip(bias.shape, options, strict=True)):
        raise ValueError(f"bias must broadcast to ({{batch|1}}, {{heads|kv_heads|1}}, {{queries|1}}, keys): {shapes}")


def sequences(name: str, starts: Sequence[int] | Tensor, tokens: int) -> list[slice]:
    """Where each of the packed sequences lies.

    Raises:
        ValueError: starts that do not rise from 0 to the number of tokens.
    """
    places = [int(start) for start in starts]
    if places[:1] != [0] or places[-1] != tokens or sorted(places) != places:
        raise ValueError(f"{name} must rise from 0 to the {tokens} tokens, got {places}")
    return [slice(first, stop) for first, stop in pairwise(places)]
