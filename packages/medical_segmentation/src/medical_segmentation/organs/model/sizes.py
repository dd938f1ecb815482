"""Which network is trained, as options. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, options


@options
class NetworkOptions:
    """The network.

    Attributes:
        network: the self-guided network, or a peer by MONAI.
        backbone: of the self-guided network: any name in timm.
        pretrained: start from timm's ImageNet weights of the backbone (from the hub).
        form: slices (2d), slices with their neighbours as channels (2.5d), or volumes (3d).
        slices: of the 2.5-D form: how many, an odd number.
        width: channels of the self-guided network's maps.
        features: channels of a peer's first level.
        separate_semantic: a semantic module for each scale, as the paper draws it; default: one for all, as its code has it.
    """

    network: Literal["guided", "unet", "segresnet", "swin-unetr"] = "guided"
    backbone: str = "resnext101_32x8d"
    pretrained: bool = False
    form: Literal["2d", "2.5d", "3d"] = "2d"
    slices: Annotated[int, AtLeast(3)] = 3
    width: Annotated[int, AtLeast(8)] = 64
    features: Annotated[int, AtLeast(4)] = 16
    separate_semantic: bool = False

    def __post_init__(self) -> None:
        if self.slices % 2 == 0:
            raise UserError(f"--slices {self.slices} is even", "an odd number has a middle: 3, 5, 7")
