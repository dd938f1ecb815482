"""Causal Scatterbrain with a window, call after call: the last keys exactly, everything older as one sum of features.

A query sees the keys i − ⌊L/2⌋ … i exactly. A key that leaves this window enters ``S = Σ φ(k) [v, 1]``, whose size does not depend on the
length. Features are positive and may span many orders of magnitude, so S is kept in the scale of its largest key.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core_attention.mechanisms.scatterbrain.attention import (
    SBPerformerFeatures,
    check_inputs,
    performer_features,
    widened,
)
from core_attention.parts.cache import SETTING, Cache

PIECE = 512  # queries computed at once: scores are piece × (window + piece)


@dataclass
class ScatterbrainCache(Cache):
    """What later queries need of the tokens so far.

    Attributes:
        window: L of the layer.
        length: tokens read.
        keys, values: of the last ⌊L/2⌋ tokens, (batch, heads, held, dim).
        sums: Σ φ(k) [v, 1] over the older ones, in the scale exp(log_scale), (batch, heads, features, dim + 1).
        log_scale: (batch, heads, 1, 1).
    """

    window: int = field(metadata=SETTING)
    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None
    sums: Tensor | None = None
    log_scale: Tensor | None = None


def scatterbrain_stream(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch heads time dim"],
    v: Float[Tensor, "batch heads time value_dim"],
    feature_map: SBPerformerFeatures,
    cache: ScatterbrainCache,
) -> Float[Tensor, "batch heads time value_dim"]:
    """`scatterbrain_local_attention`, causal and without dropout, of the next tokens of a sequence; the cache is updated in place.

    Calls that continue one cache equal one call, wherever the sequence is cut (with ``eps`` 0: a smoothing depends on the call's scale).

    Raises:
        ValueError: shapes that do not fit, or a feature map with ``eps``.
    """
    check_inputs(q, k, v, None)
    if feature_map.eps:
        raise ValueError(f"a stream needs features without smoothing, got eps {feature_map.eps}")
    dtype = v.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = widened(q, k, v)
        pieces = zip(q.split(PIECE, 2), k.split(PIECE, 2), v.split(PIECE, 2), strict=True)
        outs = [_piece(*piece, feature_map, cache) for piece in pieces]
    return torch.cat(outs, 2).to(dtype)


def _piece(q: Tensor, k: Tensor, v: Tensor, feature_map: SBPerformerFeatures, cache: ScatterbrainCache) -> Tensor:
    time, reach = q.shape[2], cache.window // 2
    values = F.pad(v, (0, 1), value=1.0)  # the last channel sums the weights
    if cache.keys is not None and cache.values is not None:
        k, values = torch.cat([cache.keys, k], 2), torch.cat([cache.values, values], 2)
    held = k.shape[2] - time
    t = q.shape[-1] ** -0.5 if feature_map.softmax_temp is None else feature_map.softmax_temp
    options = {"softmax_temp": feature_map.softmax_temp, "cosh": feature_map.cosh}
    features = performer_features(q, k, feature_map.projection_matrix, **options)
    # keys counted from the first that is held, as the queries see them
    behind = torch.arange(held, held + time, device=q.device)[:, None] - torch.arange(k.shape[2], device=q.device)
    near, older = (behind >= 0) & (behind <= reach), behind > reach
    score = (q @ k.mT * t).masked_fill(~near, -torch.inf)
    lowrank = (features.q @ features.k.mT).masked_fill(~older, 0)
    scale = features.log_scale
    top = torch.maximum(score.amax(-1, keepdim=True), scale)
    if cache.sums is not None and cache.log_scale is not None:
        past_scale = features.q_scale + cache.log_scale
        top = torch.maximum(top, past_scale)
    out = ((score - top).exp() + lowrank * (scale - top).exp()) @ values
    if cache.sums is not None and cache.log_scale is not None:
        out = out + (features.q @ cache.sums) * (past_scale - top).exp()
    _leave(features.k, features.k_scale, values, k.shape[2] - reach, cache)
    first = max(0, k.shape[2] - reach)
    cache.keys, cache.values = k[:, :, first:].detach(), values[:, :, first:].detach()
    cache.length += time
    return out[..., :-1] / out[..., -1:]


def _leave(prime: Tensor, log_scale: Tensor, values: Tensor, count: int, cache: ScatterbrainCache) -> None:
    """Adds the first `count` keys, which no later query sees exactly, to the sums."""
    if count <= 0:
        return
    own = (prime[:, :, :count].mT @ values[:, :, :count]).detach()
    log_scale = log_scale.detach()
    if cache.sums is None or cache.log_scale is None:
        cache.sums, cache.log_scale = own, log_scale
        return
    top = torch.maximum(cache.log_scale, log_scale)
    cache.sums = cache.sums * (cache.log_scale - top).exp() + own * (log_scale - top).exp()
    cache.log_scale = top
