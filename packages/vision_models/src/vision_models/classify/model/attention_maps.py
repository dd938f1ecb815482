"""Where a network looks: how much attention each place of the image receives, by `core_attention.capture`."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention import capture

LEAST = 3  # side of a map that still shows places


@torch.inference_mode()
def attention_maps(
    network: nn.Module, x: Float[Tensor, "b channels h w"]
) -> tuple[Float[Tensor, "b rows columns"] | None, str]:
    """Maps of the last layer whose attention can be laid over the image, each scaled to a mean of 1, and the layer's name.

    Of softmax attention it is the row of the class token where there is one, else the mean over all queries; heads are averaged. Of a
    gate it is the gate itself, averaged over what is not a place.

    Returns:
        The maps, or None where no layer shows places (CNNs, windows), with an empty name.
    """
    with capture(network) as maps:
        network(x)
    for layer in reversed(list(maps)):
        for kind in maps.kinds(layer):
            if kind not in ("weights", "gates"):
                continue
            places = _places(maps.all(layer, kind)[-1], len(x), x.shape[2] / x.shape[3])
            if places is not None:
                return places / places.mean((1, 2), keepdim=True).clamp_min(1e-12), layer
    return None, ""


def _places(weights: Tensor, images: int, aspect: float) -> Tensor | None:
    """Weights (images, heads, queries, keys) as maps (images, rows, columns), where keys are places of the whole image."""
    if weights.ndim != 4 or len(weights) != images:
        return None
    keys = weights.shape[-1]
    for extra in (0, 1, 2):  # tokens that are no places: class, distillation
        rows = round(math.sqrt((keys - extra) * aspect))
        if rows < LEAST or (keys - extra) % rows:
            continue
        columns = (keys - extra) // rows
        if abs(rows / columns - aspect) > 0.01 * aspect:
            continue
        queries = weights[:, :, :1] if extra and weights.shape[2] > 1 else weights
        return queries.float().mean((1, 2))[:, extra:].reshape(images, rows, columns).cpu()
    return None
