"""Text columns of joint attention: how much each picture token looks at each word, without the map of all tokens by all tokens.

A joint block of a diffusion transformer attends over M text tokens and N picture tokens together. Of its (M + N)² weights only the
N × M of picture queries on text keys are wanted, and one sum per text key. Both follow from queries, keys and the log-sum-exp of every
row, which the fused kernel returns::

    P_it = exp(s q_i·k_t − lse_i)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Renormalise = Literal["none", "text"]


class CrossMap(NamedTuple):
    """What one layer says of one prompt, averaged over heads.

    Attributes:
        cross: weight of each picture query on each text key, (batch, picture tokens, text tokens), float32 (float64 of float64 queries).
        load: ``(M + N) · mean over all queries of P_it``, (batch, text tokens): 1 is a fair share of all attention.
    """

    cross: Tensor
    load: Tensor


def cross_map(
    q: Float[Tensor, "batch heads tokens dim"],
    k: Float[Tensor, "batch heads tokens dim"],
    lse: Float[Tensor, "batch heads tokens"],
    *,
    image: slice,
    text: slice,
    scale: float,
    renormalise: Renormalise = "none",
) -> CrossMap:
    """Head-averaged text columns from queries, keys and each row's log-sum-exp. The largest array is (batch, tokens, text tokens).

    Args:
        q: queries of the joint sequence.
        k: its keys.
        lse: natural log-sum-exp of ``scale · q·k`` over all keys, as `core_attention.attention` returns it.
        image: positions of the picture tokens.
        text: positions of the text tokens.
        scale: of the scores.
        renormalise: "text": each head's picture rows sum to 1 over the text.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    total = image_total = None
    for head in range(q.shape[1]):  # one head at a time: the memory of one head's columns
        scores = q[:, head].to(exact) @ k[:, head, text].to(exact).transpose(1, 2)
        weights = scores.mul_(scale).sub_(lse[:, head, :, None].to(exact)).exp_()
        of_image = weights[:, image]
        if renormalise == "text":
            of_image = of_image / of_image.sum(-1, keepdim=True)
            image_total = of_image if image_total is None else image_total + of_image
        total = weights if total is None else total.add_(weights)
    if total is None:
        raise ValueError("cross_map needs at least one head")
    mean = total / q.shape[1]
    cross = mean[:, image] if image_total is None else image_total / q.shape[1]
    return CrossMap(cross, mean.sum(1))


def cross_map_of(
    joint: Float[Tensor, "batch heads tokens tokens"],
    *,
    image: slice,
    text: slice,
    renormalise: Renormalise = "none",
) -> CrossMap:
    """The same from a whole joint map: the definition that `cross_map` is compared with."""
    columns = joint[..., text]
    of_image = columns[:, :, image]
    if renormalise == "text":
        of_image = of_image / of_image.sum(-1, keepdim=True)
    return CrossMap(of_image.mean(1), columns.mean(1).sum(1))
