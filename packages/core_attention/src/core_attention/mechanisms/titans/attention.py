"""The short-term memory of Titans: attention in a window, with persistent tokens that every query sees.

Windows are computed block by block with torch's fused attention; no (time, time) matrix or mask exists.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from core_attention.attention import attention
from core_attention.capture.recording import paused, record
from core_attention.masks import Window
from core_attention.mechanisms.titans.projection import Projection
from core_attention.parts.cache import Cache
from core_attention.parts.placing import Device, placed
from core_attention.parts.rotary import rotary_angles, rotate
from core_attention.routed.attention import merge_attention

Prefix = tuple[Tensor, Tensor]


def sliding_attention(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys dim"],
    *,
    window: int,
    prefix: Prefix | None = None,
) -> Float[Tensor, "batch heads time dim"]:
    """Token i sees the `window` tokens i − window + 1 … i, and the whole prefix.

    Args:
        q: the last `time` tokens of those that have keys; the earlier ones are the past of a streamed sequence.
        k, v: (batch, heads, keys ≥ time, dim).
        window: at least 1; window ≥ keys is causal attention.
        prefix: keys and values (batch or 1, heads, persistent, dim) that every token sees.

    Returns:
        the output of the last `time` tokens.

    Raises:
        ValueError: fewer keys than queries, or a window below 1.
    """
    time, keys = q.shape[2], k.shape[2]
    if window < 1 or keys < time:
        raise ValueError(
            f"window is at least 1 and keys reach the last query; got {window}, {tuple(q.shape)}, {tuple(k.shape)}"
        )
    past = min(keys - time, window - 1)
    k, v = k[:, :, keys - time - past :], v[:, :, keys - time - past :]
    _record(q, k, prefix, lambda rows, columns: (d := rows[:, None] + past - columns).ge(0) & d.lt(window))

    # of `queries` tokens, the first of which has `before` keys before it
    def band(queries: int, before: int) -> Tensor:
        distance = (
            torch.arange(queries, device=q.device)[:, None] + before - torch.arange(before + queries, device=q.device)
        )
        return (distance >= 0) & (distance < window)

    if time == 1:  # a decoded token: every key that is left is in its window
        return _attend(q, k, v, None, prefix)
    if torch.compiler.is_compiling():
        return _sliding_in_graph(q, k, v, Window(window - 1, 0, past), prefix)
    first = min(time, window)
    outs = [_attend(q[:, :, :first], k[:, :, : past + first], v[:, :, : past + first], band(first, past), prefix)]
    blocks = (time - first) // window
    if blocks:  # all inner blocks at once: `window` queries against the window − 1 keys before them and their own
        start, stop = past + 1, past + window + blocks * window
        keys, values = (t[:, :, start:stop].unfold(2, 2 * window - 1, window).movedim(-1, -2) for t in (k, v))
        queries = q[:, :, window : window + blocks * window].unflatten(2, (blocks, window))
        outs.append(_attend(queries, keys, values, band(window, window - 1), prefix).flatten(2, 3))
    done = first + blocks * window
    if done < time:
        part = slice(past + done - window + 1, None)
        outs.append(_attend(q[:, :, done:], k[:, :, part], v[:, :, part], band(time - done, window - 1), prefix))
    return torch.cat(outs, 2)


def _sliding_in_graph(q: Tensor, k: Tensor, v: Tensor, mask: Window, prefix: Prefix | None) -> Tensor:
    """`sliding_attention` in operations whose number does not depend on the length."""
    if prefix is None:
        return attention(q, k, v, mask=mask)
    in_window = attention(q, k, v, mask=mask, return_lse=True)
    to_prefix = attention(q, *(_spread(t, k) for t in prefix), return_lse=True)
    return merge_attention([in_window, to_prefix])[0]


def segment_attention(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch heads time dim"],
    v: Float[Tensor, "batch heads time dim"],
    *,
    segment: int,
    prefix: Prefix | None = None,
) -> Float[Tensor, "batch heads time dim"]:
    """Token i sees the tokens of its own segment up to itself, and the whole prefix; arguments as in `sliding_attention`."""
    time = q.shape[2]
    blocks = -(-time // segment)
    _record(
        q,
        k,
        prefix,
        lambda rows, columns: (rows[:, None] // segment == columns // segment) & (rows[:, None] >= columns),
    )
    q, k, v = (pad(t, (0, 0, 0, blocks * segment - time)).unflatten(2, (blocks, segment)) for t in (q, k, v))
    causal = torch.ones(segment, segment, dtype=torch.bool, device=q.device).tril()
    return _attend(q, k, v, causal, prefix).flatten(2, 3)[:, :, :time]


def masked_attention(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys dim"],
    *,
    mask: Bool[Tensor, "time keys"] | None,
    prefix: Prefix | None = None,
) -> Float[Tensor, "batch heads time dim"]:
    """Attention where `mask` is True (None: everywhere), and over the whole prefix: for one segment and what is put before it."""

    def visible(rows: Tensor, columns: Tensor) -> Tensor:
        if mask is None:
            return torch.ones(len(rows), len(columns), dtype=torch.bool, device=q.device)
        return mask[rows][:, columns]

    _record(q, k, prefix, visible)
    return _attend(q, k, v, mask, prefix)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, prefix: Prefix | None) -> Tensor:
    """Fused attention on (batch, heads, [blocks,] queries, dim) with a mask (queries, keys) and a prefix that all see."""
    if prefix is not None:
        count = prefix[0].shape[2]
        mask = None if mask is None else pad(mask, (count, 0), value=True)
        k, v = (torch.cat([_spread(p, t), t], -2) for p, t in zip(prefix, (k, v), strict=True))
    with paused():
        if q.ndim == 4:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = scaled_dot_product_attention(*(t.flatten(1, 2) for t in (q, k, v)), attn_mask=mask)
        return out.unflatten(1, q.shape[1:3])


def _spread(prefix: Tensor, like: Tensor) -> Tensor:
    """(batch or 1, heads, persistent, dim) with the batch and blocks of `like`."""
    prefix = prefix if like.ndim == 4 else prefix.unsqueeze(2)
    return prefix.expand(*like.shape[:-2], *prefix.shape[-2:]).to(like.dtype)


def _record(q: Tensor, k: Tensor, prefix: Prefix | None, visible) -> None:
    """Offers the attention weights over [prefix ‖ keys] to a running capture."""
    batch, heads, time, dim = q.shape
    count = 0 if prefix is None else prefix[0].shape[2]

    def weights(rows: Tensor, chosen: Tensor) -> Tensor:
        keys = k[:, chosen] if prefix is None else torch.cat([_spread(prefix[0], k), k], -2)[:, chosen]
        scores = (q[:, chosen][:, :, rows] @ keys.mT) * dim**-0.5
        mask = pad(visible(rows, torch.arange(k.shape[2], device=q.device)), (count, 0), value=True)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)

    record("weights", weights, shape=(batch, heads, time, count + k.shape[2]), device=q.device)


class HeadRMSNorm(nn.Module):
    """x / rms(x) · (γ + 1) with γ (heads, 1, dim), on (batch, heads, tokens, dim)."""

    @placed
    def __init__(self, num_heads: int, dim: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(num_heads, 1, dim))

    def forward(self, x: Float[Tensor, "batch heads tokens dim"]) -> Float[Tensor, "batch heads tokens dim"]:
        """The normalised heads."""
        return nn.functional.rms_norm(x, x.shape[-1:]) * (self.gamma + 1)


class HeadProjections(nn.Module):
    """Queries, keys and values of `num_heads` heads, and the projection back, all without bias."""

    @placed
    def __init__(self, dim: int, num_heads: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads divides dim; got {num_heads} and {dim}")
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def queries(self, x: Tensor) -> Tensor:
        """(batch, heads, time, dim / heads)."""
        return self._split(self.to_q(x))

    def keys_values(self, x: Tensor) -> Prefix:
        """(batch, heads, time, dim / heads) each."""
        return self._split(self.to_k(x)), self._split(self.to_v(x))

    @property
    def reading(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """What reads the tokens, for `Projection.of`."""
        return self.to_q, self.to_k, self.to_v

    def queries_keys_values(self, x: Tensor, joined: Projection) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, heads, time, dim / heads) each, by one product; `joined` is `Projection.of(self.reading)`."""
        q, k, v = joined(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def merge(self, y: Tensor) -> Tensor:
        """Heads joined and projected back, (batch, time, dim)."""
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@dataclass
class SegmentedCache(Cache):
    """What a later token may see of the tokens before it: those of its block, or the last `block` of a sliding window.

    Attributes:
        length: tokens read.
        keys, values: (batch, heads, held, dim), rotated.
    """

    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is held with the new keys and values behind it."""
        if self.keys is None or self.values is None:
            return k, v
        return torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)

    def keep(self, k: Tensor, v: Tensor, number: int, new: int) -> None:
        """Holds the last `number` rows, and counts `new` tokens."""
        first = k.shape[2] - number
        self.keys, self.values = k[:, :, first:].detach(), v[:, :, first:].detach()
        self.length += new


class SegmentedAttention(nn.Module):
    """Attention of titans-pytorch's memory-as-context transformer: segments or a sliding window, persistent keys and values.

    RMSNorm; q, k, v without bias; rotary phase over absolute positions on neighbouring channels (not on persistent keys).

    Args:
        dim: width of the tokens.
        segment_len, num_longterm_mem_tokens: a block is the sum of both.
        num_persist_mem_tokens: learned keys and values that every token sees.
        dim_head, heads: width and number of the heads.
        sliding: token i sees i − block … i in place of its own block.
        accept_value_residual: `forward` mixes in the values of the first layer: v + σ(x W + b) (v₁ − v).
        theta: base of the rotary phase.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: sizes below 1, or an odd dim_head.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        segment_len: int,
        num_longterm_mem_tokens: int = 0,
        num_persist_mem_tokens: int = 0,
        head_dim: int = 64,
        num_heads: int = 8,
        sliding: bool = False,
        accept_value_residual: bool = False,
        theta: float = 10000.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if (
            min(dim, segment_len, head_dim, num_heads) < 1
            or min(num_longterm_mem_tokens, num_persist_mem_tokens) < 0
            or head_dim % 2
        ):
            raise ValueError(
                "dim, segment_len, num_heads are at least 1, head_dim is even, token counts are not negative; got "
                f"{(dim, segment_len, num_heads, head_dim, num_longterm_mem_tokens, num_persist_mem_tokens)}"
            )
        self.dim, self.num_heads, self.sliding, self.theta = dim, num_heads, sliding, theta
        self.block = segment_len + num_longterm_mem_tokens
        inner = head_dim * num_heads
        self.norm = nn.RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.persistent_memory = nn.Parameter(torch.zeros(2, num_heads, num_persist_mem_tokens, head_dim))
        self.to_v_mix = nn.Linear(dim, num_heads) if accept_value_residual else None

    def forward(
        self,
        x: Float[Tensor, "..."],
        *,
        first_values: Float[Tensor, "batch heads time dim_head"] | None = None,
        return_values: bool = False,
        cache: SegmentedCache | None = None,
    ) -> Float[Tensor, "batch time dim"] | tuple[Tensor, Tensor]:
        """Attention of tokens (batch, time, dim); with `return_values` also this layer's values before mixing.

        Calls that continue one `cache` equal one call, wherever the sequence is cut.

        Returns:
            the tokens after attention; with `return_values` also (batch, heads, time, head_dim) values.

        Raises:
            ValueError: a wrong shape, or `first_values` given without the option or missing with it.
        """
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != self.dim:
            raise ValueError(f"x is (batch, time, {self.dim}) with at least one time step; got {tuple(x.shape)}")
        if (first_values is None) == (self.to_v_mix is not None):
            raise ValueError("first_values is given if and only if the layer was built with accept_value_residual")
        x = self.norm(x)
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        values = v = qkv[2]
        if self.to_v_mix is not None:
            v = v.lerp(first_values, self.to_v_mix(x).sigmoid().mT[..., None])
        begin = 0 if cache is None else cache.length
        positions = torch.arange(begin, begin + x.shape[1], device=x.device)
        q, k = rotate(qkv[:2], rotary_angles(positions, qkv.shape[-1], self.theta, x.dtype), "interleaved")
        persistent = self.persistent_memory
        prefix = (persistent[0][None], persistent[1][None]) if persistent.shape[2] else None
        if self.sliding:
            keys, rows = (k, v) if cache is None else cache.extend(k, v)
            y = sliding_attention(q, keys, rows, window=self.block + 1, prefix=prefix)
            if cache is not None:
                cache.keep(keys, rows, min(keys.shape[2], self.block), x.shape[1])
        else:
            y = self._in_segments(q, k, v, prefix, cache)
        out = self.to_out(y.transpose(1, 2).flatten(2))
        return (out, values) if return_values else out

    def new_cache(self) -> SegmentedCache:
        """An empty cache; one for each generation."""
        return SegmentedCache()

    def _in_segments(self, q: Tensor, k: Tensor, v: Tensor, prefix: Prefix | None, cache: SegmentedCache | None):
        """Causal attention inside blocks, the first of which may have begun in an earlier call."""
        if cache is None:
            return segment_attention(q, k, v, segment=self.block, prefix=prefix)
        time, place = q.shape[2], cache.length % self.block
        first = min(self.block - place, time) if place else 0
        keys, rows = cache.extend(k, v)
        outs = []
        if first:
            segment = slice(place + first)
            visible = None  # a decoded token sees all that is held
            if first > 1:
                visible = torch.ones(first, place + first, dtype=torch.bool, device=q.device).tril(place)
            outs.append(
                masked_attention(q[:, :, :first], keys[:, :, segment], rows[:, :, segment], mask=visible, prefix=prefix)
            )
        if first < time:
            later = (t[:, :, first:] for t in (q, k, v))
            outs.append(segment_attention(*later, segment=self.block, prefix=prefix))
        cache.keep(keys, rows, (cache.length + time) % self.block, time)
        return torch.cat(outs, 2)
