"""Landmark attention (Mohtashami & Jaggi 2023, Random-Access Infinite Context Length for Transformers, NeurIPS; arXiv 2305.16300).

One landmark token ends every block of ordinary tokens. A query reaches the tokens of a finished block only through the block's landmark: a
softmax over its own block and the landmarks, and within each block a softmax over its tokens. So landmark keys learn to stand for their blocks,
and at inference the blocks worth reading can be chosen by them (`core_attention.mechanisms.landmark.memory`).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core_attention.capture.recording import active, paused, record
from core_attention.masks.checking import one_or
from core_attention.mechanisms.landmark.blocks import attend_blocks
from core_attention.parts.transforms import differentiated

Backend = Literal["auto", "reference", "rows", "blocks"]
ROWS = 64  # queries that the backend "rows" takes at once


def grouped_softmax(
    scores: Float[Tensor, "batch heads queries keys"],
    is_landmark: Bool[Tensor, "#batch keys"],
    *,
    mask: Bool[Tensor, "#batch keys"] | None = None,
    group_dropout: float = 0.0,
    rows: Int[Tensor, " queries"] | None = None,
) -> tuple[Float[Tensor, "batch heads queries keys"], Float[Tensor, "batch heads queries groups"]]:
    """The weights of landmark attention, by definition (paper, section 3.1); landmarks may stand anywhere.

    Query t sees keys up to its own place. Its *local* keys are the ordinary tokens since the last landmark before it; the landmark of its own
    section, which is the query itself, is hidden. With p the softmax over local keys and the landmarks of finished blocks, and r the softmax
    over the tokens of one block:

        weight of local j = p_j;    of token j in block g = p(landmark g) · r_j;    of every landmark = 0.

    A landmark whose block has no visible token keeps its share, so that the row then sums to less than 1, as in the published code. A row that
    sees nothing is 0.

    Args:
        scores: scaled q·k, the last query aligned with the last key.
        is_landmark: which keys are landmarks; batch may be 1.
        mask: True = may be seen (padding is False); batch may be 1.
        group_dropout: each landmark's share is dropped with this probability, and all that stays, local weights too, is divided by 1 − p.
        rows: the positions of the queries among the keys, where they are not the last ones.

    Returns:
        weights, and the share of each group: one for each landmark in order, then the local one.
    """
    queries, keys = scores.shape[-2:]
    device = scores.device
    rows = torch.arange(keys - queries, keys, device=device) if rows is None else rows
    landmarks = is_landmark.long()
    section = landmarks.cumsum(-1) - landmarks  # landmarks strictly before each key
    groups = int(landmarks.sum(-1).max()) if keys else 0
    visible = (torch.arange(keys, device=device) <= rows[:, None])[None]
    if mask is not None:
        visible = visible & mask[:, None]
    row_section, key_section = section[:, rows, None], section[:, None]
    finished = (visible & (key_section < row_section))[:, None]
    local = (visible & (key_section == row_section) & ~is_landmark[:, None])[:, None]
    past_landmark, past_token = finished & is_landmark[:, None, None], finished & ~is_landmark[:, None, None]

    share = _softmax(scores, local | past_landmark)
    index = section[:, None, None].expand(scores.shape)
    table = scores.new_zeros(*scores.shape[:-1], groups + 1)
    highest = table.fill_(-torch.inf).scatter_reduce(
        -1, index, scores.detach().masked_fill(~past_token, -torch.inf), "amax"
    )
    # a block that the row has not finished keeps -inf: nothing of it is exponentiated
    token = (scores - highest.gather(-1, index)).masked_fill(~past_token, -torch.inf).exp()
    total = torch.zeros_like(table).scatter_add(-1, index, token)
    by_group = torch.zeros_like(table).scatter_add(-1, index, share.masked_fill(~past_landmark, 0))[..., :-1]
    local_share = share.masked_fill(~local, 0)
    if group_dropout:
        by_group = F.dropout(by_group, group_dropout)
        local_share = local_share / (1 - group_dropout)
    ratio = F.pad(by_group, (0, 1)) / total.masked_fill(total == 0, 1)
    weights = token * ratio.gather(-1, index) + local_share
    return weights, torch.cat([by_group, local_share.sum(-1, keepdim=True)], dim=-1)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    empty = ~seen.any(-1, keepdim=True)
    return scores.masked_fill(~seen, -torch.inf).masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)


def landmark_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    *,
    block: int | None = None,
    is_landmark: Bool[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "#batch keys"] | None = None,
    scale: float | None = None,
    group_dropout: float = 0.0,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Causal landmark attention, in place of ``scaled_dot_product_attention(q, k, v, is_causal=True)``.

    The weights are those of `grouped_softmax`. Half precision is computed in float32. Without any landmark this is causal attention.

    Args:
        q: queries, the last one aligned with the last key; `heads` is a multiple of `kv_heads`.
        block: position p is a landmark when ``p % block == block − 1`` (``mem_freq + 1`` of the published code). Lengths need not divide.
        is_landmark: (keys,) or (batch, keys), where landmarks stand anywhere; in place of `block`.
        mask: True = may be seen; padding is False.
        scale: defaults to dim^-1/2.
        group_dropout: see `grouped_softmax`.
        backend: ``"blocks"`` needs `block` and no mask; it holds O(keys) scores for each tile of queries. ``"rows"`` is the definition for a few
            queries at a time, also O(keys). ``"reference"`` is the definition. ``"auto"`` takes blocks, or rows where blocks cannot be.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, both or neither of `block` and `is_landmark`, or a backend that cannot compute what is asked.
    """
    _check(q, k, v, mask)
    if (block is None) == (is_landmark is None):
        raise ValueError("give either block, for regular landmarks, or is_landmark")
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    batch, heads, queries, dim = q.shape
    kv_heads, keys = k.shape[1:3]
    factor = dim**-0.5 if scale is None else scale
    if backend == "auto" and differentiated():
        backend = "reference"
    if backend == "auto":
        # a tile is a whole block: for a few decoded tokens the rows alone are less work
        backend = "rows" if block is None or mask is not None or 2 * queries < block else "blocks"
    if backend == "blocks" and (block is None or mask is not None):
        raise ValueError("backend 'blocks' needs landmarks given by block, and no mask")
    out_dtype = v.dtype
    if not queries or not keys:
        return v.new_zeros(batch, heads, queries, v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum()).to(out_dtype)
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.promote_types(v.dtype, torch.float32))
        q, k, v = (x.to(dtype) for x in (q, k, v))
        flags = is_landmark if block is None else landmark_flags(keys, block, q.device)
        assert flags is not None
        flags = flags[None] if flags.ndim == 1 else flags
        if flags.ndim != 2 or flags.shape[1] != keys or not one_or(flags.shape[0], batch):
            raise ValueError(
                f"is_landmark must be (keys,) or (batch, keys) = ({batch}, {keys}), got {tuple(flags.shape)}"
            )

        def weights(rows: Tensor) -> Tensor:
            score = torch.einsum("bhgqd,bhkd->bhgqk", q[:, :, rows].unflatten(1, (kv_heads, -1)), k).flatten(1, 2)
            return grouped_softmax(
                score * factor, flags, mask=mask, group_dropout=group_dropout, rows=rows + keys - queries
            )[0]

        def part(rows: Tensor) -> Tensor:
            weight = weights(rows).unflatten(1, (kv_heads, -1))
            return torch.einsum("bhgqk,bhkd->bhgqd", weight, v).flatten(1, 2)

        def compute() -> Tensor:
            every = torch.arange(queries, device=q.device)
            if backend == "blocks":
                assert block is not None
                shared = q.unflatten(1, (kv_heads, -1)).flatten(0, 1)
                out = attend_blocks(
                    shared, k.flatten(0, 1), v.flatten(0, 1), block=block, scale=factor, group_dropout=group_dropout
                )
                return out.reshape(batch, heads, queries, v.shape[-1])
            if backend == "reference":
                return part(every)
            parts = [checkpoint(part, rows, use_reentrant=False) for rows in every.split(ROWS)]
            return torch.cat(parts, dim=2)  # type: ignore[arg-type]

        if not active():
            return compute().to(out_dtype)
        record(
            "weights",
            lambda rows, chosen: weights(rows)[:, chosen],
            shape=(batch, heads, queries, keys),
            device=q.device,
        )
        with paused():
            return compute().to(out_dtype)


def landmark_flags(length: int, block: int, device: torch.device | str = "cpu") -> Bool[Tensor, " length"]:
    """Which of `length` positions are landmarks when every block of `block` ends with one."""
    return torch.arange(length, device=device) % block == block - 1


def insert_landmarks(
    tokens: Shaped[Tensor, "*batch length"], landmark: int | float, every: int, *, before: int = 0
) -> Shaped[Tensor, "*batch longer"]:
    """Puts a landmark after every `every` tokens along the last axis; any length, and an unfinished block gets none.

    Args:
        tokens: token ids, labels, masks.
        landmark: what to insert.
        before: tokens of the same stream that came before these: the count goes on.

    Returns:
        `x` with the landmarks in it.

    Raises:
        ValueError: `every` < 1.
    """
    place = _places(tokens.shape[-1], every, before, tokens.device)
    longer = landmarks_in(tokens.shape[-1], every, before) + tokens.shape[-1]
    out = tokens.new_full((*tokens.shape[:-1], longer), landmark)
    out[..., place] = tokens
    return out


def strip_landmarks(
    x: Shaped[Tensor, "*shape"], every: int, *, before: int = 0, dim: int = -1
) -> Shaped[Tensor, "*shorter"]:
    """Takes the landmarks of `insert_landmarks` out again, along `dim` of ids, logits or hidden states.

    Args:
        every: ordinary tokens in a block.
        before: ordinary tokens of the same stream before these.

    Returns:
        `x` without its landmarks.
    """
    flags = landmark_flags(before % every + x.shape[dim], every + 1, x.device)[before % every :]
    return x.index_select(dim, (~flags).nonzero().flatten())


def landmarks_in(length: int, every: int, before: int = 0) -> int:
    """How many landmarks `insert_landmarks` puts into `length` tokens."""
    if every < 1:
        raise ValueError(f"a block needs at least one token before its landmark, got every={every}")
    return (before % every + length) // every


def _places(length: int, every: int, before: int, device: torch.device) -> Tensor:
    if every < 1:
        raise ValueError(f"a block needs at least one token before its landmark, got every={every}")
    token = torch.arange(length, device=device)
    return token + (before % every + token) // every


def jumped_positions(
    is_landmark: Bool[Tensor, "*batch length"], jumps: Int[Tensor, "*batch length"]
) -> Int[Tensor, "*batch length"]:
    """Positions 0, 1, … where each landmark moves everything after it on by its entry of `jumps` (training option ``pos_jump``)."""
    moved = (jumps * is_landmark).cumsum(-1)
    return torch.arange(is_landmark.shape[-1], device=is_landmark.device) + F.pad(moved, (1, 0))[..., :-1]


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(f"q, k and v need four axes: {shapes}")
    if not all(x.is_floating_point() for x in (q, k, v)):
        raise ValueError(f"q, k and v must be floating point, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"batch, keys or head dimension differ: {shapes}")
    if q.shape[1] % max(k.shape[1], 1):
        raise ValueError(f"query heads must be a multiple of key heads: {shapes}")
    if q.shape[2] > k.shape[2] > 0:
        raise ValueError(f"more queries than keys, although the last query is the last key: {shapes}")
    if mask is not None and (mask.ndim != 2 or mask.shape[1] != k.shape[2] or not one_or(mask.shape[0], q.shape[0])):
        raise ValueError(f"mask must be (batch, keys) = {(q.shape[0], k.shape[2])}, got {tuple(mask.shape)}")
