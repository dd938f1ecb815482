"""The guided attention of the slices that a picture shows, laid onto the volume's own grid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.model.preparation import prepare
from medical_segmentation.volumes.volume import Volume


def attention_volume(
    model: OrganModel, volume: Volume, labels: NDArray[np.uint8], *, most: int = 6
) -> NDArray[np.float32] | None:
    """Attention of up to `most` slices that hold organs; 0 elsewhere. None where the network has none to show."""
    if model.preparation.dims == 3:
        return None
    prepared = prepare(volume, model.preparation)
    back = np.argsort(prepared.order).tolist()
    turned = prepared.turn.apply(labels).transpose(*prepared.order)
    holding = np.flatnonzero((turned > 0).any((0, 1)))
    if not holding.size:
        holding = np.arange(turned.shape[2])
    result = np.zeros(turned.shape, np.float32)
    # pictures show slices through the body; where the network slices along another axis, all that are needed are many
    places = np.unique(np.linspace(holding[0], holding[-1], most + 2).round().astype(int)).tolist()
    if model.preparation.axis != 2:
        places = holding.tolist()[: 4 * most]
    for k in places:
        strength = model.attention(prepared, k)
        if strength is None:
            return None
        full = F.interpolate(torch.from_numpy(strength)[None, None], size=turned.shape[:2], mode="bilinear")
        result[..., k] = full[0, 0].numpy()
    return np.ascontiguousarray(prepared.turn.invert(result.transpose(back)))
