"""Multi-variate parallel attention (MVPA): attention over a grid of time segments and channels, whatever their number.

Carzaniga et al., "A foundation model with multi-variate parallel attention to generate neuronal activity" (arXiv 2506.20354, ICLR
2026). The score of a query in segment t and channel c with a key in t′ ≤ t and c′ is

    [ (q + u)·k_{t′c′} if in the window ]  +  (q + w)·r[t − t′]  +  (q + z)·s[|c − c′|],    all over √dim,

where the window holds t − t′ ≤ 10, and everything for the last segment. Outside it the content term is 0 and the key competes through its
relative terms, which factorise over segments and channels (`core_attention.factorised.attention`).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention.factorised.attention import (
    Backend,
    Reach,
    Tables,
    factorised_attention,
    factorised_reference,
    factorised_weights,
)
from core_attention.measuring.example import Example
from core_attention.parts.cache import SETTING, Cache, check_crop
from core_attention.parts.placing import Device, placed

RelativeIndex = Literal["official", "distance"]


@dataclass
class MVPACache(Cache):
    """Keys and values of the segments seen so far, (batch, kv_heads, segments, channels, dim); the oldest beyond `limit` are dropped.

    Attributes:
        limit: greatest number of segments that attention sees; 0: all.
        length: segments read, also those that were dropped.
    """

    limit: int = field(default=0, metadata=SETTING)
    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None

    def crop(self, length: int) -> None:
        """Forgets the segments from `length` on.

        Raises:
            ValueError: segments were dropped that would be seen again, or `length` is not from 0 to those read.
        """
        check_crop(length, self.length)
        if length < self.length and self.limit and self.length > self.limit:
            raise ValueError(
                f"of {self.length} segments the cache keeps {self.limit}: it cannot go back to {length}; keep a copy (copy.deepcopy) to return to"
            )
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]
        self.length = length

    def joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past and of a call's own segments."""
        if self.limit and k.shape[2] > self.limit:
            raise ValueError(f"a call brings at most the cache's {self.limit} segments; got {k.shape[2]}")
        if self.keys is None or self.values is None:
            return k, v
        if self.keys.shape[:2] + self.keys.shape[3:] != k.shape[:2] + k.shape[3:]:
            raise ValueError(f"the cache holds keys of {tuple(self.keys.shape)}, the call brings {tuple(k.shape)}")
        k, v = torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)
        if self.limit:
            k, v = k[:, :, -self.limit :], v[:, :, -self.limit :]
        return k, v


def mvpa_reach(
    window: int | None = 10,
    last_row_full: bool | None = None,
    content: bool = True,
    relative_index: RelativeIndex = "official",
) -> Reach:
    """Who sees whom; arguments as in `mvpa`."""
    full = relative_index == "official" if last_row_full is None else last_row_full
    return Reach(causal=True, window=window, full_last=full, content=content)


def relative_tables(
    r: Float[Tensor, "kv_heads segments dim"],
    s: Float[Tensor, "kv_heads channels dim"],
    bias: Float[Tensor, "3 kv_heads dim"] | None = None,
    relative_index: RelativeIndex = "official",
) -> Tables:
    """Tables by distance from projected position rows r and channel rows s.

    "official": distance d stands in row −1 − d, counted from the end of what is given, as released weights were trained; the row of a
    distance then depends on the number of segments and channels. "distance": in row d.
    """
    if relative_index == "distance":
        r, s = r.flip(1), s.flip(1)
    # distance 0 is now the last row; channels lie on both sides of the query: |c − c′| from C − 1 down to 0 and up again
    columns = torch.cat([s, s[:, :-1].flip(1)], 1)
    if bias is None:
        return Tables(r, columns)
    u, w, z = bias
    return Tables(r, columns, u, w, z)


def mvpa(
    q: Float[Tensor, "..."],
    k: Float[Tensor, "..."],
    v: Float[Tensor, "..."],
    r: Float[Tensor, "kv_heads segments dim"],
    s: Float[Tensor, "kv_heads channels dim"],
    *,
    bias: Float[Tensor, "3 kv_heads dim"] | None = None,
    window: int | None = 10,
    last_row_full: bool | None = None,
    content: bool = True,
    relative_index: RelativeIndex = "official",
    scale: float | None = None,
    mask: Bool[Tensor, "batch channels"] | None = None,
    dropout: float = 0.0,
    structured: bool = False,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads time channels dim"]:
    """Multi-variate parallel attention, exact and without anything of the size of all pairs.

    Args:
        q: (batch, heads, time, channels, dim): the last `time` segments.
        k, v: (batch, kv_heads, segments, channels, dim); query head h uses kv head h // (heads / kv_heads).
        r, s: projected position and channel rows, as many as segments and channels.
        bias: u (content), w (time), z (channel).
        window: segments back that have a content term; None: all.
        last_row_full: the last segment has content everywhere. Default: as published, yes with "official" indices; no with "distance",
            so that no result depends on how many segments follow.
        content: False: relative terms only.
        relative_index: see `relative_tables`.
        scale: default dim^−½.
        mask: channels that are seen (False: padding of recordings with fewer electrodes).
        dropout, structured: of the weights: element-wise, or of whole segments and whole channels of keys (`structured_keep`).
        backend: see `factorised_attention`.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, no segment or channel, or a sample without a visible channel.
    """
    if r.shape[1:] != (k.shape[2], k.shape[-1]) or s.shape[1:] != k.shape[3:]:
        raise ValueError(
            f"r is (kv_heads, segments, dim) and s (kv_heads, channels, dim) of keys {tuple(k.shape)}; "
            f"got {tuple(r.shape)} and {tuple(s.shape)}"
        )
    if dropout and structured:
        v = v * structured_keep(k.shape[2], k.shape[3], dropout, like=v)
        dropout = 0.0
    reach = mvpa_reach(window, last_row_full, content, relative_index)
    tables = relative_tables(r, s, bias, relative_index)
    return factorised_attention(q, k, v, tables, reach, scale=scale, column_mask=mask, dropout=dropout, backend=backend)


def structured_keep(segments: int, channels: int, rate: float, *, like: Tensor) -> Float[Tensor, "segments channels 1"]:
    """Structured dropout: whole key segments and whole key channels stay with probability √(1 − p) each, scaled by 1 / (1 − p).

    Weights are dropped after the softmax, so dropping a key's weight everywhere is dropping its value; one mask for all heads and samples.
    """
    probability = (1 - rate) ** 0.5
    time = like.new_empty(segments).bernoulli_(probability)
    channel = like.new_empty(channels).bernoulli_(probability)
    return (time[:, None] * channel / (1 - rate))[..., None]


class LoRALinear(nn.Linear):
    """A linear map without bias, with a low-rank update of its last rows: W + (alpha / rank) [0; B A].

    Args:
        rank: of the update; 0: none, and the weight is trained as usual. Otherwise the weight is frozen.
        alpha: scale of the update, over rank.
        updated: number of last output features that the update reaches; default all.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        out: int,
        *,
        rank: int = 0,
        alpha: float = 16.0,
        updated: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, out, bias=False)
        self.factor = alpha / rank if rank else 0.0
        if rank:
            self.weight.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.empty(rank, dim))
            self.lora_B = nn.Parameter(torch.zeros(out if updated is None else updated, rank))
            nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def merged(self) -> Float[Tensor, "out width"]:
        """The effective weight."""
        if not self.factor:
            return self.weight
        update = self.lora_B @ self.lora_A * self.factor  # of the last rows; zeros above it
        return self.weight + nn.functional.pad(update, (0, 0, self.out_features - len(update), 0))

    def forward(self, input: Tensor) -> Tensor:
        """The projection with its low-rank addition.

        Returns:
            (…, out_features).
        """
        out = super().forward(input)
        if not self.factor:
            return out
        update = nn.functional.linear(nn.functional.linear(input, self.lora_A), self.lora_B * self.factor)
        return out + nn.functional.pad(update, (self.out_features - update.shape[-1], 0))


class MVPFormerGQAAttention(nn.Module):
    """The attention layer of MVPFormer, with its parameter names: q, keys and values, projected relative positions, output.

    Args:
        dim: E.
        num_heads, num_kv_heads: query heads, and key/value heads, which divide them.
        window, last_row_full, content, relative_index: as in `mvpa` (`content` is the published `global_att`).
        divisor: the scores are divided by it once more; layer index + 1 for the published `scale_attn_by_inverse_layer_idx`.
        lora_rank, lora_alpha: low-rank fine-tuning of the query map and of the value half of `c_attn`, whose weights are then frozen.
        attention_dropout, structured_dropout: rate, and whether it drops whole key segments and channels instead of single weights.
        residual_dropout: after the output projection.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: heads that do not divide.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        window: int | None = 10,
        last_row_full: bool | None = None,
        content: bool = True,
        relative_index: RelativeIndex = "official",
        divisor: float = 1.0,
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        attention_dropout: float = 0.0,
        structured_dropout: bool = False,
        residual_dropout: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or num_kv_heads < 1 or dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"num_kv_heads divides num_heads and num_heads divides dim; got {num_kv_heads}, {num_heads} and {dim}"
            )
        if relative_index not in ("official", "distance"):
            raise ValueError(f'relative_index is "official" or "distance"; got {relative_index!r}')
        self.dim, self.num_heads, self.num_kv_heads = dim, num_heads, num_kv_heads
        self.head_dim = dim // num_heads
        self.window, self.last_row_full, self.content = window, last_row_full, content
        self.relative_index: RelativeIndex = relative_index
        self.scale = self.head_dim**-0.5 / divisor
        self.attention_dropout, self.structured_dropout = attention_dropout, structured_dropout
        inner = num_kv_heads * self.head_dim
        # `c_attn` gives keys, then values; low-rank fine-tuning reaches its values only
        self.q_attn = LoRALinear(dim, dim, rank=lora_rank, alpha=lora_alpha)
        self.c_attn = LoRALinear(dim, 2 * inner, rank=lora_rank, alpha=lora_alpha, updated=inner)
        self.position_net = nn.Linear(dim, inner, bias=False)
        self.channel_net = nn.Linear(dim, inner, bias=False)
        self.attn_bias = nn.Parameter(torch.empty(3 * inner))
        self.c_proj = nn.Linear(dim, dim, bias=False)
        self.resid_dropout = nn.Dropout(residual_dropout)
        nn.init.normal_(self.attn_bias, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def new_cache(self, limit: int = 0) -> MVPACache:
        """An empty state for streaming inference; at most `limit` segments are kept (0: all)."""
        return MVPACache(limit=limit)

    def forward(
        self,
        x: Float[Tensor, "..."],
        positions: Float[Tensor, "..."],
        channels: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
        cache: MVPACache | None = None,
        queries: int | None = None,
    ) -> Float[Tensor, "batch time channels width"]:
        """Attention of tokens on the grid.

        With a cache the tokens are the segments after those that it holds, and the result is that of the last segments of one call on
        all of them: attention to past segments costs their keys and values, which are kept.

        Args:
            x: (batch, time, channels, width).
            positions, channels: position and channel embeddings, (rows, width) or (1, rows, width); the first rows are used, as many as
                there are segments (past ones too) and channels.
            mask: as in `mvpa`.
            cache: past segments, updated in place.
            queries: only the last so many segments ask, and only they are returned; default all.

        Returns:
            the grid after attention, of the shape of `hidden_states`.

        Raises:
            ValueError: wrong ranks or widths, fewer rows than segments or channels, no segment or no channel.
        """
        q, k, v, r, s = self._projected(x, positions, channels, cache, queries)
        y = mvpa(
            q,
            k,
            v,
            r,
            s,
            bias=self._bias,
            window=self.window,
            last_row_full=self.last_row_full,
            content=self.content,
            relative_index=self.relative_index,
            scale=self.scale,
            mask=mask,
            dropout=self.attention_dropout if self.training else 0.0,
            structured=self.structured_dropout,
        )
        if cache is not None:
            cache.keys, cache.values = k, v
            cache.length += x.shape[1]
        return self.resid_dropout(self.c_proj(y.permute(0, 2, 3, 1, 4).flatten(3)))

    def weights(
        self,
        x: Float[Tensor, "..."],
        positions: Float[Tensor, "..."],
        channels: Float[Tensor, "..."],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Float[Tensor, "batch heads queries keys"]:
        """All attention weights, (batch, heads, time · channels, time · channels): for small grids (some rows: `core_attention.capture`)."""
        q, k, _, r, s = self._projected(x, positions, channels, None)
        tables = relative_tables(r, s, self._bias, self.relative_index)
        reach = mvpa_reach(self.window, self.last_row_full, self.content, self.relative_index)
        return factorised_weights(q, k, tables, reach, scale=self.scale, column_mask=mask)

    @property
    def _bias(self) -> Tensor:
        return self.attn_bias.view(3, self.num_kv_heads, self.head_dim)

    def _projected(
        self,
        x: Tensor,
        positions: Tensor,
        channels: Tensor,
        cache: MVPACache | None,
        queries: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v, r and s of `mvpa`; keys and values with those of the cache before them."""
        if x.ndim != 4 or x.shape[-1] != self.dim or min(x.shape[1:]) < 1:
            raise ValueError(
                f"x is (batch, time, channels, {self.dim}), of which only the batch may be empty; got {tuple(x.shape)}"
            )
        if queries is not None and not 1 <= queries <= x.shape[1]:
            raise ValueError(f"queries is from 1 to the {x.shape[1]} segments of x; got {queries}")
        asking = x if queries is None else x[:, -queries:]
        q = self._split_heads(self.q_attn(asking))
        k, v = self._split_heads(self.c_attn(x)).split(self.num_kv_heads, 1)
        if cache is not None:
            k, v = cache.joined(k, v)
        r = self._project_rows("positions", positions, k.shape[2], self.position_net)
        s = self._project_rows("channels", channels, k.shape[3], self.channel_net)
        return q, k, v, r, s

    def _split_heads(self, t: Tensor) -> Tensor:
        """(batch, time, channels, heads · dim) → (batch, heads, time, channels, dim)."""
        return t.unflatten(-1, (-1, self.head_dim)).permute(0, 3, 1, 2, 4)

    def _project_rows(self, name: str, table: Tensor, count: int, net: nn.Linear) -> Tensor:
        """The first `count` rows of an embedding, projected: (kv_heads, count, dim)."""
        if table.ndim == 3 and table.shape[0] == 1:
            table = table[0]
        if table.ndim != 2 or table.shape[1] != self.dim or table.shape[0] < count:
            raise ValueError(f"{name} is ({count} or more, {self.dim}); got {tuple(table.shape)}")
        return net(table[:count]).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(0, 1)


def example(tokens: int) -> Example:
    """MVPFormer-S's layer on 32 channels."""
    channels = min(32, tokens)
    time = max(1, round(tokens / channels))
    layer = MVPFormerGQAAttention(768, num_heads=12, num_kv_heads=4)

    def definition(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        q, k, v, r, s = layer._projected(x, positions, table, None)
        tables = relative_tables(r, s, layer._bias, layer.relative_index)
        y = factorised_reference(q, k, v, tables, mvpa_reach(), scale=layer.scale)
        return layer.c_proj(y.permute(0, 2, 3, 1, 4).flatten(3))

    inputs = (torch.randn(1, time, channels, 768), torch.randn(time, 768), torch.randn(channels, 768))
    return Example(layer, inputs, tokens=time * channels, reference=definition, softmax=(768, 12))
