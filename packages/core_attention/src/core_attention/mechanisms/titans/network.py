"""The memory of Titans as a network: its forward pass, the gradients that write it, and reading it while it is being written.

The memory is an MLP without bias, `a_l = h_l W⁽ˡ⁾`, `h_{l+1} = GELU(a_l)`, weights multiplying from the right. One token's gradient of
the loss ‖M(k) − v‖² with respect to W⁽ˡ⁾ is the outer product h_lᵀ δ_l, so a chunk of tokens is kept as its rows (h_l, −δ_l) and never as
one weight set per token. Everything here is a plain differentiable formula: training differentiates through the inner gradients.

With a gain γ the network is M(x) = x + LayerNorm(f(x)) (γ + 1), the form of the public implementation, and γ is written too.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from core_attention.parts import fast_weights

NORM_EPS = 1e-5


class Weights(NamedTuple):
    """One weight set, of a memory, a momentum, or a gradient.

    Attributes:
        matrices: (..., d_l, d_{l+1}) for every layer.
        gain: γ, (..., dim); None for the plain MLP.
    """

    matrices: tuple[Tensor, ...]
    gain: Tensor | None = None

    def map(self, change: Callable[..., Tensor], *others: "Weights") -> "Weights":
        """`change` applied tensor by tensor, to this set and the others."""
        together = zip(self.matrices, *(other.matrices for other in others), strict=True)
        matrices = tuple(change(*parts) for parts in together)
        if self.gain is None:
            return Weights(matrices)
        return Weights(matrices, change(self.gain, *(other.gain for other in others)))

    def flat(self) -> tuple[Tensor, ...]:
        """The matrices, then the gain if there is one."""
        return self.matrices if self.gain is None else (*self.matrices, self.gain)


class Writes(NamedTuple):
    """What a run of tokens writes: rows (inputs, updates) of every matrix, and rows of the gain.

    Attributes:
        inputs: h_l, (..., tokens, d_l) for every layer.
        updates: −δ_l, (..., tokens, d_{l+1}) for every layer; the negative gradient of W⁽ˡ⁾ is inputsᵀ updates.
        gain: rows of the negative gradient of γ, (..., tokens, dim), or None.
        loss: the unweighted loss of each token, (..., tokens).
    """

    inputs: tuple[Tensor, ...]
    updates: tuple[Tensor, ...]
    gain: Tensor | None
    loss: Tensor

    def first(self, tokens: int) -> "Writes":
        """The writes of the first tokens alone."""
        cut = lambda t: t[..., :tokens, :]  # noqa: E731
        return Writes(
            tuple(map(cut, self.inputs)),
            tuple(map(cut, self.updates)),
            None if self.gain is None else cut(self.gain),
            self.loss[..., :tokens],
        )

    def scaled(self, factors: Sequence[Tensor]) -> "Writes":
        """Multiplied by a factor per token, (..., tokens), one for each matrix and, where there is a gain, one for it."""
        updates = tuple(update * factor[..., None] for update, factor in zip(self.updates, factors, strict=False))
        return self._replace(updates=updates, gain=None if self.gain is None else self.gain * factors[-1][..., None])


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off: a memory, its gradients and its gates stay in float32 or wider."""
    if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(x.device.type):
        return nullcontext()  # a decoded token feels the difference
    return torch.autocast(x.device.type, enabled=False)


def _apply(x: Tensor, layers: int, linear: Callable[[int, Tensor], Tensor], gain_rows: Tensor | None) -> Tensor:
    h = linear(0, x)
    for layer in range(1, layers):
        h = linear(layer, gelu(h))
    return h if gain_rows is None else x + layer_norm(h, h.shape[-1:], eps=NORM_EPS) * (gain_rows + 1)


def forward(x: Float[Tensor, "*lead tokens dim"], weights: Weights) -> Float[Tensor, "*lead tokens dim"]:
    """M(x) for given weights, whose leading axes broadcast with those of x."""
    rows = None if weights.gain is None else weights.gain[..., None, :]
    return _apply(x, len(weights.matrices), lambda layer, h: h @ weights.matrices[layer], rows)


def writes(
    k: Float[Tensor, "*lead tokens dim"], v: Float[Tensor, "*lead tokens dim"], weights: Weights, *, mean: bool = False
) -> Writes:
    """The negative gradients of the loss of each token at given weights, as rows.

    Args:
        k, v: what is stored.
        weights: where the gradients are taken; leading axes broadcast with those of k.
        mean: the loss is the mean over features in place of their sum.
    """
    inputs, before = [k], []
    for layer, matrix in enumerate(weights.matrices):
        before.append(inputs[-1] @ matrix)
        if layer < len(weights.matrices) - 1:
            inputs.append(gelu(before[-1]))
    out, gain_rows = before[-1], None
    factor = -2 / (k.shape[-1] if mean else 1)  # carries the minus sign of the descent
    if weights.gain is None:
        error = out - v
        delta = error * factor
    else:
        variance, centre = torch.var_mean(out, -1, correction=0, keepdim=True)
        scale = torch.rsqrt(variance + NORM_EPS)
        normed = (out - centre) * scale
        gain = weights.gain[..., None, :] + 1
        error = k + normed * gain - v
        delta = error * factor
        gain_rows = delta * normed
        delta = delta * gain
        delta = scale * (delta - delta.mean(-1, keepdim=True) - normed * (delta * normed).mean(-1, keepdim=True))
    updates = [delta]
    for layer in range(len(weights.matrices) - 1, 0, -1):
        # the derivative of the exact GELU; itself differentiable
        updates.append(torch.ops.aten.gelu_backward(updates[-1] @ weights.matrices[layer].mT, before[layer - 1]))
    loss = error.square().mean(-1) if mean else error.square().sum(-1)
    return Writes(tuple(inputs), tuple(reversed(updates)), gain_rows, loss)


def read(
    q: Float[Tensor, "*lead t dim"],
    rows: Writes,
    mix: Float[Tensor, "*#lead t columns"],
    bases: Sequence[Weights | None],
) -> Float[Tensor, "*lead t dim"]:
    """M_t(q_t) for the memory that row t of `mix` describes, without forming any M_t.

    Args:
        q: one query a row of `mix`.
        rows: the writes, already multiplied by their rates.
        mix: coefficients over the bases and the writes, as in `core_attention.parts.fast_weights.Mixing`.
        bases: the weight sets (momentum of each order, memory) that the writes started from; None stands for zero.

    Returns:
        what each row reads.
    """

    def linear(layer: int, h: Tensor) -> Tensor:
        return fast_weights.read(h, rows.inputs[layer], rows.updates[layer], mix, _of_layer(bases, layer))

    gains = None if rows.gain is None else _vectors(rows.gain, mix, bases)
    return _apply(q, len(rows.updates), linear, gains)


def carry(rows: Writes, row: Float[Tensor, "*lead columns"], bases: Sequence[Weights | None]) -> Weights:
    """The weight set that one row of coefficients describes; arguments as in `read`."""
    matrices = tuple(
        fast_weights.carry(h, update, row, _of_layer(bases, layer))
        for layer, (h, update) in enumerate(zip(rows.inputs, rows.updates, strict=True))
    )
    gain = None if rows.gain is None else _vectors(rows.gain, row[..., None, :], bases)[..., 0, :]
    return Weights(matrices, gain)


def _of_layer(bases: Sequence[Weights | None], layer: int) -> list[Tensor | None]:
    return [None if base is None else base.matrices[layer] for base in bases]


def _vectors(rows: Tensor, mix: Tensor, bases: Sequence[Weights | None]) -> Tensor:
    """γ at each row of `mix`."""
    coefficients, weights = mix.split([len(bases), rows.shape[-2]], -1)
    out = weights @ rows
    for j, base in enumerate(bases):
        if base is not None and base.gain is not None:
            out = out + coefficients[..., j : j + 1] * base.gain[..., None, :]
    return out
