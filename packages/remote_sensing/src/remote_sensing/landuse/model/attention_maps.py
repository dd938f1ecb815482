"""Where a network's attention passes features on: the gates of its attention modules, averaged over channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM


@torch.inference_mode()
def with_attention(
    network: nn.Module, x: Float[Tensor, "b bands h w"], side: int
) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b side side"] | None]:
    """Class logits, and the share of its features that each pixel keeps: the mean over attention modules of ``Σ_c |out| / Σ_c |in|``.

    Each module's map is divided by its own mean over the tile before they are averaged, so that 1 means "as much as elsewhere".

    Args:
        side: of the returned maps.

    Returns:
        Logits, and the maps; None for a network without attention modules.
    """
    maps: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        share = output.abs().sum(1) / inputs[0].abs().sum(1).clamp_min(1e-9)
        if min(share.shape[1:]) >= 4:  # coarser maps show no places
            share = share / share.mean((1, 2), keepdim=True).clamp_min(1e-9)
            maps.append(F.interpolate(share[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0])

    hooks = []
    for module in network.modules():
        if isinstance(module, BalancedMultiTaskAttention | CBAM):
            hooks.append(module.register_forward_hook(record))
    try:
        logits = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        return logits, None
    return logits, torch.stack(maps).mean(0)
