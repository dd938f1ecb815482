"""Exact attention over the keys that are alive: cost O(queries · (window + tile)), never a queries × keys matrix.

Under a causal mask the w most important keys of a growing prefix change by one key a step, and a key that has been outranked by w others never
comes back. So what a query may see is said by one integer per key: its *expiry*, the first position at which it is no longer kept.
Query i keeps key j exactly when ``j <= i < expiry[j]``.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

NEVER = 2**62  # the expiry of a key that no query outlives


def key_lifetimes(
    bias: Float[Tensor, "*rows keys"], window: int, allowed: Bool[Tensor, "*rows keys"] | None = None
) -> Int[Tensor, "*rows keys"]:
    """For each key the first position at which `window` keys that arrived by then outrank it.

    A key outranks another when its importance is larger, or equal and it is the more recent of the two; NaN outranks everything. A key that
    is not `allowed` outranks none and has expiry 0. Keys that are never outranked have expiry `NEVER`.

    In order of rank, the expiry of key r is the `window`-th smallest arrival position among the r keys before it: an order statistic of every
    prefix of a permutation, which a wavelet matrix answers for all prefixes at once in O(keys · log keys) without a loop over keys.
    """
    ranked = bias.detach().nan_to_num(nan=torch.inf)
    if allowed is not None:
        ranked = ranked.masked_fill(~allowed, -torch.inf)
    keys = bias.shape[-1]
    if keys <= window:
        expiry = torch.full(bias.shape, NEVER, dtype=torch.long, device=bias.device)
        return expiry if allowed is None else expiry.masked_fill(~allowed, 0)
    # best first; flipped so that the stable sort puts the most recent of equals first
    arrival = keys - 1 - ranked.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(keys, device=bias.device).expand_as(arrival)
    level, low, high = arrival, torch.zeros_like(arrival), rank
    nth, answer = torch.full_like(arrival, window - 1), torch.zeros_like(arrival)
    for bit in reversed(range((keys - 1).bit_length())):
        is_zero = (level >> bit & 1) == 0
        zeros = F.pad(is_zero.cumsum(-1), (1, 0))  # zeros before each place of this level
        ones_start = zeros[..., -1:]
        zeros_low, zeros_high = zeros.gather(-1, low), zeros.gather(-1, high)
        in_ones = nth >= zeros_high - zeros_low
        nth = torch.where(in_ones, nth - (zeros_high - zeros_low), nth)
        low = torch.where(in_ones, ones_start + low - zeros_low, zeros_low)
        high = torch.where(in_ones, ones_start + high - zeros_high, zeros_high)
        answer = answer | in_ones.long() << bit
        place = torch.where(is_zero, zeros[..., :-1], ones_start + rank - zeros[..., :-1])
        level = torch.empty_like(level).scatter_(-1, place, level)
    answer = answer.masked_fill(rank < window, NEVER)
    expiry = torch.empty_like(answer).scatter_(-1, arrival, answer)
    return expiry if allowed is None else expiry.masked_fill(~allowed, 0)


def shared_lifetimes(
    bias: Float[Tensor, "*rows keys"], window: int, allowed: Bool[Tensor, "*rows keys"] | None = None
) -> Int[Tensor, "*rows keys"]:
    """One kept set for every query: `NEVER` for the `window` best of all keys, 0 for the others. Under a causal mask it looks ahead."""
    # the keys that outlive the last position are those that no `window` others outrank
    last = bias.shape[-1] - 1
    lifetimes = key_lifetimes(bias, window, allowed)
    return torch.where(lifetimes > last, NEVER, 0)


def attend_alive(
    q: Float[Tensor, "rows group queries dim"],
    k: Float[Tensor, "rows keys dim"],
    v: Float[Tensor, "rows keys value_dim"],
    bias: Float[Tensor, "rows keys"],
    expiry: Int[Tensor, "rows keys"],
    *,
    window: int,
    scale: float,
    causal: bool = True,
    dropout: float = 0.0,
    tile: int = 64,
) -> tuple[Float[Tensor, "rows group queries value_dim"], Float[Tensor, "rows group queries"]]:
    """Softmax attention of query i (at key position i + keys - queries) over the keys j with ``j <= i < expiry[j]``, and its log-sum-exp.

    Queries are read `tile` at a time. A tile needs at most `window` older keys, carried from the tile before and gathered, and its own.
    None of the scores are stored for the backward pass, which gathers again. Rows that keep no key give 0 and log-sum-exp -inf.

    Args:
        q: queries; `group` of them share each row of keys (grouped-query attention).
        bias: added to the scaled scores, one value per key.
        window: an upper bound on the keys that are alive at any one position.
        causal: False places every query at the last position.

    Returns:
        the output, and the log-sum-exp of each query.
    """
    # else every tile's gather would copy them whole
    k, v, bias, expiry = (x.contiguous() for x in (k, v, bias, expiry))
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    return _AttendAlive.apply(q, k, v, bias, expiry, window, scale, causal, dropout, seed, tile)  # type: ignore[return-value]


def _tiles(
    expiry: Tensor, queries: int, window: int, causal: bool, tile: int
) -> Iterator[tuple[slice, Tensor, Tensor | slice]]:
    """Yields the queries of a tile, their positions (tile, 1), and the keys any of them may see: a slice or (rows, n) indices."""
    keys = expiry.shape[-1]
    offset = keys - queries
    positions = torch.arange(keys, device=expiry.device)
    every = positions.expand_as(expiry)

    def longest_lived(index: Tensor) -> Tensor:
        best = expiry.gather(-1, index).topk(min(window, index.shape[-1]), dim=-1, sorted=False).indices
        return index.gather(-1, best)

    alive = longest_lived(every[:, :offset] if causal else every)
    for start in range(0, queries, tile):
        stop = min(start + tile, queries)
        if not causal:
            yield slice(start, stop), positions[-1:, None].expand(stop - start, 1), alive
        elif window >= keys:
            yield slice(start, stop), positions[offset + start : offset + stop, None], slice(0, offset + stop)
        else:
            index = torch.cat([alive, every[:, offset + start : offset + stop]], dim=-1)
            yield slice(start, stop), positions[offset + start : offset + stop, None], index
            alive = longest_lived(index)


def _rows(index: Tensor, keys: int) -> Tensor:
    """The indices of several rows as indices into the rows laid end to end: whole vectors are copied, which gather does not do."""
    return (index + torch.arange(len(index), device=index.device)[:, None] * keys).flatten()


def _take(x: Tensor, index: Tensor | slice) -> Tensor:
    if isinstance(index, slice):
        return x[:, index]
    return x.flatten(0, 1).index_select(0, _rows(index, x.shape[1])).unflatten(0, index.shape)


def _put(total: Tensor, index: Tensor | slice, part: Tensor) -> None:
    if isinstance(index, slice):
        total[:, index] += part
    else:
        total.flatten(0, 1).index_add_(0, _rows(index, total.shape[1]), part.flatten(0, 1))


class _AttendAlive(torch.autograd.Function):
    @staticmethod
    def scores(
        q: Tensor, k: Tensor, bias: Tensor, expiry: Tensor, position: Tensor, index: Tensor | slice, scale: float
    ):
        """Scores of one tile of queries, (rows, group, tile, n), -inf where the key is not alive."""
        n, group, queries, dim = q.shape
        arrived = torch.arange(k.shape[1], device=q.device)[None, index] if isinstance(index, slice) else index
        gone = (arrived[:, None] > position) | (_take(expiry, index)[:, None] <= position)
        score = torch.baddbmm(
            _take(bias, index)[:, None], q.reshape(n, group * queries, dim), _take(k, index).mT, alpha=scale
        )
        return score.view(n, group, queries, -1).masked_fill_(gone[:, None], -torch.inf)

    @staticmethod
    def kept(like: Tensor, dropout: float, seed: int, rows: slice) -> Tensor:
        """The dropout factors of one tile, drawn again alike in the backward pass."""
        generator = torch.Generator(like.device).manual_seed(seed + rows.start)
        return (torch.rand(like.shape, generator=generator, device=like.device) >= dropout).to(like.dtype) / (
            1 - dropout
        )

    @staticmethod
    def forward(q, k, v, bias, expiry, window, scale, causal, dropout, seed, tile):
        this = _AttendAlive
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        lse = q.new_empty(q.shape[:-1])
        for rows, position, index in _tiles(expiry, q.shape[2], window, causal, tile):
            score = this.scores(q[:, :, rows], k, bias, expiry, position, index, scale)
            highest = score.amax(-1, keepdim=True)
            highest.masked_fill_(highest == -torch.inf, 0)
            weight = score.sub_(highest).exp_()
            total = weight.sum(-1, keepdim=True)
            lse[:, :, rows] = (highest + total.log()).squeeze(-1)
            if dropout:
                weight *= this.kept(weight, dropout, seed, rows)
            part = torch.bmm(weight.flatten(1, 2), _take(v, index)).view(*weight.shape[:-1], -1)
            out[:, :, rows] = part / total.masked_fill_(total == 0, 1)
        return out, lse

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, bias, expiry, *ctx.options = inputs
        ctx.save_for_backward(q, k, v, bias, expiry, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_out, grad_lse):  # type: ignore[override]
        this = _AttendAlive
        q, k, v, bias, expiry, out, lse = ctx.saved_tensors
        window, scale, causal, dropout, seed, tile = ctx.options
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        # dL/dscore = weight · (dL/dweight - row), with row = Σ weight · dL/dweight - dL/dlse
        row = (grad_out * out).sum(-1)
        if grad_lse is not None:
            row = row - grad_lse
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)
        grad_q, grad_k, grad_v, grad_bias = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, bias)
        )
        for rows, position, index in _tiles(expiry, q.shape[2], window, causal, tile):
            score = this.scores(q[:, :, rows], k, bias, expiry, position, index, scale)
            weight = score.sub_(lse[:, :, rows, None]).exp_()
            grad = grad_out[:, :, rows].flatten(1, 2)
            grad_weight = torch.bmm(grad, _take(v, index).mT).view_as(weight)
            if dropout:
                factor = this.kept(weight, dropout, seed, rows)
                grad_weight *= factor
                _put(grad_v, index, torch.bmm((weight * factor).flatten(1, 2).mT, grad))
            else:
                _put(grad_v, index, torch.bmm(weight.flatten(1, 2).mT, grad))
            grad_score = grad_weight.sub_(row[:, :, rows, None]).mul_(weight).flatten(1, 2)
            _put(grad_bias, index, grad_score.sum(1))
            _put(grad_k, index, torch.bmm(grad_score.mT, q[:, :, rows].flatten(1, 2)).mul_(scale))
            grad_q[:, :, rows] = torch.bmm(grad_score, _take(k, index)).view(*weight.shape[:-1], -1).mul_(scale)
        return grad_q, grad_k, grad_v, grad_bias, None, None, None, None, None, None, None
