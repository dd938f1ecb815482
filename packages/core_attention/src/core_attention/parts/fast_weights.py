"""Fast weights: linear maps that a sequence writes and reads, computed as matrix products over chunks.

A fast weight `M` (in, out) is written by outer products kᵢᵀuᵢ and read as q_t M_t. Where M_t is a linear recurrence of the writes,

    S⁽¹⁾_t = η⁽¹⁾_t S⁽¹⁾_{t−1} + k_tᵀu_t,   S⁽ʲ⁾_t = η⁽ʲ⁾_t S⁽ʲ⁾_{t−1} + S⁽ʲ⁻¹⁾_t,   M_t = κ_t M_{t−1} + S⁽ᵒ⁾_t,

every M_t of a chunk is a combination of the chunk's writes and of the *bases* (S⁽¹⁾ … S⁽ᵒ⁾, M) with which the chunk began. `mixing`
computes the coefficients, `read` uses them without forming any M_t, and `carry` forms the bases of the next chunk. With κ = 1 and
no momentum this is causal linear attention; Titans' memory has both gates (`mechanisms/titans/recurrence.py`); RALA's kernel attention
is the bidirectional case (`linear_attention`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Mixing(NamedTuple):
    """Coefficients over (S⁽¹⁾ … S⁽ᵒ⁾, M, write 1 … write n), the columns of every row.

    Attributes:
        memory: row t gives M_t after the t-th write, (..., n, o+1+n).
        momentum: for each order j, the row that gives S⁽ʲ⁾ after the last write, (..., o+1+n).
    """

    memory: Tensor
    momentum: tuple[Tensor, ...]


def _scan(gate: Tensor, rows: Tensor) -> Tensor:
    """x_t = gate_t x_{t−1} + rows_t, over the second axis from the right of `rows`; exact for gates of 0, no logarithms."""
    # the recurrence as a linear system: 1 on the diagonal, −gate_t below it
    shift = torch.diag_embed(-gate[..., 1:], offset=-1)
    return torch.linalg.solve_triangular(shift, rows, upper=False, unitriangular=True)


def mixing(
    keep: Float[Tensor, "*lead n"],
    momentum: Sequence[Float[Tensor, "..."]] = (),
    combine: Sequence[Float[Tensor, "..."]] | None = None,
) -> Mixing:
    """The coefficients of a chunk of n writes; float32 or wider whatever the dtype of the gates.

    Args:
        keep: κ_t = 1 − α_t, what the memory keeps of itself.
        momentum: the gates η⁽ʲ⁾_t of each order; none: M_t = κ_t M_{t−1} + k_tᵀu_t.
        combine: if given, M is updated with Σⱼ combineⱼ S⁽ʲ⁾ in place of S⁽ᵒ⁾; one more entry than `momentum` puts the write itself first.

    Raises:
        ValueError: gates of different shapes, or a `combine` of the wrong length.
    """
    for gate in (*momentum, *(combine or ())):
        if gate.shape != keep.shape:
            raise ValueError(f"every gate has the shape of `keep`, {tuple(keep.shape)}; got {tuple(gate.shape)}")
    orders, n = len(momentum), keep.shape[-1]
    if combine is not None and len(combine) not in (orders, orders + 1):
        raise ValueError(
            f"`combine` has one entry per order, or one more: {orders} or {orders + 1}; got {len(combine)}"
        )
    dtype = torch.promote_types(keep.dtype, torch.float32)
    keep = keep.to(dtype)

    def enters(rows: Tensor, column: int, gate: Tensor) -> Tensor:  # the base enters the recurrence at the first write
        return rows + torch.nn.functional.pad(gate[..., :1, None], (column, rows.shape[-1] - column - 1, 0, n - 1))

    # write t alone: 0 over the bases, 1 in its own column
    writes = torch.cat([keep.new_zeros(n, orders + 1), torch.eye(n, dtype=dtype, device=keep.device)], -1)
    stages = [writes.expand(*keep.shape, -1)]  # then S⁽¹⁾ … S⁽ᵒ⁾, each the scan of the one before it
    for order, gate in enumerate(momentum):
        gate = gate.to(dtype)
        stages.append(_scan(gate, enters(stages[-1], order, gate)))
    update = stages[-1]
    if combine is not None:
        shares = torch.stack([share.to(dtype) for share in combine])[..., None]
        update = (shares * torch.stack(stages[-len(combine) :])).sum(0)
    memory = _scan(keep, enters(update, orders, keep))
    return Mixing(memory, tuple(stage[..., -1, :] for stage in stages[1:]))


def read(
    q: Float[Tensor, "*lead t dim"],
    k: Float[Tensor, "*lead n dim"],
    u: Float[Tensor, "*lead n out"],
    mix: Float[Tensor, "*#lead t columns"],
    bases: Sequence[Tensor | None],
) -> Float[Tensor, "*lead t out"]:
    """y_t = q_t M_t for the memory that row t of `mix` describes; no M_t is formed.

    Args:
        q: what is read with; as many rows as `mix`.
        k, u: the n writes.
        mix: coefficients as in `Mixing.memory`: one column per base, then one per write.
        bases: (..., dim, out) each; None stands for zero.

    Returns:
        what each row reads.
    """
    coefficients, weights = mix.split([len(bases), k.shape[-2]], -1)
    y = ((q @ k.mT) * weights) @ u
    for j, base in enumerate(bases):
        if base is not None:
            y = y + (coefficients[..., j : j + 1] * q) @ base
    return y


def carry(
    k: Float[Tensor, "*lead n dim"],
    u: Float[Tensor, "*lead n out"],
    row: Float[Tensor, "*#lead columns"],
    bases: Sequence[Tensor | None],
) -> Float[Tensor, "*lead dim out"]:
    """The fast weight that one row of coefficients describes: Σⱼ rowⱼ baseⱼ + Σᵢ rowᵢ kᵢᵀuᵢ.

    Args:
        k, u: the n writes.
        row: a row as in `Mixing.memory[..., -1, :]` or `Mixing.momentum[j]`.
        bases: (..., dim, out) each; None stands for zero.

    Returns:
        the fast weight.
    """
    coefficients, weights = row.split([len(bases), k.shape[-2]], -1)
    out = (k * weights[..., None]).mT @ u
    for j, base in enumerate(bases):
        if base is not None:
            out = out + coefficients[..., j, None, None] * base
    return out


def linear_attention(
    q: Float[Tensor, "*lead t dim"],
    k: Float[Tensor, "*lead n key_dim"],
    v: Float[Tensor, "*lead values out"],
    *,
    weights: Float[Tensor, "*#lead n"] | None = None,
    normalise: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    chunk_size: int = 128,
    eps: float = 1e-6,
) -> Float[Tensor, "*lead t out"]:
    """Kernel attention in linear time: yᵢ = qᵢ (Σⱼ kⱼᵀvⱼ)/n · 1 / (q′ᵢ·(Σⱼ k′ⱼ)/n + eps).

    The sums run over all keys, or with `causal` over j ≤ i in chunks. Keys and values are scaled by n^−½ before they are summed, so
    that half precision does not overflow.

    Args:
        q, k: already mapped to features (and rotated, if the mechanism rotates its numerator only).
        v: values.
        weights: what each key counts, multiplied in together with the n^−½ so that a large one does not overflow; None: 1.
        normalise: (q′, k′) of the denominator; None leaves the denominator out.
        causal: token i sees the keys j ≤ i; needs as many queries as keys.
        chunk_size: tokens computed at once with `causal`; changes the cost and not the result.
        eps: added to the mean in the denominator.

    Returns:
        the output of each query.

    Raises:
        ValueError: shapes that do not fit, or a chunk_size below 1.
    """
    n = k.shape[-2]
    if q.shape[-1] != k.shape[-1] or v.shape[-2] != n or (causal and q.shape[-2] != n):
        raise ValueError(f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not fit")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}")
    root = n**-0.5  # the 1/n of the mean, half on keys and half on values
    k = k * root if weights is None else k * (weights[..., None] * root).to(k.dtype)
    v = v * root
    y = _causal_sum(q, k, v, chunk_size) if causal else q @ (k.mT @ v)
    if normalise is None:
        return y
    normaliser_q, normaliser_k = normalise
    if causal:
        ones = q.new_full((*v.shape[:-1], 1), root)
        return y / (_causal_sum(normaliser_q, normaliser_k * root, ones, chunk_size) + eps)
    return y / (normaliser_q @ normaliser_k.mean(-2, keepdim=True).mT + eps)


def _causal_sum(q: Tensor, k: Tensor, v: Tensor, chunk_size: int) -> Tensor:
    """Σ_{j≤i} (qᵢ·kⱼ) vⱼ: `mixing` with every gate 1."""
    state, out = None, []
    for start in range(0, k.shape[-2], chunk_size):
        part = slice(start, start + chunk_size)
        kc, vc = k[..., part, :], v[..., part, :]
        n = kc.shape[-2]
        # row t: 1 over the sum of all earlier chunks, and over the writes up to t
        mix = torch.ones(n, n, dtype=q.dtype, device=q.device).tril()
        mix = torch.cat([mix.new_ones(n, 1), mix], -1)
        out.append(read(q[..., part, :], kc, vc, mix, (state,)))
        state = carry(kc, vc, mix[-1], (state,))
    if not out:
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    return torch.cat(out, -2)
