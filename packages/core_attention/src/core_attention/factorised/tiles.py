"""The tiles of `core_attention.factorised.attention`: forward and backward as plain matrix products on blocks that fit the cache.

Layout: queries (groups, rows, columns · heads, dim), a group for each sample and key/value head, its query heads innermost; keys and
values (groups, key rows · columns, dim). A tile is some groups, one query row, and some of its columns. Its *near* key rows have a
content term; their scores are softmaxed together with one more logit, the log-normaliser of all *far* keys, whose values are averaged
with the outer product of a softmax over rows and one over columns. The backward pass recomputes a tile from the inputs.

Both passes are opaque operators, so that torch.compile does not unroll them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core_attention.parts.first_order import first_order

TILE = 2**19  # elements of a tile's scores: 2 MiB of float32


def near_rows(row: int, key_rows: int, causal: bool, window: int, full_last: bool, content: bool) -> tuple[int, int]:
    """First key row with a content term, and end of the visible key rows, for a query in absolute row `row`."""
    end = row + 1 if causal else key_rows
    if not content:
        return end, end
    if window < 0 or (full_last and row == key_rows - 1):
        return 0, end
    return max(0, row - window), end


class Problem(NamedTuple):
    """One call.

    Attributes:
        q: (groups, rows, columns · heads, dim).
        k, v: (groups, key_rows · columns, dim).
        row_table: times the scale; what belongs to key row t′ and absolute query row t stands at (t′ − t) + key_rows − 1;
            (groups, key_rows, dim) if causal, else (groups, 2 · key_rows − 1, dim).
        column_table: likewise at (c′ − c) + columns − 1, (groups, 2 · columns − 1, dim).
        u, w, z: added to the query before the content, row and column products, (groups, 1, dim).
        column_bias: added to every score of a key column, (groups, 1, columns).
        heads: query heads of a group.
        scale: of the content term.
        causal, window, full_last, content: as in `core_attention.factorised.attention.Reach`; a window below 0 is none.
        dropout, seed: element-wise dropout of the weights.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    row_table: Tensor
    column_table: Tensor
    u: Tensor | None
    w: Tensor | None
    z: Tensor | None
    column_bias: Tensor | None
    heads: int
    scale: float
    causal: bool
    window: int
    full_last: bool
    content: bool
    dropout: float
    seed: int

    @property
    def columns(self) -> int:
        return self.q.shape[2] // self.heads

    @property
    def key_rows(self) -> int:
        return self.k.shape[1] // self.columns

    def near(self, row: int) -> tuple[int, int]:
        """`near_rows` of an absolute query row."""
        return near_rows(row, self.key_rows, self.causal, self.window, self.full_last, self.content)

    def tiles(self) -> Iterator["Tile"]:
        groups, rows = self.q.shape[:2]
        for row in range(rows):
            absolute = row + self.key_rows - rows
            near, end = self.near(absolute)
            column_scores = self.heads * self.columns * max(end - near, 1)  # of the queries in one column
            parts = -(-self.columns * column_scores // TILE)  # the columns are cut into
            step = -(-self.columns // min(parts, self.columns))
            together = 1
            if parts == 1:  # a whole row is small: several groups where they fit
                together = max(1, TILE // (self.columns * column_scores))
            for group in range(0, groups, together):
                some = slice(group, min(group + together, groups))
                for column in range(0, self.columns, step):
                    stop = min(column + step, self.columns)
                    yield Tile(self, some, row, absolute, column, stop, near, end)


class Tile(NamedTuple):
    """Queries of one row, columns first … stop − 1; key rows [near, end) have content, [0, near) not."""

    problem: Problem
    groups: slice
    row: int
    absolute: int
    first: int
    stop: int
    near: int
    end: int

    @property
    def queries(self) -> tuple[slice, int, slice]:
        """The tile's place in q."""
        heads = self.problem.heads
        return self.groups, self.row, slice(self.first * heads, self.stop * heads)

    @property
    def keys(self) -> tuple[slice, slice]:
        """The near keys' place in k."""
        columns = self.problem.columns
        return self.groups, slice(self.near * columns, self.end * columns)

    @property
    def row_entries(self) -> tuple[slice, slice]:
        """The place in the row table of key rows 0 … end − 1."""
        start = self.problem.key_rows - 1 - self.absolute
        return self.groups, slice(start, start + self.end)

    @property
    def column_entries(self) -> tuple[slice, slice]:
        """The place in the column table of all distances that occur."""
        columns = self.problem.columns
        return self.groups, slice(columns - self.stop, 2 * columns - 1 - self.first)

    def far_chunks(self, queries: int) -> Iterator[tuple[slice, tuple[slice, slice]]]:
        """Runs of far key rows, and their keys' place in k."""
        columns = self.problem.columns
        step = max(1, TILE // (queries * columns))
        for row in range(0, self.near, step):
            stop = min(row + step, self.near)
            yield slice(row, stop), (self.groups, slice(row * columns, stop * columns))

    def skewed(self, by_distance: Tensor) -> Tensor:
        """(groups, columns · heads, distances) seen as (groups, columns, heads, key columns): a view, no gather."""
        groups, queries, distances = by_distance.shape
        heads, width = self.problem.heads, self.stop - self.first
        # one query column further, every key column lies at one distance less: hence the −1 in the stride of the columns
        strides = (queries * distances, heads * distances - 1, distances, 1)
        return by_distance.as_strided((groups, width, heads, self.problem.columns), strides, width - 1)


class Weights(NamedTuple):
    """What both passes compute of a tile.

    Attributes:
        content_q, row_q, column_q: q + u, q + w, q + z.
        near: softmax over the near keys and, last where there are far keys, all far ones together.
        rows, columns: softmax of the far keys over rows and over columns, or None.
    """

    content_q: Tensor
    row_q: Tensor
    column_q: Tensor
    near: Tensor
    rows: Tensor | None
    columns: Tensor | None


def _compute_weights(p: Problem, tile: Tile) -> Weights:
    dtype = torch.promote_types(p.q.dtype, torch.float32)
    q = p.q[tile.queries].to(dtype)
    content_q = q if p.u is None else q + p.u[tile.groups].to(dtype)
    row_q = q if p.w is None else q + p.w[tile.groups].to(dtype)
    column_q = q if p.z is None else q + p.z[tile.groups].to(dtype)
    f = torch.bmm(row_q, p.row_table[tile.row_entries].mT)  # (groups, queries, key rows)
    by_distance = torch.bmm(column_q, p.column_table[tile.column_entries].mT)
    g = tile.skewed(by_distance).flatten(1, 2)  # (groups, queries, key columns)
    if p.column_bias is not None:
        g = g + p.column_bias[tile.groups]
    groups, queries, columns = g.shape
    near, far = tile.end - tile.near, tile.near > 0
    # (groups, queries, near keys, and one more for all far ones), filled in place
    scores = q.new_empty(groups, queries, near * columns + far)
    if near:
        inside = scores[..., : near * columns]
        torch.add(f[..., tile.near :, None], g[..., None, :], out=inside.unflatten(-1, (near, columns)))
        inside.baddbmm_(content_q, p.k[tile.keys].to(dtype).mT, alpha=p.scale)
    if not far:
        return Weights(content_q, row_q, column_q, torch.softmax(scores, -1), None, None)
    # Σ exp(f + g) over all far keys is (Σ exp f)(Σ exp g)
    f = f[..., : tile.near]
    over_rows, over_columns = torch.softmax(f, -1), torch.softmax(g, -1)
    scores[..., -1] = _log_sum_exp(f, over_rows) + _log_sum_exp(g, over_columns)
    return Weights(content_q, row_q, column_q, torch.softmax(scores, -1), over_rows, over_columns)


def _log_sum_exp(logits: Tensor, weights: Tensor) -> Tensor:
    """The log-sum-exp of logits whose softmax is at hand, from the greatest, whose weight is at least 1 / their number."""
    return logits.amax(-1) - weights.amax(-1).log()


class _Dropout:
    """The same masks in the same order in both passes."""

    def __init__(self, p: Problem, number: int) -> None:
        self.rate = p.dropout
        if self.rate:
            self.generator = torch.Generator(p.q.device).manual_seed(p.seed + number)

    def mask(self, like: Tensor) -> Tensor | None:
        if not self.rate:
            return None
        return torch.empty_like(like).bernoulli_(1 - self.rate, generator=self.generator).div_(1 - self.rate)


def _times(weights: Tensor, mask: Tensor | None) -> Tensor:
    return weights if mask is None else weights * mask


def forward(p: Problem) -> Tensor:
    """The attention output, in the layout and dtype of q."""
    out = torch.empty_like(p.q)
    for number, tile in enumerate(p.tiles()):
        near, rows, columns = _compute_weights(p, tile)[3:]
        dropout = _Dropout(p, number)
        count = (tile.end - tile.near) * p.columns  # near keys; the weight after them is that of all far ones
        inside = near[..., :count]
        y = torch.bmm(_times(inside, dropout.mask(inside)), p.v[tile.keys].to(near.dtype))
        if rows is not None and columns is not None:
            average = torch.zeros_like(y)
            for part, keys in tile.far_chunks(near.shape[0] * near.shape[1]):
                outer = (rows[..., part, None] * columns[..., None, :]).flatten(2)
                average.baddbmm_(_times(outer, dropout.mask(outer)), p.v[keys].to(near.dtype))
            y.addcmul_(near[..., count:], average)
        out[tile.queries] = y
    return out


def backward(p: Problem, grad: Tensor) -> list[Tensor]:
    """Gradients of q, k, v, row_table, column_table, u, w, z; float32 or wider, those of absent u, w, z empty."""
    dtype = torch.promote_types(p.q.dtype, torch.float32)
    dq, dk, dv = (torch.zeros_like(t, dtype=dtype, memory_format=torch.contiguous_format) for t in (p.q, p.k, p.v))
    d_rows, d_columns = dq.new_zeros(p.row_table.shape), dq.new_zeros(p.column_table.shape)
    d_biases = [dq.new_zeros(0 if bias is None else bias.shape) for bias in (p.u, p.w, p.z)]
    for number, tile in enumerate(p.tiles()):
        content_q, row_q, column_q, near, rows, columns = _compute_weights(p, tile)
        dropout = _Dropout(p, number)
        dy = grad[tile.queries].to(dtype)
        groups, queries, _ = near.shape
        count = (tile.end - tile.near) * p.columns
        d_near = torch.empty_like(near)
        if count:
            inside, d_inside = near[..., :count], d_near[..., :count]
            mask = dropout.mask(inside)
            dv[tile.keys].baddbmm_(_times(inside, mask).mT, dy)
            d_inside.baddbmm_(dy, p.v[tile.keys].to(dtype).mT, beta=0)
            if mask is not None:
                d_inside.mul_(mask)
        # of f and g; until the softmax is undone below, they hold dy·v of the far keys, averaged over columns and over rows
        df = dy.new_empty(groups, queries, tile.end)
        dg = dy.new_zeros(groups, queries, p.columns)
        if rows is not None and columns is not None:
            total = near[..., count:]
            share = total * dy
            for part, keys in tile.far_chunks(groups * queries):
                outer = (rows[..., part, None] * columns[..., None, :]).flatten(2)
                mask = dropout.mask(outer)
                dv[keys].baddbmm_(_times(outer, mask).mT, share)
                d_outer = _times(torch.bmm(dy, p.v[keys].to(dtype).mT), mask).unflatten(-1, (-1, p.columns))
                df[..., part] = torch.matmul(d_outer, columns[..., None])[..., 0]
                dg += torch.matmul(rows[..., None, part], d_outer)[..., 0, :]
            mean = (df[..., : tile.near] * rows).sum(-1, keepdim=True)  # dy · (average of the far values)
            d_near[..., count:] = mean
        d_scores = torch.ops.aten._softmax_backward_data(d_near, near, -1, dtype)
        if rows is not None and columns is not None:
            together = d_scores[
                ..., count:
            ]  # of the far keys' one logit, whose softmaxes over f and g are rows and columns
            df[..., : tile.near] = rows * (total * (df[..., : tile.near] - mean) + together)
            dg = columns * (total * (dg - mean) + together)
        if count:
            d_inside = d_scores[..., :count]
            by_place = d_inside.unflatten(-1, (-1, p.columns))
            torch.sum(by_place, -1, out=df[..., tile.near :])
            dg += by_place.sum(-2)
            k = p.k[tile.keys].to(dtype)
            d_content = torch.bmm(d_inside, k).mul_(p.scale)
            dk[tile.keys].baddbmm_(d_inside.mT, content_q, alpha=p.scale)
        else:
            d_content = torch.zeros_like(dy)
        # the same view as forward, written: each key column back to its distance
        by_distance = dy.new_zeros(groups, queries, p.columns + tile.stop - tile.first - 1)
        tile.skewed(by_distance).copy_(dg.unflatten(1, (-1, p.heads)))
        d_row = torch.bmm(df, p.row_table[tile.row_entries])
        d_column = torch.bmm(by_distance, p.column_table[tile.column_entries])
        d_rows[tile.row_entries].baddbmm_(df.mT, row_q)
        d_columns[tile.column_entries].baddbmm_(by_distance.mT, column_q)
        dq[tile.queries] = d_content + d_row + d_column
        for total_bias, part in zip(d_biases, (d_content, d_row, d_column), strict=True):
            if total_bias.numel():
                total_bias[tile.groups] += part.sum(1, keepdim=True)
    return [dq, dk, dv, d_rows, d_columns, *d_biases]


# Registered by schema: torch.library.custom_op would import torch._dynamo, for seconds, at the first call.
_FIELDS = (
    "Tensor q, Tensor k, Tensor v, Tensor row_table, Tensor column_table, Tensor? u, Tensor? w, Tensor? z, Tensor? column_bias, "
    "int heads, float scale, bool causal, int window, bool full_last, bool content, float dropout, int seed"
)
_LIBRARY = torch.library.Library("core_attention", "FRAGMENT")
_LIBRARY.define(f"factorised({_FIELDS}) -> Tensor")
_LIBRARY.define(f"factorised_backward(Tensor grad, {_FIELDS}) -> Tensor[]")


def _forward(*fields):
    with torch.autocast(fields[0].device.type, enabled=False):
        return forward(Problem(*fields))


def _backward(grad, *fields):
    with torch.autocast(grad.device.type, enabled=False):
        return backward(Problem(*fields), grad)


def _fake_forward(q, *rest):
    return torch.empty_like(q)


def _fake_backward(grad, *fields):
    dtype = torch.promote_types(fields[0].dtype, torch.float32)
    return [grad.new_empty(0 if t is None else t.shape, dtype=dtype) for t in fields[:8]]


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.settings = inputs[9:]


@first_order
def _differentiate(ctx, grad):
    tensors = ctx.saved_tensors
    grads = torch.ops.core_attention.factorised_backward(grad, *tensors, *ctx.settings)
    out = [None if t is None else g.to(t.dtype) for t, g in zip(tensors[:8], grads, strict=True)]
    return (*out, None, *[None] * len(ctx.settings))


_LIBRARY.impl("factorised", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("factorised_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("core_attention::factorised", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("core_attention::factorised_backward", _fake_backward, lib=_LIBRARY)
torch.library.register_autograd("core_attention::factorised", _differentiate, setup_context=_keep, lib=_LIBRARY)


def factorised_op(*fields) -> Tensor:
    """`forward` of the fields of a `Problem`, as an operator with a gradient."""
    return torch.ops.core_attention.factorised(*fields)


def flops(q, k, *rest, out_shape=None, **kwargs) -> int:
    """Operations of the matrix products in a forward call, by shapes, for torch's flop counter."""
    heads, _, causal, window, full_last, content = rest[7:13]
    groups, rows, queries, dim = q
    columns = queries // heads
    key_rows = k[1] // columns
    products = 0
    for row in range(key_rows - rows, key_rows):
        near, end = near_rows(row, key_rows, causal, window, full_last, content)
        products += (2 * (end - near) + near) * columns + end + 2 * columns - 1
    return 2 * groups * queries * dim * products
