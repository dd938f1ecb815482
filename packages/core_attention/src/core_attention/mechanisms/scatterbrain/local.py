"""Scatterbrain whose exact pairs lie in a window around the diagonal, by products of chunks: O(length) time and memory."""

from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core_attention.measuring.example import Example
from core_attention.mechanisms.scatterbrain.attention import Features, Options, ScatterbrainAttention, check_inputs
from core_attention.parts.placing import Device, placed

CHUNK = 32  # queries in a chunk, at least: smaller products do not pay
SCORES = 1 << 22  # scores held at once; more are computed again in the backward pass


def local_pairs(rows: Int[Tensor, " rows"], keys: int, window: int) -> Bool[Tensor, "rows keys"]:
    """Which keys lie in the window of each query: i − ⌊window/2⌋ … i + ⌈window/2⌉ − 1, both counted from 0."""
    distance = torch.arange(keys, device=rows.device) - rows[:, None]
    return (distance >= -(window // 2)) & (distance < (window + 1) // 2)


def scatterbrain_local_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    features: Features,
    *,
    window: int,
    softmax_temp: float | None = None,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """``out_i = Σ_j Â_ij v_j / Σ_j Â_ij`` with Â exact in the window and low-rank outside it.

    What lies outside is summed as such, from running sums over chunks; the published code subtracts the window from the whole, which loses
    digits where the window holds nearly everything. Rows without a visible key give 0.

    Args:
        features: of these queries and keys, made with the same `softmax_temp` and `key_mask`.
        window: L; a query sees keys i − ⌊L/2⌋ … i + ⌈L/2⌉ − 1 exactly.
        softmax_temp: t, the factor of q·k; defaults to dim^-1/2.
        causal: no key after the query, in either part.
        key_mask: True = a key, False = padding.
        dropout: share of the exact weights dropped; the low-rank part is left alone.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, or `window` < 1.
    """
    check_inputs(q, k, v, key_mask)
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    t = dim**-0.5 if softmax_temp is None else softmax_temp
    if not queries or not keys:
        # zeros that stay in the graph
        return v.new_zeros(batch, heads, queries, v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum())
    longest = max(queries, keys)
    # at least half a window, so that a window never reaches beyond the neighbouring chunks
    size = min(max(CHUNK, (window + 1) // 2), longest)
    count = -(-longest // size)
    allowed = torch.ones(1, keys, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    allowed = allowed.expand(batch, keys).repeat_interleave(heads, dim=0)

    def chunks(x: Tensor) -> Tensor:  # (batch, heads, length, ·) → (batch · heads, count, size, ·)
        x = x.flatten(0, 1)
        return F.pad(x, (0, 0, 0, count * size - x.shape[1])).unflatten(1, (count, size))

    ones = torch.ones_like(v[..., :1])
    parts = (
        chunks(q * t),
        chunks(k),
        chunks(torch.cat([v, ones], dim=-1)),  # the last channel sums the weights
        chunks(features.q),
        chunks(features.k),
        chunks(features.log_scale.expand(-1, -1, queries, -1)),
        F.pad(allowed, (0, count * size - keys)).unflatten(1, (count, size)),
    )
    rows = max(1, SCORES // (3 * count * size * size))
    if rows >= batch * heads:
        out = _attend_chunks(*parts, window, causal, dropout)
    else:
        outs = []
        for group in zip(*(part.split(rows) for part in parts), strict=True):
            part_out = checkpoint(_attend_chunks, *group, window, causal, dropout, use_reentrant=False)
            outs.append(part_out)
        out = torch.cat(outs)  # type: ignore[arg-type]
    return out.flatten(1, 2)[:, :queries].unflatten(0, (batch, heads))


def _attend_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prime_q: Tensor,
    prime_k: Tensor,
    scale: Tensor,
    allowed: Tensor,
    window: int,
    causal: bool,
    dropout: float,
) -> Tensor:
    """Output (rows, count, size, dim) of queries, keys … in chunks (rows, count, size, ·), rows of batch · heads.

    Three parts, all in the scale of each row's largest term: the window exactly, the rest of the own and the neighbouring chunks by
    its products of features, and all chunks beyond by sums of states.
    """
    count, size = q.shape[1:3]
    device = q.device
    reach = 1 if count > 1 else 0  # a window reaches into the neighbouring chunks at most

    def near(x: Tensor) -> Tensor:  # each chunk between its neighbours: (rows, count, (1 + 2 · reach) · size, ·)
        if not reach:
            return x
        padded = F.pad(x, (0, 0) * (x.ndim - 2) + (1, 1))
        return torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=2)

    # key minus query, of the near keys (columns) and the queries of a chunk (rows): the same in every chunk
    key_place = torch.arange(-reach * size, (1 + reach) * size, device=device)
    distance = key_place - torch.arange(size, device=device)[:, None]
    exact = (distance >= -(window // 2)) & (distance < (window + 1) // 2)
    visible = near(allowed)[:, :, None]
    if causal:
        exact, visible = exact & (distance <= 0), visible & (distance <= 0)
    score = (q @ near(k).mT).masked_fill(~(exact & visible), -torch.inf)
    top = torch.maximum(score.detach().amax(-1, keepdim=True), scale.detach())
    near_v = near(v)
    weight = (score - top).exp()
    lowrank = (prime_q @ near(prime_k).mT).masked_fill(exact | ~visible, 0) * (scale - top).exp()
    # chunks beyond the neighbours, by the sums of what lies before and after
    states = prime_k.mT @ v
    far = F.pad(states.cumsum(1), (0, 0, 0, 0, 1 + reach, 0))[:, :count]
    if not causal:
        after = states.flip(1).cumsum(1).flip(1)
        far = far + F.pad(after, (0, 0, 0, 0, 0, 1 + reach))[:, 1 + reach :]
    out = (weight + lowrank) @ near_v + (prime_q @ far) * (scale - top).exp()
    total = out[..., -1:]
    if dropout:  # after the normaliser: weights are dropped, not renormalised
        out = out + (F.dropout(weight, dropout) - weight) @ near_v
    return out[..., :-1] / total.masked_fill(total == 0, 1)


class SBLocalAttention(ScatterbrainAttention):
    """Scatterbrain with a local window.

    Args:
        dim: channels of a head.
        window: L (``local_context``): a query sees keys i − ⌊L/2⌋ … i + ⌈L/2⌉ − 1 exactly.
        features: random features; defaults to int(dim · ln dim).
        softmax_temp: t; defaults to dim^-1/2. T2T-ViT takes it from the width of the attention's input.
        eps: see `performer_features`; 1e-4 in the published Long Range Arena configurations.
        ortho_scaling: see `orthogonal_projection`.
        causal: no key after the query, in either part.
        dropout: of the exact weights, in training.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        dim: int,
        window: int,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(dim, **options)
        self.window = window

    def pairs(self, choice: None, rows: Int[Tensor, " rows"], keys: int) -> Bool[Tensor, "rows keys"]:
        return local_pairs(rows, keys, self.window)

    def attend(self, q, k, v, features: Features, choice: None, mask: Tensor | None) -> Tensor:
        return scatterbrain_local_attention(
            q,
            k,
            v,
            features,
            window=self.window,
            softmax_temp=self.softmax_temp,
            causal=self.causal,
            key_mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )


class _Layer(nn.Module):
    """Projections around an attention, for `example`."""

    def __init__(self, dim: int, num_heads: int, attention: ScatterbrainAttention) -> None:
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, dense: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if dense:
            out = self.attention.matrices(q, k).weights @ v
        else:
            out = self.attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


def example(tokens: int) -> Example:
    """A layer of 512 channels and 8 heads with the published ListOps budget, for `core_attention.registry.catalogue`."""
    layer = _Layer(512, 8, SBLocalAttention(64, 64, features=32))
    x = torch.randn(1, tokens, 512)
    return Example(layer, (x,), tokens=tokens, reference=lambda x: layer(x, dense=True), softmax=(512, 8))
