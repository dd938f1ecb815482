"""Visual attention redistribution: image-centric heads give part of their sinks' weight to the other picture tokens.

For a (head, query) whose attention on the picture is at least `least_image_share`, and of whose picture attention at most
`most_sink_share` lies on sinks::

    sinks (of the picture and the text)     α'_ij = p α_ij
    other picture tokens                    α'_ij = α_ij (1 + W / U),   W = (1 − p) Σ_sinks α,   U = Σ_others α

with p the fraction that sinks keep. Rows still sum to 1. The paper says 1 − p where the published code says p; `Rule.keep_fraction`
is the code's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-6  # added to every picture token's weight in the denominator of the sink share, as published


@dataclass(frozen=True)
class Rule:
    """Which heads are edited, and how much.

    Attributes:
        keep_fraction: of a sink's weight, what it keeps; 1 changes nothing.
        least_image_share: attention on the picture that makes a head look at it (`summ` of the published code).
        most_sink_share: of its attention on the picture, the largest share on sinks that is still edited; the paper's ρ is
            1 minus this (0.8 general, 0.5 hallucination, 0.9 vision-centric tasks).
    """

    keep_fraction: float = 0.6
    least_image_share: float = 0.2
    most_sink_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("keep_fraction", "most_sink_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"var_sink: {name} is a share between 0 and 1, got {getattr(self, name)}")


def select(
    weights: Float[Tensor, "batch heads queries keys"],
    image: Bool[Tensor, "batch keys"],
    sinks: Bool[Tensor, "batch keys"],
    editable: Bool[Tensor, "batch queries"],
    rule: Rule,
) -> Bool[Tensor, "batch heads queries"]:
    """The (head, query) pairs that are edited.

    Args:
        weights: attention after the softmax.
        image: which keys are picture tokens.
        sinks: which keys are sinks.
        editable: which queries may be edited: at prefill those behind the picture, while decoding every one.
        rule: the thresholds.

    Returns:
        True at the pairs, (batch, heads, queries).
    """
    of_image = weights * image[:, None, None]
    on_image = of_image.sum(-1)
    on_sinks = (of_image * sinks[:, None, None]).sum(-1)
    cells = image.sum(-1)[:, None, None]
    share = on_sinks / (on_image + EPSILON * cells)
    image_sinks = (image & sinks).any(-1)
    eligible = (on_image >= rule.least_image_share) & (share <= rule.most_sink_share)
    return eligible & editable[:, None] & image_sinks[:, None, None]


def changes(
    weights: Float[Tensor, "batch heads queries keys"],
    image: Bool[Tensor, "batch keys"],
    sinks: Bool[Tensor, "batch keys"],
    selected: Bool[Tensor, "batch heads queries"],
    rule: Rule,
) -> Float[Tensor, "batch heads queries keys"]:
    """What is added to the weights: 0 in rows that are not selected, and on keys that are neither sinks nor picture tokens.

    A selected row whose whole picture attention lies on sinks has nowhere to put it and stays as it is.
    """
    sink_keys = sinks[:, None, None]
    useful_keys = (image & ~sinks)[:, None, None]
    of_sinks, of_useful = weights * sink_keys, weights * useful_keys
    useful = of_useful.sum(-1, keepdim=True)
    given = selected[..., None] & (useful > 0)
    lost = (rule.keep_fraction - 1) * of_sinks
    budget = (1 - rule.keep_fraction) * of_sinks.sum(-1, keepdim=True)
    gained = of_useful * (budget / useful.clamp_min(torch.finfo(weights.dtype).tiny))
    return (lost + gained) * given


def redistribute(
    weights: Float[Tensor, "batch heads queries keys"],
    image: Bool[Tensor, "batch keys"],
    sinks: Bool[Tensor, "batch keys"],
    editable: Bool[Tensor, "batch queries"],
    rule: Rule = Rule(),
) -> tuple[Float[Tensor, "batch heads queries keys"], Bool[Tensor, "batch heads queries"]]:
    """The definition.

    Returns:
        edited weights, (batch, heads, queries, keys), and True at the rows that were edited, (batch, heads, queries).
    """
    selected = select(weights, image, sinks, editable, rule)
    return weights + changes(weights, image, sinks, selected, rule), selected


def behind_image(image: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
    """The tokens after a sample's last picture token; none in a sample without a picture."""
    places = torch.arange(image.shape[1], device=image.device)
    last = torch.where(image, places, -1).amax(1, keepdim=True)
    return (places > last) & (last >= 0)
