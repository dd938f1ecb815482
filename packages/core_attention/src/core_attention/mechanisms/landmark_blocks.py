"""Landmark attention over regular blocks, tile by tile: O(length) memory, the cost of two matrix products and two softmaxes.

With a landmark at the end of every block of B positions, the scores of a tile of queries reshape to (…, blocks, B): one softmax over the B − 1
tokens of each block, one over the landmarks of finished blocks and the query's own block, and a product of the two. Nothing of size
queries × keys outlives its tile, and the backward pass computes the scores again.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ROWS = 128  # queries in a tile, about: whole blocks
SCORES = 1 << 19  # scores that a tile holds at once, over as many heads as fit


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

    `group` queries share each row of keys. See `core_attention.mechanisms.landmark.landmark_attention`.
    """
    queries, keys = q.shape[2], k.shape[1]
    before = (keys - queries) % block  # queries start at the start of a block …
    after = -keys % block  # … and the last block is full: what pads it lies in every real query's future
    q = F.pad(q, (0, 0, before, after))
    k, v = (F.pad(x, (0, 0, 0, after)).contiguous() for x in (k, v))
    seed = int(torch.randint(2**62, ()).item()) if group_dropout else 0
    out: Tensor = _AttendBlocks.apply(q, k, v, block, scale, group_dropout, seed)  # type: ignore[assignment]
    return out[:, :, before : before + queries]


def _tiles(q: Tensor, keys: int, block: int) -> Iterator[tuple[slice, slice, int]]:
    """Yields rows of keys (batch and heads), queries, and the number of keys before the tile."""
    rows, group, queries, _ = q.shape
    step = max(1, ROWS // block) * block
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        past = keys - queries + start
        together = max(1, SCORES // (group * (stop - start) * (past + stop - start)))
        for row in range(0, rows, together):
            yield slice(row, min(row + together, rows)), slice(start, stop), past


class _Tile:
    """The weights of one tile of whole blocks: of the tokens within each block (`tokens`), and of the blocks (`share`)."""

    def __init__(self, q: Tensor, k: Tensor, past: int, block: int, scale: float, dropout: float, seed: int) -> None:
        rows, group, queries, _ = q.shape
        self.shape = (rows, group, queries)
        self.own = queries // block  # the tile's own blocks, of which a query has finished those before its own
        self.finished = past // block
        score = torch.baddbmm(q.new_zeros(()), q.flatten(1, 2), k.mT, beta=0, alpha=scale).unflatten(-1, (-1, block))
        landmark = score[..., -1].unflatten(1, (group, queries)).clone()
        own = torch.arange(self.own, device=q.device)
        landmark[..., self.finished :].masked_fill_((own >= own.repeat_interleave(block)[:, None]), -torch.inf)
        # the queries' own blocks, (rows, group, own, block, block): tokens up to the query, never the landmark
        local = self.diagonal(score[:, :, self.finished :]).clone()
        place = torch.arange(block, device=q.device)
        local.masked_fill_((place > place[:, None]) | (place == block - 1), -torch.inf)
        score[..., -1] = -torch.inf
        self.tokens = score.softmax(-1) if block > 1 else torch.zeros_like(score)
        joint = torch.cat([landmark, local.flatten(2, 3)], -1)
        empty = joint.amax(-1, keepdim=True) == -torch.inf
        joint = joint.masked_fill_(empty, 0).softmax(-1).masked_fill_(empty, 0)
        self.share, self.local = joint.split([self.finished + self.own, block], -1)
        self.factor: Tensor | None = None
        self.local_factor = 1.0
        if dropout:
            generator = torch.Generator(q.device).manual_seed(seed)
            kept = torch.rand(self.share.shape, generator=generator, device=q.device) >= dropout
            self.local_factor = 1 / (1 - dropout)
            self.factor = kept.to(q.dtype) * self.local_factor

    def diagonal(self, x: Tensor) -> Tensor:
        """Of (rows, group · queries, own, block) each query's own block: a view (rows, group, own, block, block)."""
        rows, group, queries = self.shape
        cut = x.view(rows, group, self.own, queries // self.own, self.own, x.shape[-1])
        return cut.diagonal(dim1=2, dim2=4).movedim(-1, 2)

    def weights(self) -> Tensor:
        """The weight of every key, (rows, group · queries, blocks, block); landmarks have none. Overwrites `tokens`."""
        share = self.share if self.factor is None else self.share * self.factor
        weight = self.tokens.mul_(share.flatten(1, 2)[..., None])
        own = self.diagonal(weight[:, :, self.finished :])
        own += self.local.view(own.shape) * self.local_factor
        return weight

    def gradient(self, weight: Tensor, grad_weight: Tensor, mean: Tensor, row: Tensor) -> Tensor:
        """dL/dscore from dL/dweight, with ``mean = Σ_j tokens_j dL/dweight_j`` of each block and ``row = Σ weight · dL/dweight``."""
        own_grad = self.diagonal(grad_weight[:, :, self.finished :]).clone()
        grad = grad_weight.sub_(mean[..., None]).mul_(weight)
        block_grad = mean.unflatten(1, self.shape[1:])
        block_grad = block_grad if self.factor is None else block_grad * self.factor
        grad[..., -1] = (self.share * (block_grad - row[..., None])).flatten(1, 2)
        local = self.local.view(own_grad.shape)
        own = self.diagonal(grad[:, :, self.finished :])
        own.copy_(local * (own_grad * self.local_factor - row.view(*own_grad.shape[:-1], 1)))
        return grad


class _AttendBlocks(torch.autograd.Function):
    @staticmethod
    def forward(q, k, v, block, scale, dropout, seed):
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        for rows, queries, past in _tiles(q, k.shape[1], block):
            keys = slice(0, past + queries.stop - queries.start)
            tile = _Tile(
                q[rows, :, queries], k[rows, keys], past, block, scale, dropout, seed + rows.start + queries.start
            )
            out[rows, :, queries] = torch.bmm(tile.weights().flatten(2), v[rows, keys]).unflatten(1, tile.shape[1:])
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, *ctx.options = inputs
        ctx.save_for_backward(q, k, v, output)

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[override]
        q, k, v, out = ctx.saved_tensors
        block, scale, dropout, seed = ctx.options
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        row_sum = (grad_out * out).sum(-1)
        for rows, queries, past in _tiles(q, k.shape[1], block):
            keys = slice(0, past + queries.stop - queries.start)
            query, grad = q[rows, :, queries], grad_out[rows, :, queries].flatten(1, 2)
            tile = _Tile(query, k[rows, keys], past, block, scale, dropout, seed + rows.start + queries.start)
            grad_weight = torch.bmm(grad, v[rows, keys].mT).view_as(tile.tokens)
            mean = torch.einsum("rqbj,rqbj->rqb", tile.tokens, grad_weight)
            weight = tile.weights()
            grad_v[rows, keys] += torch.bmm(weight.flatten(2).mT, grad)
            grad_score = tile.gradient(weight, grad_weight, mean, row_sum[rows, :, queries]).flatten(2)
            grad_k[rows, keys] += torch.bmm(grad_score.mT, query.flatten(1, 2)).mul_(scale)
            grad_q[rows, :, queries] = torch.bmm(grad_score, k[rows, keys]).mul_(scale).unflatten(1, tile.shape[1:])
        return grad_q, grad_k, grad_v, None, None, None, None
