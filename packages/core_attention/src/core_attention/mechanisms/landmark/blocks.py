"""Landmark attention over regular blocks: O(length) memory, one fused attention a block, joined by the landmarks' weights.

With a landmark at the end of every block, the output is a sum over blocks, ``Σ_g p_g o_g``: o_g is ordinary attention to the tokens of block g, by all
queries after it, and p_g the weight of its landmark, a softmax over the landmarks of finished blocks and the log-sum-exp of the query's own block. So
each block is one call of a fused kernel, and nothing of size queries × keys is held, forward or backward.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core_attention.parts.transforms import vmap_one_by_one
from core_attention.routed.tile import tile_backward, tile_forward

TOGETHER = 32  # landmarks whose weights are held at once
PIECE = 1 << 20  # elements of q of the rows that are computed at once; intermediate results are a few times as large


def attend_blocks(
    q: Float[Tensor, "rows group queries dim"],
    k: Float[Tensor, "rows keys dim"],
    v: Float[Tensor, "rows keys value_dim"],
    *,
    block: int,
    scale: float,
    group_dropout: float = 0.0,
) -> Float[Tensor, "rows group queries value_dim"]:
    """Landmark attention where position p is a landmark when ``p % block == block − 1``; the last query stands at the last key.

    `group` queries share each row of keys. See `core_attention.mechanisms.landmark.attention.landmark_attention`.
    """
    seed = int(torch.randint(2**62, ()).item()) if group_dropout else 0
    return _landmark_blocks(q, k, v, block, scale, group_dropout, seed)[0]


class _Frame:
    """Whole blocks around the queries and keys: queries start at the start of a block, and the last block is full."""

    def __init__(self, queries: int, keys: int, block: int) -> None:
        self.before = (keys - queries) % block
        self.after = -keys % block  # what pads the last block lies in every real query's future
        self.real = slice(self.before, self.before + queries)

    def of_queries(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, self.before, self.after))

    def of_keys(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, self.after))


def _pieces(q: Tensor) -> Iterator[slice]:
    """Runs of rows of about `PIECE` elements, and their place."""
    together = max(1, PIECE // max(1, q[:1].numel()))
    for start in range(0, len(q), together):
        yield slice(start, start + together)


def _shared(x: Tensor, group: int) -> Tensor:
    """(rows, keys, dim) for every query of a group, without a copy."""
    return x[:, None].expand(-1, group, -1, -1)


def _own_blocks(q: Tensor, x: Tensor, block: int) -> Tensor:
    """The tokens of each query's own block, (rows · blocks, group, block − 1, dim), in the order of `_by_block`."""
    _, group, queries, _ = q.shape
    blocks = x[:, x.shape[1] - queries :].unflatten(1, (-1, block))[:, :, : block - 1]
    return _shared(blocks.flatten(0, 1), group)


def _by_block(x: Tensor, block: int) -> Tensor:
    """(rows, group, queries, ·) → (rows · blocks, group, block, ·)."""
    return x.unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)


def _whole(x: Tensor, rows: int) -> Tensor:
    """The reverse of `_by_block`."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2).flatten(2, 3)


def _tokens_so_far(block: int, device: torch.device) -> Tensor:
    """What a query sees of its own block, (1, block, block − 1): never the landmark."""
    return (torch.arange(block - 1, device=device) <= torch.arange(block, device=device)[:, None])[None]


def _blocks(q: Tensor, keys: int, block: int) -> Iterator[tuple[slice, int]]:
    """Yields runs of finished blocks, and the first query after the first of them."""
    offset, last = keys - q.shape[2], keys // block - 1
    for start in range(0, last, TOGETHER):
        yield slice(start, min(start + TOGETHER, last)), max(0, (start + 1) * block - offset)


def _landmark_scores(q: Tensor, k: Tensor, block: int, run: slice, first: int, scale: float) -> Tensor:
    """Scores of the landmarks of a run by the queries after its first block, -inf where the block is not finished."""
    group, queries = q.shape[1:3]
    landmarks = k[:, block - 1 :: block][:, run]
    score = (q[:, :, first:].flatten(1, 2) @ landmarks.mT).unflatten(1, (group, -1)) * scale
    own = torch.arange(k.shape[1] - queries + first, k.shape[1], device=q.device) // block
    return score.masked_fill_(torch.arange(run.start, run.stop, device=q.device) >= own[:, None], -torch.inf)


def _kept(share: Tensor, dropout: float, seed: int) -> Tensor | None:
    """The dropout factors of a run's weights, drawn again alike in the backward pass."""
    if not dropout:
        return None
    generator = torch.Generator(share.device).manual_seed(seed)
    return (torch.rand(share.shape, generator=generator, device=share.device) >= dropout).to(share.dtype) / (
        1 - dropout
    )


def _forward(
    q: Tensor, k: Tensor, v: Tensor, block: int, scale: float, dropout: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of some rows in their frame."""
    rows, group, queries, _ = q.shape
    keys = k.shape[1]
    out, lse = v.new_zeros(*q.shape[:3], v.shape[-1]), q.new_full(q.shape[:3], -torch.inf)
    if block > 1:
        own_k, own_v = (_own_blocks(q, x, block) for x in (k, v))
        part, part_lse = tile_forward(_by_block(q, block), own_k, own_v, _tokens_so_far(block, q.device), scale)
        out, lse = _whole(part, rows), _whole(part_lse[..., None], rows)[..., 0]
    own_lse = lse
    for run, first in _blocks(q, keys, block):
        score = _landmark_scores(q, k, block, run, first, scale).logsumexp(-1)
        lse = torch.cat([lse[:, :, :first], torch.logaddexp(lse[:, :, first:], score)], dim=2)
    safe = lse.masked_fill(lse == -torch.inf, 0)
    out = out * ((own_lse - safe).exp() / (1 - dropout))[..., None]
    for run, first in _blocks(q, keys, block):
        share = _landmark_scores(q, k, block, run, first, scale).sub_(safe[:, :, first:, None]).exp_()
        dropout_factors = _kept(share, dropout, seed + run.start)
        share = share if dropout_factors is None else share.mul_(dropout_factors)
        for g in range(run.start, run.stop if block > 1 else run.start):
            after = max(0, (g + 1) * block - (keys - queries))
            key, value = (_shared(x[:, g * block : (g + 1) * block - 1], group) for x in (k, v))
            part, _ = tile_forward(q[:, :, after:], key, value, None, scale)
            out[:, :, after:].addcmul_(part, share[:, :, after - first :, g - run.start, None])
    return out, lse


def _gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    block: int,
    scale: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v of some rows in their frame."""
    rows, group = q.shape[:2]
    keys, offset = k.shape[1], k.shape[1] - q.shape[2]
    grad_q, grad_k, grad_v = (torch.zeros_like(x) for x in (q, k, v))
    row = (grad * out).sum(-1)
    safe = lse.masked_fill(lse == -torch.inf, 0)
    if block > 1:
        # dL/dscore = p (dL/dp − row) of the own block, which is what a tile of a longer row computes; dropout scales it, not `row`
        own_k, own_v = (_own_blocks(q, x, block) for x in (k, v))
        grad_rows, query, result, weight = (
            _by_block(x, block) for x in (grad / (1 - dropout), q, out * (1 - dropout), lse[..., None])
        )
        so_far = _tokens_so_far(block, q.device)
        parts = tile_backward(grad_rows, query, own_k, own_v, result, weight[..., 0], so_far, scale)
        grad_q += _whole(parts[0], rows)
        for total, part in ((grad_k, parts[1]), (grad_v, parts[2])):
            total[:, offset:].unflatten(1, (-1, block))[:, :, : block - 1] += part.sum(1).unflatten(0, (rows, -1))
    for run, first in _blocks(q, keys, block):
        share = _landmark_scores(q, k, block, run, first, scale).sub_(safe[:, :, first:, None]).exp_()
        dropout_factors = _kept(share, dropout, seed + run.start)
        grad_share = torch.zeros_like(share)
        for g in range(run.start, run.stop if block > 1 else run.start):
            after = max(0, (g + 1) * block - offset)
            tokens = slice(g * block, (g + 1) * block - 1)
            place = (slice(None), slice(None), slice(after - first, None), g - run.start)
            query, key, value = q[:, :, after:], _shared(k[:, tokens], group), _shared(v[:, tokens], group)
            part, part_lse = tile_forward(query, key, value, None, scale)
            weight, inner = share[place], (grad[:, :, after:] * part).sum(-1)
            if dropout_factors is not None:
                weight, inner = weight * dropout_factors[place], inner * dropout_factors[place]
            grad_share[place] = inner
            grad_rows = grad[:, :, after:] * weight[..., None]
            parts = tile_backward(grad_rows, query.contiguous(), key, value, part, part_lse, None, scale)
            grad_q[:, :, after:] += parts[0]
            grad_k[:, tokens] += parts[1].sum(1)
            grad_v[:, tokens] += parts[2].sum(1)
        grad_score = (share * (grad_share - row[:, :, first:, None]) * scale).flatten(1, 2)
        grad_q[:, :, first:] += (grad_score @ k[:, block - 1 :: block][:, run]).unflatten(1, (group, -1))
        grad_k[:, block - 1 :: block][:, run] += grad_score.mT @ q[:, :, first:].flatten(1, 2)
    return grad_q, grad_k, grad_v


@torch.library.custom_op("core_attention::landmark_blocks", mutates_args=())
def _landmark_blocks(
    q: Tensor, k: Tensor, v: Tensor, block: int, scale: float, dropout: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Output (rows, group, queries, value_dim) and log-sum-exp over landmarks and own block (rows, group, queries)."""
    frame = _Frame(q.shape[2], k.shape[1], block)
    out, lse = v.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3])
    for rows in _pieces(q):
        query, key, value = frame.of_queries(q[rows]), frame.of_keys(k[rows]), frame.of_keys(v[rows])
        piece, piece_lse = _forward(query, key, value, block, scale, dropout, seed + (rows.start << 32))
        out[rows], lse[rows] = piece[:, :, frame.real], piece_lse[:, :, frame.real]
    return out, lse


@_landmark_blocks.register_fake
def _(q, k, v, block, scale, dropout, seed):
    return v.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3])


@torch.library.custom_op("core_attention::landmark_blocks_backward", mutates_args=())
def _landmark_blocks_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    block: int,
    scale: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    frame = _Frame(q.shape[2], k.shape[1], block)
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    keys = slice(k.shape[1])
    for rows in _pieces(q):
        query, key, value = frame.of_queries(q[rows]), frame.of_keys(k[rows]), frame.of_keys(v[rows])
        grad_rows, result = frame.of_queries(grad[rows]), frame.of_queries(out[rows])
        weight = F.pad(lse[rows], (frame.before, frame.after), value=-torch.inf)
        parts = _gradients(
            grad_rows, query, key, value, result, weight, block, scale, dropout, seed + (rows.start << 32)
        )
        grad_q[rows], grad_k[rows], grad_v[rows] = parts[0][:, :, frame.real], parts[1][:, keys], parts[2][:, keys]
    return grad_q, grad_k, grad_v


@_landmark_blocks_backward.register_fake
def _(grad, q, k, v, *rest):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _setup(ctx, inputs, output) -> None:
    q, k, v, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output)


def _backward(ctx, grad, grad_lse):
    return *_landmark_blocks_backward(grad, *ctx.saved_tensors, *ctx.rest), None, None, None, None


_landmark_blocks.register_autograd(_backward, setup_context=_setup)
vmap_one_by_one(_landmark_blocks)
vmap_one_by_one(_landmark_blocks_backward)
