"""Scatterbrain whose exact pairs share a bucket of a locality-sensitive hash (asymmetric clustering of SMYRF, Daras et al. 2020)."""

from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from core_attention.mechanisms.scatterbrain.attention import (
    Features,
    Options,
    ScatterbrainAttention,
    check_inputs,
    lowrank_product,
)
from core_attention.parts.placing import Device, placed


class Clusters(NamedTuple):
    """The order in which each round of hashing sorts queries and keys; entries beyond the length are padding."""

    q: Int[Tensor, "hashes batch_heads padded_queries"]
    k: Int[Tensor, "hashes batch_heads padded_keys"]


def asymmetric_transform(
    q: Float[Tensor, "*batch queries dim"], k: Float[Tensor, "*batch keys dim"]
) -> tuple[Float[Tensor, "*batch queries wider"], Float[Tensor, "*batch keys wider"]]:
    """Puts queries and keys on one sphere so that near means a large inner product: ``[q, 0, √(R − |q|²)]``, ``[k, √(R − |k|²), 0]``.

    R is the largest |q|² plus the largest |k|². Inner products stay as they are.

    Returns:
        the queries, and the keys, two channels wider.
    """
    norm_q, norm_k = q.square().sum(-1, keepdim=True), k.square().sum(-1, keepdim=True)
    if not q.shape[-2] or not k.shape[-2]:
        return F.pad(q, (0, 2)), F.pad(k, (0, 2))
    radius = norm_q.amax(-2, keepdim=True) + norm_k.amax(-2, keepdim=True)
    zero_q, zero_k = torch.zeros_like(norm_q), torch.zeros_like(norm_k)
    rest_q, rest_k = (radius - norm_q).clamp(min=0).sqrt(), (radius - norm_k).clamp(min=0).sqrt()
    return torch.cat([q, zero_q, rest_q], dim=-1), torch.cat([k, rest_k, zero_k], dim=-1)


def lsh_clustering(
    q: Float[Tensor, "*batch queries dim"],
    k: Float[Tensor, "*batch keys dim"],
    alpha: Float[Tensor, "wider hashes"],
    beta: Float[Tensor, "1 hashes"],
    *,
    key_mask: Bool[Tensor, "*batch keys"] | None = None,
    query_mask: Bool[Tensor, "*batch queries"] | None = None,
) -> tuple[Int[Tensor, "hashes *batch queries"], Int[Tensor, "hashes *batch keys"]]:
    """Sorts queries and keys by one-dimensional random projections ``xᵀα + β``; masked entries come last. Carries no gradient.

    Args:
        q, k: already transformed by `asymmetric_transform`, or any vectors on one sphere.
        alpha: Gaussian, one column per round.
        beta: shifts a whole round, queries and keys alike, and so changes no order; kept as published.

    Returns:
        for each round the positions in the order of their projection: of the queries, and of the keys.
    """

    def order(x: Tensor, mask: Tensor | None) -> Tensor:
        hashes = (x.detach() @ alpha.to(x.dtype) + beta.to(x.dtype)).movedim(-1, 0)
        if mask is not None:
            hashes = hashes.masked_fill(~mask, torch.inf)
        return hashes.argsort(dim=-1, stable=True)

    return order(q, query_mask), order(k, key_mask)


def scatterbrain_lsh_attention(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    features: Features,
    clusters: Clusters,
    *,
    q_cluster: int,
    k_cluster: int,
    softmax_temp: float | None = None,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Exact for pairs that some round puts into clusters of one number, low-rank for all others; O(length · hashes · cluster).

    A pair found in c rounds counts 1/c in each. The low-rank part is summed over everything and the exact pairs' share is taken out again, in the
    scale of each row's largest term; the normaliser stays at least 1e-6 of it. Rows without a visible key give 0.

    Args:
        clusters: from `lsh_clustering`, padded to multiples of the cluster sizes, an equal number of clusters on both sides.
        q_cluster, k_cluster: queries and keys in a cluster.

    The other arguments are those of `scatterbrain_local_attention`.

    Returns:
        the output, in the dtype of `q`.

    Raises:
        ValueError: shapes that do not fit, or clusters that differ in number.
    """
    check_inputs(q, k, v, key_mask)
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    rows = batch * heads
    t = dim**-0.5 if softmax_temp is None else softmax_temp
    count = clusters.q.shape[-1] // q_cluster
    if clusters.q.shape[-1] != count * q_cluster or clusters.k.shape[-1] != count * k_cluster:
        raise ValueError(
            f"positions {tuple(clusters.q.shape)} and {tuple(clusters.k.shape)} are not equally many clusters "
            f"of {q_cluster} queries and {k_cluster} keys"
        )
    if clusters.q.shape[-1] < queries or clusters.k.shape[-1] < keys:
        raise ValueError(
            f"positions {tuple(clusters.q.shape)} and {tuple(clusters.k.shape)} leave out some "
            f"of q {tuple(q.shape)}, k {tuple(k.shape)}"
        )
    if not queries or not keys:
        # zeros that stay in the graph
        return v.new_zeros(batch, heads, queries, v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum())
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)  # the last channel sums the weights
    scale = features.log_scale.expand(-1, -1, queries, -1)
    allowed = torch.ones(1, keys, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    allowed = allowed.expand(batch, keys).repeat_interleave(heads, dim=0)
    # the cluster of each query and key in every round, with the rounds last: (batch, heads, length, hashes)
    clusters_of_q = cluster_numbers(clusters.q, q_cluster).movedim(0, -1).unflatten(0, (batch, heads))
    clusters_of_k = cluster_numbers(clusters.k, k_cluster).movedim(0, -1).unflatten(0, (batch, heads))

    def gather_clusters(x: Tensor, index: Tensor, size: int) -> Tensor:
        """(batch, heads, length, ·) in the order of a round, (rows, clusters, size, ·); padding repeats the last entry."""
        x = x.flatten(0, 1)
        # as one index into all rows joined
        index = index.clamp(max=x.shape[1] - 1) + torch.arange(rows, device=x.device)[:, None] * x.shape[1]
        return x.flatten(0, 1).index_select(0, index.flatten()).view(rows, count, size, -1)

    rounds = []
    for q_order, k_order in zip(clusters.q, clusters.k, strict=True):
        place_q, place_k = q_order.view(rows, count, q_cluster), k_order.view(rows, count, k_cluster)
        key, value = gather_clusters(k, k_order, k_cluster), gather_clusters(values, k_order, k_cluster)
        # in how many rounds each pair shares a cluster: at least in this one (the clamp is for padding)
        numbers_q = gather_clusters(clusters_of_q, q_order, q_cluster)
        numbers_k = gather_clusters(clusters_of_k, k_order, k_cluster)
        times = (numbers_q[:, :, :, None] == numbers_k[:, :, None]).sum(-1).clamp(min=1)
        visible = allowed.gather(1, k_order.clamp(max=keys - 1)).view(rows, count, 1, k_cluster)
        visible = visible & (place_k < keys)[:, :, None]
        if causal:
            visible = visible & (place_k[:, :, None] <= place_q[..., None])
        score = (gather_clusters(q * t, q_order, q_cluster) @ key.mT).masked_fill(~visible, -torch.inf)
        row_scale = gather_clusters(scale, q_order, q_cluster)
        top = torch.maximum(score.detach().amax(-1, keepdim=True), row_scale.detach())
        exact = (score - top).exp() / times
        prime_q = gather_clusters(features.q, q_order, q_cluster)
        prime_k = gather_clusters(features.k, k_order, k_cluster)
        lowrank = prime_q @ prime_k.mT
        lowrank = lowrank.masked_fill(~visible, 0) / times * (row_scale - top).exp()
        out = (exact - lowrank) @ value
        if dropout:  # of the values only: the normaliser, in the last channel, keeps all weights
            dropped = (F.dropout(exact, dropout) - lowrank) @ value
            out = torch.cat([dropped[..., :-1], out[..., -1:]], dim=-1)
        # back into the order of the queries; padding is dropped
        back = q_order.argsort(dim=-1)[:, :queries, None]
        out = out.flatten(1, 2).gather(1, back.expand(-1, -1, out.shape[-1]))
        top = top.flatten(1, 2).gather(1, back)
        rounds.append((out, top))
    top = torch.stack([round_top for _, round_top in rounds]).amax(0)
    scale = scale.flatten(0, 1)
    whole = lowrank_product(features.q, features.k, values, causal=causal).flatten(0, 1)
    total = whole * (scale - top).exp()
    for out, round_top in rounds:
        total = total + out * (round_top - top).exp()
    # a row that sees no key has nothing to normalise; any other has at least a part of its largest term
    result = total[..., :-1] / total[..., -1:].clamp(min=1e-6)
    return result.unflatten(0, (batch, heads))


def cluster_numbers(order: Int[Tensor, "*rows padded"], size: int) -> Int[Tensor, "*rows padded"]:
    """The cluster of each position, from the order in which positions are sorted."""
    return order.argsort(dim=-1) // size


class SBSmyrfAttention(ScatterbrainAttention):
    """Scatterbrain with clusters of a locality-sensitive hash, drawn anew in each call.

    Args:
        dim: channels of a head.
        hashes: rounds of hashing.
        q_cluster: queries in a cluster.
        k_cluster: keys in a cluster. The side that needs more clusters sets their number; the last ones of the other hold padding.
        device, dtype: of parameters and buffers.

    The other arguments are those of `SBLocalAttention`.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        hashes: int = 2,
        q_cluster: int = 16,
        k_cluster: int = 16,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(dim, **options)
        for name, value in (("hashes", hashes), ("q_cluster", q_cluster), ("k_cluster", k_cluster)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.hashes, self.q_cluster, self.k_cluster = hashes, q_cluster, k_cluster

    def padded(self, queries: int, keys: int) -> tuple[int, int]:
        """Lengths of queries and keys once padded to equally many whole clusters."""
        count = max(-(-queries // self.q_cluster), -(-keys // self.k_cluster), 1)
        return count * self.q_cluster, count * self.k_cluster

    def choose(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Clusters:
        """Draws the hashes and sorts; queries and keys beyond a padding mask come last."""
        queries, keys = q.shape[2], k.shape[2]
        to_q, to_k = self.padded(queries, keys)
        flat_q, flat_k = asymmetric_transform(q.detach().flatten(0, 1), k.detach().flatten(0, 1))
        flat_q, flat_k = F.pad(flat_q, (0, 0, 0, to_q - queries)), F.pad(flat_k, (0, 0, 0, to_k - keys))
        real_keys = torch.ones(q.shape[0], keys, dtype=torch.bool, device=q.device) if mask is None else mask
        # in self-attention a padded key is a padded query too
        real_queries = real_keys if queries == keys else real_keys.new_ones(q.shape[0], queries)
        key_mask = F.pad(real_keys, (0, to_k - keys)).repeat_interleave(q.shape[1], dim=0)
        query_mask = F.pad(real_queries, (0, to_q - queries))
        query_mask = query_mask.repeat_interleave(q.shape[1], dim=0)
        alpha = torch.randn(flat_q.shape[-1], self.hashes, device=q.device, dtype=q.dtype)
        beta = torch.rand(1, self.hashes, device=q.device, dtype=q.dtype)
        return Clusters(*lsh_clustering(flat_q, flat_k, alpha, beta, key_mask=key_mask, query_mask=query_mask))

    def pairs(self, choice: Clusters, rows: Int[Tensor, " rows"], keys: int) -> Bool[Tensor, "batch_heads rows keys"]:
        numbers_q = cluster_numbers(choice.q, self.q_cluster)
        numbers_k = cluster_numbers(choice.k, self.k_cluster)
        return (numbers_q[:, :, rows, None] == numbers_k[:, :, None, :keys]).any(0)

    def attend(self, q, k, v, features: Features, choice: Clusters, mask: Tensor | None) -> Tensor:
        return scatterbrain_lsh_attention(
            q,
            k,
            v,
            features,
            choice,
            q_cluster=self.q_cluster,
            k_cluster=self.k_cluster,
            softmax_temp=self.softmax_temp,
            causal=self.causal,
            key_mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )
