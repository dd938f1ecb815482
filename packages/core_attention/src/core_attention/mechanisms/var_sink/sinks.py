"""Attention sinks by their massive activations (Kang et al. 2025), and which residual dimensions give them away on a model.

::

    φ(x) = max over d in D_sink of |x_d| / √(mean(x²) + 1e-6),   sink where φ(x) > τ

`x` is the hidden state that enters a layer; the mean is over its D numbers, so φ is at most √D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TAU = 20.0
EPSILON = 1e-6


def sink_scores(hidden: Float[Tensor, "batch tokens width"], dims: Sequence[int]) -> Float[Tensor, "batch tokens"]:
    """φ of every token, in float32 (float64 of float64)."""
    exact = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    rms = (exact.square().mean(-1) + EPSILON).sqrt()
    return exact[..., list(dims)].abs().amax(-1) / rms


def find_sinks(
    hidden: Float[Tensor, "batch tokens width"], dims: Sequence[int], tau: float = TAU
) -> Bool[Tensor, "batch tokens"]:
    """Which tokens are sinks of the layer that `hidden` enters.

    Raises:
        ValueError: see `check_dims`.
    """
    check_dims(hidden.shape[-1], dims, tau)
    return sink_scores(hidden, dims) > tau


def check_dims(width: int, dims: Sequence[int], tau: float) -> None:
    """Raises ValueError where no token could ever be a sink: dimensions that do not exist, or τ that φ cannot reach."""
    if not dims:
        raise ValueError("var_sink: no sink dimensions are given")
    outside = [d for d in dims if not 0 <= d < width]
    if outside:
        raise ValueError(f"var_sink: sink dimensions {outside} are not among the {width} of the hidden states")
    if not 0 < tau < width**0.5:
        raise ValueError(
            f"var_sink: τ = {tau:g} can never be exceeded: φ is at most √{width} = {width**0.5:.2f}; choose a smaller τ"
        )
