"""Landmark attention for one decoded token, in as few operations as it takes; nothing is kept for a gradient."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core_attention.parts.rotary import Pairing, rotary_tables, turn


class Tables(NamedTuple):
    """cos and sin of every place in a block, seen from each of the slots, (slots, block, dim): slot 0 is the query's own block."""

    cos: Tensor
    sin: Tensor
    pairing: Pairing


def turned_tables(block: int, top_k: int, like: Tensor, theta: float, pairing: Pairing) -> Tables:
    """The tables for `top_k` blocks in slots of their own and one that older ones share."""
    position = torch.arange((top_k + 2) * block, device=like.device)
    tables = rotary_tables(position, like.shape[-1], theta, pairing, like.dtype)
    cos, sin = (x.unflatten(0, (top_k + 2, block)) for x in tables)
    return Tables(cos, sin, pairing)


def one_token(
    q: Float[Tensor, "batch heads 1 dim"],
    k: Float[Tensor, "batch kv_heads 1 dim"],
    v: Float[Tensor, "batch kv_heads 1 value_dim"],
    *,
    tail: tuple[Float[Tensor, "batch kv_heads block dim"], Float[Tensor, "batch kv_heads block value_dim"]],
    place: int,
    landmarks: Float[Tensor, "batch kv_heads count dim"] | None,
    blocks: Callable[[Int[Tensor, "batch heads 1 chosen"]], tuple[Tensor, Tensor]],
    top_k: int,
    tables: Tables,
    shared: bool,
) -> Float[Tensor, "batch heads 1 value_dim"]:
    """Writes a token into its place of the unfinished block and attends from it, as `LandmarkMemory.attend` does.

    Args:
        q: already scaled, without position.
        k, v: of the token, without position.
        tail: the unfinished block; written in place.
        place: the token's place in it; the last one is a landmark.
        landmarks: keys of the finished blocks, oldest first.
        blocks: keys and values of chosen blocks, (batch, heads, 1, chosen, block, dim).
        shared: whether the heads choose together.

    Returns:
        the token's output.
    """
    batch, heads = q.shape[:2]
    kv_heads, block = k.shape[1], tail[0].shape[2]
    count = 0 if landmarks is None else landmarks.shape[2]
    new = min(top_k, count)
    # queries as seen from every slot: 0 is the unfinished block, 1 … K the newest blocks, newest first, and the next one all older blocks
    rotated = turn(torch.cat([q, k], 1), tables.cos[: new + 2, place], tables.sin[: new + 2, place], tables.pairing)
    tail[0][:, :, place], tail[1][:, :, place] = rotated[:, heads:, 0], v[:, :, 0]
    queries = rotated[:, :heads].unflatten(1, (kv_heads, -1))
    is_landmark = place == block - 1
    local = slice(0, place + (not is_landmark))  # the landmark of the own block is hidden
    scores = (queries[:, :, :, 0] @ tail[0][:, :, local].mT).flatten(1, 2)
    if landmarks is None or not count:
        return _grouped(scores.softmax(-1), tail[1][:, :, local])
    best = _choose(queries, landmarks.to(q.dtype), new, shared)
    keys, values = blocks(best)
    slot = new - torch.arange(new, device=q.device) + (best < count - new).long() if count > new else None
    if slot is None:
        turned = rotated[:, :heads, 1 : new + 1].flip(2)
    else:
        turned = rotated[:, :heads].gather(
            2, slot.expand(batch, heads, 1, new)[:, :, 0, :, None].expand(-1, -1, -1, q.shape[-1])
        )
    score = (keys[:, :, 0] @ turned[..., None])[..., 0]  # (batch, heads, chosen, block)
    share = torch.cat([scores, score[..., -1]], -1).softmax(-1)
    score[..., -1] = -torch.inf  # a landmark has no weight of its own
    weight = score.softmax(-1).mul_(share[..., scores.shape[-1] :, None])
    read = weight.flatten(2)[:, :, None] @ values[:, :, 0].flatten(2, 3)
    return read.add_(_grouped(share[..., : scores.shape[-1]], tail[1][:, :, local]))


def _grouped(weights: Tensor, values: Tensor) -> Tensor:
    """Σ_k weights[b, h, k] values[b, kv head of h, k], (batch, heads, 1, dim)."""
    return (weights.unflatten(1, (values.shape[1], -1)) @ values).flatten(1, 2)[:, :, None]


def _choose(queries: Tensor, landmarks: Tensor, new: int, shared: bool) -> Tensor:
    """Ranks of the chosen blocks, (batch, heads or 1, 1, new), ascending; equal scores prefer the newest."""
    count = landmarks.shape[2]
    newest = queries[:, :, :, 1 : new + 1].flip(3)  # oldest first, as the landmarks stand
    score = (newest * landmarks[:, :, None, count - new :]).sum(-1)
    if count > new:
        older = queries[:, :, :, new + 1] @ landmarks[:, :, : count - new].mT
        score = torch.cat([older, score], -1)
    score = score.flatten(1, 2)[:, :, None]
    if shared:
        score = score.softmax(-1).amax(1, keepdim=True)
    if count == new:
        return torch.arange(count, device=score.device).expand(score.shape)
    return _largest(score, new).sort(dim=-1).values


def _largest(score: Tensor, number: int) -> Tensor:
    """Places of the `number` largest; of equals the last ones. One partial selection finds the least that is taken, a second one takes it."""
    score = score.nan_to_num(nan=torch.inf)
    least = score.topk(number, -1, sorted=False).values.amin(-1, keepdim=True)
    place = torch.arange(score.shape[-1], device=score.device)
    # what is larger comes first whatever its place, then the last of those that are equal to the least
    order = torch.where(score > least, place + score.shape[-1], place.masked_fill(score < least, -1))
    return order.topk(number, -1, sorted=False).indices
