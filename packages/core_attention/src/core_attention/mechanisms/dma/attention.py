"""Dynamic mask attention (Shi et al. 2025, Trainable Dynamic Mask Sparse Attention, arXiv 2508.02124).

A learned importance of every key, computed from its value vector, is added to the scores and alone decides which `window` keys a query may see.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from core_attention.capture.recording import active, paused, record
from core_attention.mechanisms.dma.checks import check_inputs, check_window, four_axes, same_heads, sequences
from core_attention.mechanisms.dma.tiles import attend_alive, key_lifetimes, shared_lifetimes
from core_attention.parts.one_node import one_node

Selection = Literal["per_query", "shared"]
Form = Literal["exp", "log"]
Backend = Literal["auto", "reference", "tiles", "sdpa"]


def importance(
    u: Float[Tensor, "batch keys kv_heads"], a: Float[Tensor, " kv_heads"], form: Form = "exp"
) -> Float[Tensor, "batch kv_heads 1 keys"]:
    """Importance of every key from ``u = W_dt v``: ``exp(A · softplus(u))``, or ``A · softplus(u)`` in log form.

    The paper and transformers' Doge use the exponential; the kernel repository the log form, for stability. They are different models: the
    checkpoint decides. Both rank keys alike.
    """
    # turned before, not after: compiled, the gradient of softplus has other strides than the graph expects
    delta = a[:, None] * F.softplus(u.transpose(1, 2).contiguous())
    if form == "exp":
        delta = delta.exp()
    return delta[:, :, None]


def dynamic_mask(
    bias: Float[Tensor, "bias_batch bias_heads bias_queries keys"],
    *,
    window: int,
    queries: int | None = None,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    selection: Selection = "per_query",
    rows: Int[Tensor, " rows"] | None = None,
) -> Bool[Tensor, "batch heads rows keys"]:
    """Which keys each query keeps, by definition: the `window` largest `bias` among the keys it is allowed to see.

    Equal importance: the more recent key wins. NaN ranks first. Carries no gradient.

    Args:
        bias: importance; the query axis may have length 1.
        window: keys to keep for each query.
        queries: number of queries; the last one sees the last key (bottom-right alignment). Defaults to the query axis, else the keys.
        causal: query i of T sees keys up to ``keys - T + i``.
        mask: True = may be seen; (batch, keys), or four axes that broadcast to (batch, heads, queries, keys).
        selection: ``"per_query"`` ranks what each query may see. ``"shared"`` ranks all keys once and applies the causal rule afterwards, as the
            kernel repository's model does: it looks at later keys while ranking, so it is not causal, and early queries may keep nothing.
        rows: only these queries; all of them by default.

    Returns:
        True where the query keeps the key.

    Raises:
        ValueError: `window` < 1, or a mask that does not broadcast.
    """
    keys = bias.shape[-1]
    queries = queries or (bias.shape[2] if bias.shape[2] > 1 else keys)
    check_window(window)
    rows = torch.arange(queries, device=bias.device) if rows is None else rows
    padding = four_axes(mask, bias.shape, queries)
    bias = bias if bias.shape[2] == 1 else bias[:, :, rows]
    padding = padding if padding is None or padding.shape[2] == 1 else padding[:, :, rows]
    allowed = torch.ones(1, 1, len(rows), keys, dtype=torch.bool, device=bias.device) if padding is None else padding
    visible = allowed
    if causal:
        visible = allowed & (torch.arange(keys, device=bias.device) <= (rows + keys - queries)[:, None])
    ranked, visible, allowed = torch.broadcast_tensors(bias.detach().nan_to_num(nan=torch.inf), visible, allowed)
    ranked = ranked.masked_fill(~(visible if selection == "per_query" else allowed), -torch.inf)
    best = keys - 1 - ranked.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :window]
    return torch.zeros_like(visible).scatter(-1, best, True) & visible


def dynamic_mask_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    bias: Float[Tensor, "..."],
    *,
    window: int,
    causal: bool = True,
    mask: Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
    selection: Selection = "per_query",
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads queries value_dim"]:
    """``softmax_j(scale · q_i·k_j + bias_j) v_j`` over the keys that query i keeps (paper, section 3; selection as in `dynamic_mask`).

    Rows that keep no key give 0. The selection carries no gradient; `bias` receives one through the scores. Half precision is computed in
    float32.

    Args:
        q: queries, the last one aligned with the last key. `heads` is a multiple of `kv_heads`; keys are never repeated.
        bias: importance, ({batch|1}, {heads|kv_heads|1}, {queries|1}, keys). One value per query makes the definition the only way to compute it.
        window: keys to keep for each query; may exceed the number of keys.
        mask: True = may be seen; (batch, keys) or four axes that broadcast.
        scale: defaults to dim^-1/2.
        dropout: share of the attention weights dropped.
        backend: ``"reference"`` is the definition, with masks and scores of size queries × keys; ``"tiles"`` costs O(queries · window) and needs
            bias and mask to be the same for all queries; ``"sdpa"`` is for a window that covers all keys. ``"auto"`` takes the leanest that applies.

    Returns:
        the output, in the dtype of `q`; 0 for a query that keeps nothing.

    Raises:
        ValueError: shapes that do not fit, `window` < 1, or a backend that cannot compute what is asked.
    """
    check_inputs(q, k, v, bias, causal)
    check_window(window)
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    factor = dim**-0.5 if scale is None else scale
    padding = four_axes(mask, (batch, heads, queries, keys), queries)
    bias, padding = same_heads(bias, padding, k.shape[1], heads)
    by_query = bias.shape[2] > 1 or (padding is not None and padding.shape[2] > 1)
    # torch's causal flag aligns the first query with the first key, and its mask would have to be a matrix
    whole = window >= keys and padding is None and not dropout and (not causal or queries == keys) and keys > 0
    if backend == "auto":
        if by_query:
            backend = "reference"
        else:
            backend = "sdpa" if whole else "tiles"
    if backend == "tiles" and by_query:
        raise ValueError(
            f"backend 'tiles' needs bias and mask to be the same for all queries, got bias {tuple(bias.shape)} and mask "
            f"{None if padding is None else tuple(padding.shape)}"
        )
    if backend == "sdpa" and (by_query or not whole):
        raise ValueError(
            f"backend 'sdpa' needs a window of at least the {keys} keys (got {window}), no mask, no dropout, one bias per key, and as many "
            f"queries as keys when causal (got {queries})"
        )
    out_dtype = v.dtype
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.promote_types(v.dtype, torch.float32))
        q, k, v, bias = (x.to(dtype) for x in (q, k, v, bias))
        choice = {"window": window, "causal": causal, "mask": padding, "selection": selection}
        if not active():
            return _compute(backend, q, k, v, bias, factor, dropout, choice).to(out_dtype)
        record(
            "weights",
            lambda rows, chosen: _weights(q, k, bias, factor, rows=rows, **choice).flatten(1, 2)[:, chosen],
            shape=(batch, heads, queries, keys),
            device=q.device,
        )
        with paused():
            return _compute(backend, q, k, v, bias, factor, dropout, choice).to(out_dtype)


def _compute(
    backend: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float, choice: dict
) -> Tensor:
    if not (q.shape[0] and q.shape[2] and k.shape[2]):
        # nothing to attend to, and a gradient of zero for everything
        return q.new_zeros(*q.shape[:3], v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum() + bias.sum())
    if backend == "reference":
        weight = F.dropout(_weights(q, k, bias, scale, **choice), dropout)
        return torch.einsum("bhgqk,bhkd->bhgqd", weight, v).flatten(1, 2)
    if backend == "sdpa":
        # a comparison of symbolic lengths becomes a bool where it is decided
        if choice["causal"]:
            return _folded(q, k, v, bias, True, scale)
        return _folded(q, k, v, bias, False, scale)
    if torch.compiler.is_compiling() and not dropout:
        mask = choice["mask"]
        settings = {name: choice[name] for name in ("window", "causal", "selection")} | {"scale": scale}
        tensors = [q, k, v, bias]
        if mask is not None:
            tensors.append(mask)
        (out,) = _tiled_in_graph(tensors, settings)
        return out
    return _tiled(q, k, v, bias, scale, dropout, **choice)


def _weights(q: Tensor, k: Tensor, bias: Tensor, scale: float, *, rows: Tensor | None = None, **choice) -> Tensor:
    """The attention weights by definition, (batch, kv_heads, group, rows, keys)."""
    heads, queries = q.shape[1:3]
    kv_heads = k.shape[1]

    def grouped(x: Tensor) -> Tensor:  # one head or kv_heads of them broadcast over the group
        return x.unflatten(1, (kv_heads, -1)) if x.shape[1] == heads else x[:, :, None]

    mask = dynamic_mask(bias, queries=queries, rows=rows, **choice)
    if rows is not None:
        q = q[:, :, rows]
        bias = bias if bias.shape[2] == 1 else bias[:, :, rows]
    score = torch.einsum("bhgqd,bhkd->bhgqk", q.unflatten(1, (kv_heads, -1)), k) * scale + grouped(bias)
    empty = ~grouped(mask).any(-1, keepdim=True)
    score = score.masked_fill(~grouped(mask), -torch.inf).masked_fill(empty, 0)
    return score.softmax(-1).masked_fill(empty, 0)


def _folded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, causal: bool, scale: float) -> Tensor:
    """One more channel, 1 in q and bias / scale in k, adds the bias inside torch's fused attention, which takes no gradient for a mask."""
    heads, kv_heads = q.shape[1], k.shape[1]
    if bias.shape[1] == heads and heads != kv_heads:
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    extra = (bias.expand(k.shape[0], k.shape[1], 1, -1) / scale).mT
    q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
    k = torch.cat([k, extra], dim=-1)
    width, dim = q.shape[-1], v.shape[-1]
    # torch's fused kernel on CPU wants values as wide as keys, and is four times faster than its other path
    if dim < width:
        v = F.pad(v, (0, width - dim))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=heads != k.shape[1])
    return out[..., :dim]


def _tiled(q, k, v, bias, scale, dropout, *, window, causal, mask, selection) -> Tensor:
    batch, heads, queries, _ = q.shape
    kv_heads, keys = k.shape[1:3]
    by_head = heads != kv_heads and heads in (bias.shape[1], 1 if mask is None else mask.shape[1])
    if by_head:  # each query head selects for itself: the group shares keys no longer
        k, v = (x[:, :, None].expand(-1, -1, heads // kv_heads, -1, -1).flatten(1, 2) for x in (k, v))
    rows, group = batch * k.shape[1], heads // k.shape[1]
    bias = bias.expand(batch, k.shape[1], 1, keys).reshape(rows, keys)
    allowed = None if mask is None else mask.expand(batch, k.shape[1], 1, keys).reshape(rows, keys)
    lifetimes = key_lifetimes if selection == "per_query" and causal else shared_lifetimes
    expiry = lifetimes(bias, window, allowed)
    out, _ = attend_alive(
        q.reshape(rows, group, queries, q.shape[-1]),
        k.flatten(0, 1),
        v.flatten(0, 1),
        bias,
        expiry,
        window=window,
        scale=scale,
        causal=causal,
        dropout=dropout,
    )
    return out.reshape(batch, heads, queries, v.shape[-1])


def _tiled_of(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    """`_tiled` on a list of tensors: ranks and tiles are loops, which a graph holds as one node."""
    q, k, v, bias, *mask = tensors
    options = {name: settings[name] for name in ("window", "causal", "selection")}
    options["mask"] = mask[0] if mask else None
    out = _tiled(q, k, v, bias, settings["scale"], 0.0, **options)
    return [out.contiguous()]


def _empty_of(tensors: Sequence[Tensor], settings: Mapping[str, Any]) -> list[Tensor]:
    q, _, v = tensors[:3]
    return [q.new_empty(*q.shape[:3], v.shape[3])]


_tiled_in_graph = one_node("dynamic_mask_tiles", _tiled_of, _empty_of)


def dynamic_mask_attention_varlen(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "keys kv_heads dim"],
    v: Float[Tensor, "keys kv_heads value_dim"],
    bias: Float[Tensor, "keys bias_heads"],
    *,
    query_starts: Sequence[int] | Shaped[Tensor, " sequences"],
    key_starts: Sequence[int] | Shaped[Tensor, " sequences"],
    window: int,
    **options,
) -> Float[Tensor, "queries heads value_dim"]:
    """`dynamic_mask_attention` for sequences of different lengths laid end to end, each attending to itself alone.

    Args:
        q, k, v, bias: tokens first, as in flash attention's variable-length interface.
        query_starts, key_starts: where each sequence starts, and the total at the end (``cu_seqlens``).
        options: as in `dynamic_mask_attention`, except `mask`.

    Returns:
        the packed output, in the order of the packed queries.

    Raises:
        ValueError: starts that do not rise from 0 to the number of tokens, or that count different numbers of sequences.
    """
    of_queries = sequences("query_starts", query_starts, q.shape[0])
    of_keys = sequences("key_starts", key_starts, k.shape[0])
    if len(of_queries) != len(of_keys):
        raise ValueError(f"query_starts counts {len(of_queries)} sequences, key_starts {len(of_keys)}")
    outs = [q.new_zeros(0, q.shape[1], v.shape[-1])]
    for rows, columns in zip(of_queries, of_keys, strict=True):
        # heads first, a batch of one
        query = q[rows].transpose(0, 1)[None]
        key, value = k[columns].transpose(0, 1)[None], v[columns].transpose(0, 1)[None]
        importance_of_keys = bias[columns].T[None, :, None]
        out = dynamic_mask_attention(query, key, value, importance_of_keys, window=window, **options)
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def create_mask(
    bias: Float[Tensor, "..."],
    *,
    queries: int,
    window: int,
    mask: Bool[Tensor, "..."] | None = None,
    kind: Literal["topk", "relu"] = "topk",
    block: int | None = None,
) -> Bool[Tensor, "batch heads queries keys"]:
    """The kernel repository's mask builder: top `window` of the allowed keys, or those with positive importance; no causal rule.

    Args:
        bias: importance, ({batch|1}, {heads|1}, {queries|1}, keys).
        mask: (batch, keys), (batch, queries) — keys before the queries are then allowed — or four axes that broadcast.
        kind: ``"topk"`` keeps the `window` largest — never one that is the lowest number of its type, the usual fill of masked
            biases —, ``"relu"`` the positive ones.
        block: smooths along keys: a block (also the shorter last one) becomes wholly on if more than half of it is on, else wholly off. A key that
            `mask` forbids may come on in this way.

    Returns:
        True where a query keeps the key.

    Raises:
        ValueError: a mask whose shape fits neither form.
    """
    check_window(window)
    keys = bias.shape[-1]
    if mask is not None and mask.ndim == 2 and mask.shape[1] == queries != keys:
        mask = F.pad(mask, (keys - queries, 0), value=True)
    allowed = four_axes(mask, bias.shape, queries)
    ranked = bias.detach()
    if allowed is not None:
        ranked, allowed = torch.broadcast_tensors(ranked, allowed)
    result = torch.ones_like(ranked, dtype=torch.bool) if allowed is None else allowed.clone()
    if kind == "relu":
        result &= ranked > 0
    elif keys > window:
        result = dynamic_mask(ranked, window=window, queries=ranked.shape[2], causal=False, mask=allowed)
        result &= ranked != torch.finfo(ranked.dtype).min
    if block is None:
        return result
    blocks = -(-keys // block)
    on = F.pad(result, (0, blocks * block - keys)).unflatten(-1, (blocks, block)).sum(-1)
    sizes = torch.full((blocks,), block, device=bias.device)
    sizes[-1:] -= blocks * block - keys
    return (2 * on > sizes).repeat_interleave(block, dim=-1)[..., :keys]


def kept_density(kept: Bool[Tensor, "*rows keys"], allowed: Bool[Tensor, "*rows keys"]) -> float:
    """Mean kept keys divided by mean allowed keys."""
    return float(kept.sum() / allowed.sum().clamp(min=1))
