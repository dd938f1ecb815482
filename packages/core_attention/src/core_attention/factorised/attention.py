"""Attention over tokens on a grid with an additive bias that factorises into a row part and a column part.

The score of query (t, c) and key (t′, c′) is

    scale · [ (q + u)·k_{t′c′} + (q + w)·R[t′ − t] + (q + z)·Q[c′ − c] ]

with a table R by row distance and a table Q by column distance, and the first term present only where `Reach` says so: multi-variate
parallel attention (`mechanisms/mvpformer`) and the decomposed relative positions of image encoders (MViTv2, Segment Anything). Where the
content term is absent the logit is f(t′) + g(c′), so its exponential factorises: those keys cost no product with the keys, their
normaliser is (Σ exp f)(Σ exp g), and their values are averaged with the outer product of two softmaxes. Nothing of the size of all pairs
is kept, forward or backward (`core_attention.factorised.tiles`). A bias that is already computed goes to `core_attention.masks.Factorised`.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core_attention.capture.recording import active, record
from core_attention.factorised.tiles import factorised_op
from core_attention.masks.checking import one_or
from core_attention.parts.transforms import differentiated

Backend = Literal["auto", "tiles", "triton", "flex"]


class Reach(NamedTuple):
    """Which keys a query in grid row t sees, and where its score has a content term.

    Attributes:
        causal: only key rows t′ ≤ t; False: all.
        window: content only for t − t′ ≤ window (needs `causal`); None: everywhere. Beyond it the content term is 0, not −∞: such keys
            still compete through their bias.
        full_last: the last key row, as a query, has content everywhere.
        content: False: no content term at all.
    """

    causal: bool = False
    window: int | None = None
    full_last: bool = False
    content: bool = True


EVERYTHING = Reach()


class Tables(NamedTuple):
    """Relative positions: what is multiplied with the query, by distance.

    Attributes:
        rows: entry (t′ − t) + S − 1 belongs to key row t′ and query row t of S rows; (kv_heads or 1, S, dim) for causal attention,
            (kv_heads or 1, 2 S − 1, dim) else.
        columns: entry (c′ − c) + C − 1; (kv_heads or 1, 2 C − 1, dim).
        u, w, z: added to the query before the content, row and column products, (kv_heads, dim) each, or None.
    """

    rows: Tensor
    columns: Tensor
    u: Tensor | None = None
    w: Tensor | None = None
    z: Tensor | None = None


def factorised_attention(
    q: Float[Tensor, "..."],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    tables: Tables,
    reach: Reach = EVERYTHING,
    *,
    scale: float | None = None,
    column_mask: Bool[Tensor, "batch columns"] | None = None,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads rows columns dim"]:
    """Exact softmax attention with the scores above.

    Args:
        q: (batch, heads, rows, columns, dim): the last `rows` of the key rows.
        k, v: (batch, kv_heads, key_rows, columns, dim); query head h uses key/value head h // (heads / kv_heads).
        tables: relative positions.
        reach: who sees whom.
        scale: of all three terms, default dim^−½.
        column_mask: False hides a key column (padding); one column of every sample must stay.
        dropout: element-wise, of the weights; its masks are drawn from torch's generator.
        backend: "tiles" runs anywhere; "triton" is the fused kernel on CUDA; "flex" is FlexAttention, for comparison on CUDA;
            "auto" takes the kernel where it can run, else tiles.

    Returns:
        attention's output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, nothing to attend to, a sample without a visible column, or an unknown backend.
        RuntimeError: the backend asked for cannot compute this; says why.
    """
    groups = _check(q, k, v, tables, reach, column_mask)
    batch, _, rows, columns, dim = q.shape
    factor = dim**-0.5 if scale is None else scale
    kv_heads = k.shape[1]
    if active():
        _record(q, k, tables, reach, factor, column_mask)
    dtype = torch.promote_types(q.dtype, torch.float32)
    window = -1 if reach.window is None else reach.window
    if backend == "auto" and not dropout and differentiated():
        with torch.autocast(q.device.type, enabled=False):
            wide = q.to(dtype), k.to(dtype), v.to(dtype)
            return factorised_reference(*wide, tables, reach, scale=scale, column_mask=column_mask).to(q.dtype)
    if _choose_backend(backend, q, dropout) != "tiles":
        with torch.autocast(q.device.type, enabled=False):
            return _fused(backend, q, k, v, tables, reach, factor, column_mask)
    # (kv_heads · batch, rows, columns · groups, dim): the query heads of a group innermost, as the tiles want them
    grouped = q.unflatten(1, (kv_heads, groups)).permute(1, 0, 3, 4, 2, 5)
    grouped = grouped.reshape(kv_heads * batch, rows, columns * groups, dim)
    keys, values = (t.transpose(0, 1).flatten(0, 1).flatten(1, 2) for t in (k, v))

    # one entry per kv head → one per kv head and sample; a def would be wrapped by the shape checks, which Dynamo cannot trace
    spread = lambda t: t.expand(kv_heads, *t.shape[1:]).repeat_interleave(batch, 0)  # noqa: E731

    # the scale goes into the tables, which are small; that of the content term is a factor of its product
    row_table, column_table = spread(tables.rows.to(dtype) * factor), spread(tables.columns.to(dtype) * factor)
    biases = [None if bias is None else spread(bias[:, None]) for bias in (tables.u, tables.w, tables.z)]
    column_bias = None
    if column_mask is not None:
        column_bias = torch.zeros(column_mask.shape, dtype=dtype, device=q.device).masked_fill(~column_mask, -torch.inf)
        column_bias = column_bias[:, None].repeat(kv_heads, 1, 1)
    seed = int(torch.randint(2**62, ())) if dropout else 0
    out = factorised_op(
        grouped, keys, values, row_table, column_table, *biases, column_bias,
        groups, factor, reach.causal, window, reach.full_last, reach.content, dropout, seed,
    )  # fmt: skip
    return out.view(kv_heads, batch, rows, columns, groups, dim).permute(1, 0, 4, 2, 3, 5).flatten(1, 2)


def _choose_backend(backend: Backend, q: Tensor, dropout: float) -> str:
    """The backend that runs: Triton where it can and is wanted, FlexAttention where it is asked for, else tiles."""
    if backend not in ("auto", "tiles", "triton", "flex"):
        raise ValueError(f"backend is auto, tiles, triton or flex; got {backend!r}")
    if backend == "tiles" or (backend == "auto" and not q.is_cuda):
        return "tiles"
    if backend == "flex":
        if not q.is_cuda or dropout:
            raise RuntimeError(
                "FlexAttention is used on CUDA alone (on CPU it has no backward pass), and without dropout of weights"
            )
        return "flex"
    try:
        from core_attention.factorised import triton as kernels
    except ImportError as error:
        reason = f"triton cannot be imported ({error})"
    else:
        reason = kernels.unusable(q, dropout)
    if reason and backend == "triton":
        raise RuntimeError(reason)
    return "tiles" if reason else "triton"


def _fused(backend, q, k, v, tables, reach, scale, column_mask) -> Tensor:
    """The two CUDA backends, which take the biases ready-made."""
    kv_heads = k.shape[1]
    w = None if tables.w is None else tables.w.float()
    z = None if tables.z is None else tables.z.float()
    wide = Tables(tables.rows.float(), tables.columns.float(), w=w, z=z)
    by_row, by_column = relative_bias(q.float(), wide, key_rows=k.shape[2], kv_heads=kv_heads)
    by_column = by_column * scale
    if column_mask is not None:
        by_column = by_column.masked_fill(~column_mask[:, None, None, None], -torch.inf)
    if tables.u is not None:
        q = (q.unflatten(1, (kv_heads, -1)) + tables.u[:, None, None, None].to(q.dtype)).flatten(1, 2)
    k, v = k.to(q.dtype), v.to(q.dtype)
    if backend == "flex":
        from core_attention.factorised.flex import attend as call
    else:
        from core_attention.factorised.triton import factorised as call
    return call(
        q,
        k,
        v,
        by_row * scale,
        by_column,
        scale=scale,
        causal=reach.causal,
        window=-1 if reach.window is None else reach.window,
        full_last=reach.full_last,
        content=reach.content,
    )


def relative_bias(
    q: Float[Tensor, "batch heads rows columns dim"], tables: Tables, *, key_rows: int, kv_heads: int
) -> tuple[Float[Tensor, "batch heads rows columns key_rows"], Float[Tensor, "batch heads rows columns key_columns"]]:
    """The row part (q + w)·R[t′ − t] and the column part (q + z)·Q[c′ − c] of the bias, unscaled.

    Key rows after the query, for which a causal table has no entry, get 0.

    Returns:
        the row part, and the column part.
    """
    rows, columns = q.shape[2:4]
    row_q = column_q = q.unflatten(1, (kv_heads, -1))  # (batch, kv_heads, group, rows, columns, dim)
    if tables.w is not None:
        row_q = row_q + tables.w[:, None, None, None]
    if tables.z is not None:
        column_q = column_q + tables.z[:, None, None, None]
    # places in the tables: (t′ − t) + S − 1 and (c′ − c) + C − 1; zeros where a causal table ends
    query = torch.arange(rows, device=q.device)[:, None] + key_rows - rows
    row_entries = torch.arange(key_rows, device=q.device) - query + key_rows - 1
    place = torch.arange(columns, device=q.device)
    column_entries = place - place[:, None] + columns - 1
    padded = torch.nn.functional.pad(tables.rows, (0, 0, 0, 2 * key_rows - 1 - tables.rows.shape[1]))
    by_row = padded[:, row_entries].expand(kv_heads, -1, -1, -1)
    by_column = tables.columns[:, column_entries].expand(kv_heads, -1, -1, -1)
    f = torch.einsum("bkgtcd,ktsd->bkgtcs", row_q, by_row)
    g = torch.einsum("bkgtcd,kced->bkgtce", column_q, by_column)
    return f.flatten(1, 2), g.flatten(1, 2)


def factorised_weights(
    q: Float[Tensor, "batch heads rows columns dim"],
    k: Float[Tensor, "batch kv_heads key_rows columns dim"],
    tables: Tables,
    reach: Reach = EVERYTHING,
    *,
    scale: float | None = None,
    column_mask: Bool[Tensor, "batch columns"] | None = None,
    queries: Tensor | None = None,
    heads: Tensor | None = None,
) -> Float[Tensor, "batch picked_heads picked_queries keys"]:
    """The definition: attention weights of `factorised_attention` for some heads and queries (default all), in row-major order.

    Keys are (key_rows · columns) in row-major order; queries are numbered rows · columns.
    """
    _, count, rows, columns, dim = q.shape
    kv_heads, key_rows = k.shape[1:3]
    heads = torch.arange(count, device=q.device) if heads is None else heads
    queries = torch.arange(rows * columns, device=q.device) if queries is None else queries
    kv_head = heads // (count // kv_heads)  # of each query head
    picked = q.flatten(2, 3)[:, heads][:, :, queries]
    row, column = queries // columns + key_rows - rows, queries % columns
    back = row[:, None] - torch.arange(key_rows, device=q.device)  # t − t′
    aside = column[:, None] - torch.arange(columns, device=q.device)  # c − c′

    def shifted(bias: Tensor | None) -> Tensor:
        return picked if bias is None else picked + bias[kv_head][:, None]

    def product(table: Tensor, bias: Tensor | None, entries: Tensor) -> Tensor:
        by_head = table.expand(kv_heads, -1, -1)[kv_head]
        return torch.einsum("bhqd,hqed->bhqe", shifted(bias), by_head[:, entries])

    content = torch.einsum("bhqd,bhscd->bhqsc", shifted(tables.u), k[:, kv_head])
    visible = back >= 0 if reach.causal else torch.ones_like(back, dtype=torch.bool)
    near = visible & reach.content  # where the content term is present
    if reach.window is not None:
        near = near & ((back <= reach.window) | ((row[:, None] == key_rows - 1) & reach.full_last))
    padded = torch.nn.functional.pad(tables.rows, (0, 0, 0, 2 * key_rows - 1 - tables.rows.shape[1]))
    f = product(padded, tables.w, key_rows - 1 - back)
    g = product(tables.columns, tables.z, columns - 1 - aside)
    # (batch, heads, queries, key_rows, columns); beyond the window the content is 0, not −∞
    scores = content.masked_fill(~near[:, :, None], 0.0) + f[..., None] + g[..., None, :]
    scores = scores * (dim**-0.5 if scale is None else scale)
    scores = scores.masked_fill(~visible[:, :, None], -torch.inf)
    if column_mask is not None:
        scores = scores.masked_fill(~column_mask[:, None, None, None], -torch.inf)
    return scores.flatten(3).softmax(-1)


def factorised_reference(
    q: Float[Tensor, "batch heads rows columns dim"],
    k: Float[Tensor, "batch kv_heads key_rows columns dim"],
    v: Float[Tensor, "batch kv_heads key_rows columns dim"],
    tables: Tables,
    reach: Reach = EVERYTHING,
    *,
    scale: float | None = None,
    column_mask: Bool[Tensor, "batch columns"] | None = None,
) -> Float[Tensor, "batch heads rows columns dim"]:
    """`factorised_attention` by its definition, with all weights in memory."""
    weights = factorised_weights(q, k, tables, reach, scale=scale, column_mask=column_mask)
    values = v.flatten(2, 3).repeat_interleave(q.shape[1] // k.shape[1], 1)
    return (weights @ values).unflatten(2, q.shape[2:4])


def _check(q: Tensor, k: Tensor, v: Tensor, tables: Tables, reach: Reach, column_mask: Tensor | None) -> int:
    """Query heads per key/value head, after checking all shapes."""
    if reach.window is not None and (not reach.causal or reach.window < 0):
        raise ValueError(f"a window is not negative and needs causal rows; got {reach}")
    if q.ndim != 5 or k.ndim != 5 or v.shape != k.shape:
        raise ValueError(
            "q is (batch, heads, rows, columns, dim), k and v (batch, kv_heads, key_rows, columns, dim); got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    (batch, heads, rows, columns, dim), (kv_heads, key_rows) = q.shape, k.shape[1:3]
    if min(q.shape[1:]) < 1 or min(k.shape[1:]) < 1:
        raise ValueError(f"there is nothing to attend to: q is {tuple(q.shape)} and k {tuple(k.shape)}")
    if (batch, columns, dim) != (k.shape[0], *k.shape[3:]) or rows > key_rows or heads % kv_heads:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} do not fit: batch, columns and dim are equal, queries are the last of the key "
            "rows, and kv_heads divide heads"
        )
    row_entries = key_rows if reach.causal else 2 * key_rows - 1
    for name, table, entries in (("rows", tables.rows, row_entries), ("columns", tables.columns, 2 * columns - 1)):
        if table.ndim != 3 or not one_or(table.shape[0], kv_heads) or table.shape[1:] != (entries, dim):
            raise ValueError(f"the table of {name} is {(kv_heads, entries, dim)}; got {tuple(table.shape)}")
    for name, bias in (("u", tables.u), ("w", tables.w), ("z", tables.z)):
        if bias is not None and bias.shape != (kv_heads, dim):
            raise ValueError(f"{name} is (kv_heads, dim) = {(kv_heads, dim)}; got {tuple(bias.shape)}")
    if column_mask is not None:
        if column_mask.shape != (batch, columns):
            raise ValueError(f"column_mask is (batch, columns) = {(batch, columns)}; got {tuple(column_mask.shape)}")
        if not torch.compiler.is_compiling() and not bool(column_mask.any(-1).all()):
            raise ValueError("column_mask hides every column of some sample")
    return heads // kv_heads


def _record(q: Tensor, k: Tensor, tables: Tables, reach: Reach, scale: float, column_mask: Tensor | None) -> None:
    """Offers the attention weights to a running capture."""

    def weights(queries: Tensor, heads: Tensor) -> Tensor:
        return factorised_weights(
            q, k, tables, reach, scale=scale, column_mask=column_mask, queries=queries, heads=heads
        )

    batch, heads, rows, columns, _ = q.shape
    record("weights", weights, shape=(batch, heads, rows * columns, k.shape[2] * columns), device=q.device)
