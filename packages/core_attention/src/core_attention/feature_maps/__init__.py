"""Attention that gates convolutional feature maps; each module keeps the shape of the map it is given.

`MECHANISMS` names those that `core_attention.insert` puts into a network: name → constructor, called with the channels of the map.
"""

from collections.abc import Callable

from torch import nn

from core_attention.mechanisms.ela.attention import ELA
from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM
from core_attention.mechanisms.eurosat_bmta.coordinate import CoordinateAttention
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import EfficientChannelAttention, SqueezeExcitation
from core_attention.mechanisms.msdual.dual import CAM, PAM
from core_attention.mechanisms.ulsam.attention import ULSAM

MECHANISMS: dict[str, Callable[..., nn.Module]] = {
    "balanced": BalancedMultiTaskAttention,
    "cam": CAM,
    "cbam": CBAM,
    "coordinate": CoordinateAttention,
    "eca": EfficientChannelAttention,
    "ela": ELA,
    "pam": PAM,
    "se": SqueezeExcitation,
    "ulsam": ULSAM,
}

__all__ = [
    "CAM",
    "CBAM",
    "ELA",
    "MECHANISMS",
    "PAM",
    "ULSAM",
    "BalancedMultiTaskAttention",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "SqueezeExcitation",
]
