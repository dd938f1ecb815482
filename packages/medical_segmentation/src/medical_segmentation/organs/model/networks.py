"""Networks by name: the self-guided one, and MONAI's U-Net, SegResNet and Swin UNETR in the same harness."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_runtime.errors import UserError
from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig, crop, pad_to_multiple
from medical_segmentation.organs.model.sizes import NetworkOptions

COARSEST = 32  # stride of the coarsest map of these networks


@contextlib.contextmanager
def quiet_monai() -> Iterator[None]:
    """MONAI announces missing accelerators when it is imported; neither the terminal nor ``--json`` shall hold that."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class PeerConfig:
    """Sizes of `PeerNet`.

    Attributes:
        kind: which of MONAI's networks.
        features: channels of its first level.
    """

    kind: Literal["unet", "segresnet", "swin-unetr"] = "unet"
    n_classes: int = 2
    in_channels: int = 1
    slices: int = 1
    dims: int = 2
    features: int = 16

    def __post_init__(self) -> None:
        if min(self.n_classes, self.in_channels, self.slices, self.features) < 1 or self.dims not in (2, 3):
            raise ValueError(f"sizes are positive and dims 2 or 3; got {self}")


class PeerNet(nn.Module):
    """One of MONAI's networks for images of any size: sides are padded to multiples of 32 (Swin UNETR: one of them to 64) and the answer is cropped."""

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        with quiet_monai():
            from monai.networks.nets.segresnet import SegResNet
            from monai.networks.nets.swin_unetr import SwinUNETR
            from monai.networks.nets.unet import UNet

            self.config = config
            inputs, features = config.in_channels * config.slices, config.features
            if config.kind == "unet":
                self.net: Any = UNet(
                    config.dims,
                    inputs,
                    config.n_classes,
                    channels=[features * 2**level for level in range(5)],
                    strides=[2] * 4,
                    num_res_units=2,
                )
            elif config.kind == "segresnet":
                self.net = SegResNet(config.dims, features, inputs, config.n_classes)
            else:
                width = max(12, features // 12 * 12)  # heads of the first stage divide it
                self.net = SwinUNETR(inputs, config.n_classes, feature_size=width, spatial_dims=config.dims)

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b k *space"]:
        """Logits at the size of the input."""
        size = tuple(x.shape[2:])
        x = pad_to_multiple(x, COARSEST)
        if self.config.kind == "swin-unetr" and max(x.shape[2:]) == COARSEST:
            # its coarsest map would be one pixel, of which its instance norms make nothing: one side twice as long makes two
            x = F.pad(x, [0, COARSEST] + [0, 0] * (x.ndim - 3), mode="replicate")
        return crop(self.net(x), size)


Network = GuidedAttentionNet | PeerNet


def build_network(options: NetworkOptions, *, n_classes: int, in_channels: int) -> Network:
    """The network of the options.

    Raises:
        UserError: timm has no such backbone, or it does not fit.
    """
    dims = 3 if options.form == "3d" else 2
    slices = options.slices if options.form == "2.5d" else 1
    if options.network != "guided":
        return PeerNet(PeerConfig(options.network, n_classes, in_channels, slices, dims, options.features))
    config = GuidedConfig(
        n_classes=n_classes,
        in_channels=in_channels,
        slices=slices,
        backbone=options.backbone,
        width=options.width,
        dims=dims,
        share_semantic=not options.separate_semantic,
    )
    try:
        return GuidedAttentionNet(config, pretrained=options.pretrained)
    except OSError as error:
        raise UserError(
            f"the weights of {options.backbone} cannot be fetched: {error}", "train without --pretrained"
        ) from None
