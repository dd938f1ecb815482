"""Scatterbrain (Chen et al. 2021, Scatterbrain: Unifying Sparse and Low-rank Attention, NeurIPS; arXiv 2110.15343).

The exponential kernel ``A = exp(t q kᵀ)`` is taken exactly on a sparse set Ω of pairs and from random positive features everywhere else:
``Â = exp(t q·k)`` on Ω, ``φ(q)·φ(k)`` off Ω; rows are then normalised. The features are unbiased, so Â is. This module holds the features and the
definition; Ω is a window (`scatterbrain_local`), buckets of a locality-sensitive hash (`scatterbrain_lsh`) or blocks (`scatterbrain_blocks`).
"""

import math
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core_attention.capture.recording import active, paused, record
from core_attention.parts.placing import Device, placed


class Features(NamedTuple):
    """Random features of queries and keys: φ(x) = prime · exp(log_scale), so that nothing overflows."""

    q: Float[Tensor, "batch heads queries features"]
    q_scale: Float[Tensor, "batch heads queries 1"]
    k: Float[Tensor, "batch heads keys features"]
    k_scale: Float[Tensor, "batch heads 1 1"]

    @property
    def log_scale(self) -> Float[Tensor, "batch heads queries 1"]:
        """What a product of primes lacks: ``φ(q)·φ(k) = (prime_q·prime_k) exp(log_scale)``."""
        return self.q_scale + self.k_scale


def orthogonal_projection(
    rows: int, dim: int, *, ortho_scaling: int = 0, generator: torch.Generator | None = None
) -> Float[Tensor, "rows dim"]:
    """Gaussian directions, orthogonal within each block of `dim` rows (Choromanski et al. 2021, section 2.4).

    Args:
        ortho_scaling: 0: each row has the norm of a fresh Gaussian vector; 1: every row has the norm √dim.

    Returns:
        the directions, one per row.
    """
    blocks = []
    for _ in range(-(-rows // dim)):
        q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        blocks.append((q * r.diagonal().sign()).T)  # the signs make Q uniform over orthogonal matrices
    matrix = torch.cat(blocks)[:rows] if blocks else torch.zeros(0, dim)
    if ortho_scaling == 0:
        return matrix * torch.randn(rows, dim, generator=generator).norm(dim=1, keepdim=True)
    if ortho_scaling == 1:
        return matrix * math.sqrt(dim)
    raise ValueError(f"ortho_scaling is 0 or 1, got {ortho_scaling}")


def performer_features(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    projection: Float[Tensor, "rows dim"],
    *,
    softmax_temp: float | None = None,
    eps: float = 0.0,
    cosh: bool = True,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
) -> Features:
    """Positive random features of the softmax kernel: ``E[φ(q)·φ(k)] = exp(t q·k)``.

    With u = √t x and G the projection, φ(x) = exp(±G u − |u|²/2) / √M, both signs with `cosh` (M = 2 · rows; lower variance), else the plus sign (M = rows).

    Args:
        softmax_temp: t; defaults to dim^-1/2.
        eps: added to every prime as eps / √M. Above 0 the estimate is biased; 1e-4 stabilises training in the published configurations.
        key_mask: True = a key; padding gets φ = 0. As published, padding still takes part in the common scale of the keys, which matters only with `eps`.
    """
    t = q.shape[-1] ** -0.5 if softmax_temp is None else softmax_temp
    root = math.sqrt(t)
    projection = projection.to(q.dtype)

    def exponents(x: Tensor) -> tuple[Tensor, Tensor]:
        """±G u, and |u|²/2."""
        u = x * root
        product = u @ projection.T
        if cosh:
            product = torch.cat([product, -product], dim=-1)
        return product, u.square().sum(-1, keepdim=True) / 2

    exponent_q, half_q = exponents(q)
    exponent_k, half_k = exponents(k)
    count = max(exponent_q.shape[-1], 1)
    log_root = math.log(count) / 2  # of the √M
    # the largest exponent is taken out and given back as log_scale; it carries the same gradient either way:
    # one per query, whose row is normalised anyway, but one for all keys, which are summed over
    top_q = _amax_or_zero(exponent_q, (-1,))
    prime_q = (exponent_q - top_q).exp() + eps / math.sqrt(count)
    exponent_k = exponent_k - half_k - log_root
    top_k = _amax_or_zero(exponent_k, (-2, -1))
    prime_k = (exponent_k - top_k).exp() + eps / math.sqrt(count)
    if key_mask is not None:
        prime_k = prime_k.masked_fill(~key_mask[:, None, :, None], 0)
    return Features(prime_q, top_q - half_q - log_root, prime_k, top_k)


def _amax_or_zero(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The maximum over `dims` (counted from the end), which stay with length 1; 0 where there is nothing to compare."""
    if all(x.shape[dim] > 0 for dim in dims):
        return x.amax(dims, keepdim=True)
    shape = list(x.shape)
    for dim in dims:
        shape[dim] = 1
    return x.new_zeros(shape)


class Matrices(NamedTuple):
    """The matrices of the definition, (batch, heads, queries, keys)."""

    weights: Tensor  # rows sum to 1
    unnormalised: Tensor  # Â
    lowrank: Tensor  # φ(q)·φ(k) everywhere


def scatterbrain_matrices(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    features: Features,
    omega: Bool[Tensor, "..."],
    *,
    softmax_temp: float | None = None,
    causal: bool = False,
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    rows: Int[Tensor, " queries"] | None = None,
) -> Matrices:
    """Scatterbrain by definition, of size queries × keys: the oracle of the fast paths, and what `capture` shows.

    Args:
        omega: the exact pairs, broadcastable to (batch, heads, queries, keys); pairs that may not be seen are taken out of it.
        causal: query i sees keys up to i, both counted from 0.
        rows: numbers of the queries, where they are not 0, 1, …
    """
    t = q.shape[-1] ** -0.5 if softmax_temp is None else softmax_temp
    visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    if causal:
        rows = torch.arange(q.shape[2], device=q.device) if rows is None else rows
        visible = torch.arange(k.shape[2], device=q.device) <= rows[:, None]
    visible = visible[None, None] if key_mask is None else visible & key_mask[:, None, None]
    omega = omega & visible
    product = (features.q @ features.k.mT).masked_fill(~visible, 0)
    exact = (q @ k.mT * t).masked_fill(~omega, -torch.inf)
    scale = features.log_scale
    # each row in the scale of its largest term, exact or low-rank, so that neither overflows
    top = torch.maximum(_amax_or_zero(exact.detach(), (-1,)), scale.detach())
    scaled = torch.where(omega, (exact - top).exp(), product * (scale - top).exp())
    total = scaled.sum(-1, keepdim=True)
    weights = scaled / total.masked_fill(total == 0, 1)  # a row that sees no key stays 0
    lowrank = product * scale.exp()
    return Matrices(weights, torch.where(omega, exact.exp(), lowrank), lowrank)


def lowrank_product(
    q: Float[Tensor, "batch heads queries features"],
    k: Float[Tensor, "batch heads keys features"],
    v: Float[Tensor, "batch heads keys dim"],
    *,
    causal: bool = False,
    chunk: int = 64,
) -> Float[Tensor, "batch heads queries dim"]:
    """``Σ_j (q_i·k_j) v_j`` without the matrix; over j <= i if causal, by sums over chunks."""
    if not causal:
        return q @ (k.mT @ v)
    queries, keys = q.shape[2], k.shape[2]
    count = -(-max(queries, keys) // chunk)

    def chunks(x: Tensor) -> Tensor:  # (batch, heads, count, chunk, ·)
        return nn.functional.pad(x, (0, 0, 0, count * chunk - x.shape[2])).unflatten(2, (count, chunk))

    q, k, v = chunks(q), chunks(k), chunks(v)
    states = k.mT @ v  # of each chunk, (batch, heads, count, features, dim)
    before = states.cumsum(2) - states
    within = (q @ k.mT).tril() @ v
    return (q @ before + within).flatten(2, 3)[:, :, :queries]


class SBPerformerFeatures(nn.Module):
    """`performer_features` with a projection that is drawn once and kept in the state dict.

    Args:
        dim: channels of a head.
        features: random features M; defaults to int(dim · ln dim). With `cosh` an odd number loses one.
        softmax_temp, eps, cosh: see `performer_features`.
        ortho_scaling: see `orthogonal_projection`.
        device, dtype: of parameters and buffers.

    A published checkpoint whose projection was never drawn holds zeros of shape (dim, features): ours is kept in their place.
    """

    projection_matrix: Tensor

    @placed
    def __init__(
        self,
        dim: int,
        features: int | None = None,
        *,
        softmax_temp: float | None = None,
        eps: float = 0.0,
        cosh: bool = True,
        ortho_scaling: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        features = int(dim * math.log(dim)) if features is None else features
        rows = features // 2 if cosh else features
        if rows < 1:
            least = 2 if cosh else 1
            raise ValueError(f"{features} random features leave no row of the projection: at least {least} are needed")
        self.softmax_temp, self.eps, self.cosh, self.ortho_scaling = softmax_temp, eps, cosh, ortho_scaling
        self.register_buffer("projection_matrix", orthogonal_projection(rows, dim, ortho_scaling=ortho_scaling))

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draws a new projection."""
        rows, dim = self.projection_matrix.shape
        drawn = orthogonal_projection(rows, dim, ortho_scaling=self.ortho_scaling, generator=generator)
        self.projection_matrix.copy_(drawn)

    def forward(
        self,
        q: Float[Tensor, "batch heads queries dim"],
        k: Float[Tensor, "batch heads keys dim"],
        *,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Features:
        """Features of queries and keys."""
        return performer_features(
            q,
            k,
            self.projection_matrix,
            softmax_temp=self.softmax_temp,
            eps=self.eps,
            cosh=self.cosh,
            key_mask=key_mask,
        )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        key = f"{prefix}projection_matrix"
        stored = state_dict.get(key)
        if stored is not None and stored.shape != self.projection_matrix.shape and not stored.any():
            state_dict = state_dict | {key: self.projection_matrix.detach()}
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_inputs(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, causal: bool = False) -> None:
    """Raises a ValueError that quotes the shapes when they cannot belong together."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(f"q, k and v need four axes: {shapes}")
    if not all(x.is_floating_point() for x in (q, k, v)):
        raise ValueError(f"q, k and v must be floating point, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"batch, heads, keys or head dimension differ: {shapes}")
    if key_mask is not None and (key_mask.shape != (k.shape[0], k.shape[2]) or key_mask.dtype != torch.bool):
        raise ValueError(
            f"key_mask must be bool (batch, keys) = {(k.shape[0], k.shape[2])}, got {key_mask.dtype} {tuple(key_mask.shape)}"
        )


class Options(TypedDict, total=False):
    """What every Scatterbrain module takes beyond its Ω."""

    features: int | None
    softmax_temp: float | None
    eps: float
    ortho_scaling: int
    causal: bool
    dropout: float


class ScatterbrainAttention(nn.Module):
    """What the three choices of Ω share: the random projection, float32, and maps for `capture`. Owns no parameter.

    A subclass says which pairs are exact (`pairs`) and computes without matrices (`attend`); `choose` is drawn or derived once per call.
    """

    @placed
    def __init__(
        self,
        dim: int,
        *,
        features: int | None = None,
        softmax_temp: float | None = None,
        eps: float = 0.0,
        ortho_scaling: int = 0,
        causal: bool = False,
        dropout: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.softmax_temp, self.causal, self.dropout = softmax_temp, causal, dropout
        self.feature_map = SBPerformerFeatures(
            dim, features, softmax_temp=softmax_temp, eps=eps, ortho_scaling=ortho_scaling
        )

    def choose(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Any:
        """What decides the exact pairs of one call, for `pairs` and `attend`."""
        return None

    def pairs(self, choice: Any, rows: Int[Tensor, " rows"], keys: int) -> Bool[Tensor, "..."]:
        """The exact pairs of some queries: (rows, keys), or (batch · heads, rows, keys)."""
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, features: Features, choice: Any, mask: Tensor | None) -> Tensor:
        """The fast path, in float32 or wider."""
        raise NotImplementedError

    def forward(
        self,
        q: Float[Tensor, "batch heads queries dim"],
        k: Float[Tensor, "batch heads keys dim"],
        v: Float[Tensor, "batch heads keys value_dim"],
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        choice: Any = None,
    ) -> Float[Tensor, "batch heads queries value_dim"]:
        """Approximate attention.

        Args:
            mask: True = a key, False = padding; any pattern.
            choice: what `choose` returned before, to use it again.

        Returns:
            the output, in the dtype of `q`.

        Raises:
            ValueError: shapes that do not fit.
        """
        check_inputs(q, k, v, mask)
        dtype = v.dtype
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = widened(q, k, v)
            choice = self.choose(q, k, mask) if choice is None else choice
            features = self.feature_map(q, k, key_mask=mask)
            if active():

                def weights(rows: Tensor, heads: Tensor) -> Tensor:
                    # not _replace: Dynamo rebuilds such a tuple wrongly
                    prime_q, q_scale = features.q[:, :, rows], features.q_scale[:, :, rows]
                    row_features = Features(prime_q, q_scale, features.k, features.k_scale)
                    return self._matrices(q[:, :, rows], k, row_features, choice, mask, rows).weights[:, heads]

                shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
                record("weights", weights, shape=shape, device=q.device)
            with paused():
                return self.attend(q, k, v, features, choice, mask).to(dtype)

    def matrices(
        self,
        q: Float[Tensor, "batch heads queries dim"],
        k: Float[Tensor, "batch heads keys dim"],
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        choice: Any = None,
        rows: Int[Tensor, " queries"] | None = None,
    ) -> Matrices:
        """The matrices that stand behind `forward`, queries × keys; `rows` are the places of the queries, if not 0, 1, …"""
        q, k = widened(q, k)
        choice = self.choose(q, k, mask) if choice is None else choice
        rows = torch.arange(q.shape[2], device=q.device) if rows is None else rows
        features = self.feature_map(q, k, key_mask=mask)
        return self._matrices(q, k, features, choice, mask, rows)

    def _matrices(self, q, k, features: Features, choice, mask, rows: Tensor) -> Matrices:
        pairs = self.pairs(choice, rows, k.shape[2])
        if pairs.ndim == 3:  # (batch · heads, rows, keys)
            pairs = pairs.unflatten(0, q.shape[:2])
        return scatterbrain_matrices(
            q,
            k,
            features,
            pairs,
            softmax_temp=self.softmax_temp,
            causal=self.causal,
            key_mask=mask,
            rows=rows,
        )


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, float32 at least.

    Returns:
        the tensors, in their order.
    """
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)
