"""Global attention sinks of a joint block: text tokens that soak up attention from everywhere (Kukleva et al. 2025).

The paper's code could not be had; the load, its threshold κ and both ways of cleaning are this project's reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Cleaning = Literal["suppress", "redirect", "none"]
KAPPA = 4.0


def find_sinks(
    load: Float[Tensor, " text"], *, magnets: Sequence[int] = (), kappa: float = KAPPA
) -> Bool[Tensor, " text"]:
    """Which text tokens are sinks of a layer: ``g_t > κ``, magnets excepted.

    Args:
        load: attention on each text token, 1 being a fair share (see `CrossMap`).
        magnets: positions of the words that were appended to attract attention.
        kappa: how many fair shares make a sink.

    Returns:
        True at sinks, (text).
    """
    sinks = load > kappa
    sinks[list(magnets)] = False
    return sinks


def clean(
    cross: Float[Tensor, "image text"],
    sinks: Bool[Tensor, " text"],
    *,
    magnets: Sequence[int] = (),
    mode: Cleaning = "suppress",
) -> Float[Tensor, "image text"]:
    """A layer's text columns without its sinks.

    Args:
        cross: weights of picture tokens on text tokens.
        sinks: from `find_sinks`.
        magnets: positions that redirected weight goes to.
        mode: "suppress" sets the columns to 0; "redirect" also adds what each picture token had there to the magnets, in proportion to
            their own weights, so that its sum over the text stays; "none" changes nothing.

    Returns:
        the columns, (image, text).

    Raises:
        ValueError: "redirect" without magnets: there is nothing to redirect to.
    """
    if mode == "none" or not bool(sinks.any()):
        return cross
    cleaned = cross.masked_fill(sinks, 0.0)
    if mode == "suppress":
        return cleaned
    places = list(magnets)
    if not places:
        raise ValueError("refam: redirecting sinks needs magnets in the prompt; append some or suppress the sinks")
    removed = cross[:, sinks].sum(1, keepdim=True)
    weights = cross[:, places]
    total = weights.sum(1, keepdim=True)
    even = torch.full_like(weights, 1 / len(places))  # magnets that nobody looks at share evenly
    shares = torch.where(total > 0, weights / total.clamp_min(torch.finfo(total.dtype).tiny), even)
    cleaned[:, places] = weights + removed * shares
    return cleaned
