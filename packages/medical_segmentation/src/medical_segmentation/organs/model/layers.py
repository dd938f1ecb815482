"""Parts of the self-guided network in two or three dimensions: attention layers, the semantic module, the fusing convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.msdual.dual import PAMCAMLayer, channel_attention, position_attention

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def convolution(dims: int, inputs: int, outputs: int, size: int) -> nn.Module:
    """A convolution with bias that keeps the size of the map."""
    return _CONVOLUTIONS[dims](inputs, outputs, size, padding=size // 2)


def normalisation(dims: int, channels: int) -> nn.Module:
    """Batch normalisation of maps (2) or volumes (3)."""
    return _NORMS[dims](channels)


def resize(x: Float[Tensor, "b c *space"], size: tuple[int, ...]) -> Float[Tensor, "b c *size"]:
    """Linear resizing with corners not aligned; no work where the size is right already."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode=_LINEAR[len(size)], align_corners=False)


class VolumeAttention(nn.Module):
    """PAM or CAM over the voxels of a volume: the core's functions on the flattened volume.

    Args:
        channels: channels of the volume.
        position: position attention with 1×1×1 convolutions; False: channel attention.
    """

    def __init__(self, channels: int, *, position: bool) -> None:
        super().__init__()
        self.position = position
        if position:
            narrow = max(1, channels // 8)
            self.query_conv = nn.Conv3d(channels, narrow, 1)
            self.key_conv = nn.Conv3d(channels, narrow, 1)
            self.value_conv = nn.Conv3d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """γ times the attended volume, plus the volume."""
        if not self.position:
            return channel_attention(x.flatten(3), self.gamma).view(x.shape)
        # attention does not know where its tokens lie: rows and columns become one axis
        q, k, v = (project(x).flatten(3) for project in (self.query_conv, self.key_conv, self.value_conv))
        attended = position_attention(q, k, v).view(x.shape)
        return torch.addcmul(x, self.gamma.to(x.dtype), attended.to(x.dtype))


class VolumePAMCAMLayer(nn.Module):
    """`PAMCAMLayer` of the core with 3×3×3 convolutions."""

    def __init__(self, channels: int, *, use_pam: bool) -> None:
        super().__init__()
        self.attn = nn.Sequential(
            nn.Conv3d(2 * channels, channels, 3, padding=1),
            nn.BatchNorm3d(channels),
            nn.PReLU(),
            VolumeAttention(channels, position=use_pam),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.BatchNorm3d(channels),
            nn.PReLU(),
        )

    def forward(self, x: Float[Tensor, "b c2 d h w"]) -> Float[Tensor, "b c d h w"]:
        """The attended volume, with half the channels."""
        return self.attn(x)


def attention_layer(dims: int, channels: int, *, use_pam: bool) -> nn.Module:
    """``2C → C`` with position or channel attention in the middle."""
    if dims == 2:
        return PAMCAMLayer(channels, use_pam=use_pam)
    return VolumePAMCAMLayer(channels, use_pam=use_pam)


class MultiConv(nn.Module):
    """``Conv3–BN–PReLU–Conv3–BN–PReLU–Conv1–BN``, then PReLU, or a softmax over the channels (Sinha and Dolz 2020).

    Args:
        inputs, outputs: channels.
        attention: end with the softmax.
        dims: 2 or 3.
    """

    def __init__(self, inputs: int, outputs: int, *, attention: bool = False, dims: int = 2) -> None:
        super().__init__()
        self.fuse_attn = nn.Sequential(
            convolution(dims, inputs, outputs, 3),
            normalisation(dims, outputs),
            nn.PReLU(),
            convolution(dims, outputs, outputs, 3),
            normalisation(dims, outputs),
            nn.PReLU(),
            convolution(dims, outputs, outputs, 1),
            normalisation(dims, outputs),
            nn.Softmax(dim=1) if attention else nn.PReLU(),
        )

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b o *space"]:
        """The fused map, of the same size."""
        return self.fuse_attn(x)


class EncodingBlock(nn.Module):
    """``[Conv3–BN–ReLU] ×2``, then max pooling by 2."""

    def __init__(self, inputs: int, outputs: int, *, dims: int = 2) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            convolution(dims, inputs, outputs, 3),
            normalisation(dims, outputs),
            nn.ReLU(inplace=True),
            convolution(dims, outputs, outputs, 3),
            normalisation(dims, outputs),
            nn.ReLU(inplace=True),
            _POOLS[dims](2, stride=2),
        )

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b o *half"]:
        """The code, of half the size."""
        return self.encode(x)


class DecodingBlock(nn.Module):
    """``[Conv3–BN–ReLU] ×2``, then a transposed convolution by 2."""

    def __init__(self, inputs: int, outputs: int, *, dims: int = 2) -> None:
        super().__init__()
        self.decode = nn.Sequential(
            convolution(dims, inputs, outputs, 3),
            normalisation(dims, outputs),
            nn.ReLU(inplace=True),
            convolution(dims, outputs, outputs, 3),
            normalisation(dims, outputs),
            nn.ReLU(inplace=True),
            _TRANSPOSED[dims](outputs, outputs, 2, stride=2),
        )

    def forward(self, x: Float[Tensor, "b i *space"]) -> Float[Tensor, "b o *double"]:
        """The decoded map, of twice the size."""
        return self.decode(x)


class SemanticModule(nn.Module):
    """The guided autoencoder: ``C → 2C → 4C`` and back, each step by a factor of 2 in size.

    Its code holds what the attention shall agree on between the stages; its reconstruction weighs the attention.

    Args:
        channels: channels C of the map (128 as published).
        dims: 2 or 3.
    """

    def __init__(self, channels: int, *, dims: int = 2) -> None:
        super().__init__()
        self.enc1 = EncodingBlock(channels, 2 * channels, dims=dims)
        self.enc2 = EncodingBlock(2 * channels, 4 * channels, dims=dims)
        self.dec2 = DecodingBlock(4 * channels, 2 * channels, dims=dims)
        self.dec1 = DecodingBlock(2 * channels, channels, dims=dims)

    def forward(
        self, x: Float[Tensor, "b c *space"]
    ) -> tuple[Float[Tensor, "b c4 *quarter"], Float[Tensor, "b c *space"]]:
        """The code and the reconstruction.

        Raises:
            ValueError: a side of the map is not a multiple of 4 (the reconstruction would have another size).
        """
        if any(side % 4 for side in x.shape[2:]):
            raise ValueError(f"SemanticModule needs sides that are multiples of 4, got {tuple(x.shape[2:])}")
        first = self.enc1(x)
        code = self.enc2(first)
        decoded = resize(self.dec2(code), tuple(first.shape[2:]))
        return code, self.dec1(decoded)
