"""FeatEnHancer (Hashmi, Kallempudi, Stricker, Afzal, ICCV 2023): makes dark pictures better for the network that follows."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.featenhancer.scale_aware import ScaleAwareFeatureAggregation

SMALLEST = 15  # the side that is left with one pixel at an eighth of the size


class Corrections(NamedTuple):
    """What `FeatEnHancer` adds.

    Attributes:
        enhanced: the picture plus its corrections, of the shape of the input.
        steps: the corrections, (batch, steps, channels, height, width), each within ±1.
    """

    enhanced: Tensor
    steps: Tensor


class FeatEnHancer(nn.Module):
    """``y = x + Σ_k r_k``: corrections from features of three scales, trained by the loss of the detector or segmenter behind it.

    All convolutions of the features are shared by the scales. Pictures are expected as the network behind expects them (normalised), and come
    out in the same shape. No loss of its own; nothing is random.

    Args:
        in_channels: channels of the pictures; their multiple makes the `corrections`.
        corrections: width of the corrections before they are summed in groups of `in_channels`.
        width: channels of the features.
        heads: heads of the aggregation.
        bounded_start: draw the convolutions' weights from N(0, 0.02), as published, so that the first corrections are small.

    Raises:
        ValueError: `in_channels` or `heads` does not divide `corrections`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        corrections: int = 24,
        width: int = 32,
        heads: int = 8,
        bounded_start: bool = True,
    ) -> None:
        super().__init__()
        if min(in_channels, corrections, width, heads) < 1 or corrections % in_channels:
            raise ValueError(
                f"in_channels must divide the {corrections} channels of the corrections, got {in_channels}"
            )
        self.in_channels = in_channels
        self.e_conv1 = _conv(in_channels, width)
        self.e_conv2, self.e_conv3, self.e_conv4 = _conv(width, width), _conv(width, width), _conv(width, width)
        self.e_conv5, self.e_conv6 = _conv(2 * width, width), _conv(2 * width, width)
        self.e_conv7 = _conv(2 * width, corrections)
        self.ue_conv8, self.ue_conv9 = _conv(2 * corrections, width), _conv(width, corrections)
        self.quarter_conv = nn.Conv2d(in_channels, in_channels, 7, stride=4)
        self.hexa_conv = nn.Conv2d(in_channels, in_channels, 3, stride=2)
        self.scale_aware_aggregation = ScaleAwareFeatureAggregation(corrections, num_heads=heads)
        if bounded_start:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """The enhanced pictures, of the shape of `x`.

        Raises:
            ValueError: another rank or number of channels, or a side below 15 pixels; quotes the shape.
        """
        return x + self._steps(x).unflatten(1, (-1, self.in_channels)).sum(1)

    def corrections(self, x: Tensor) -> Corrections:
        """The enhanced pictures, and what each correction adds to them."""
        steps = self._steps(x).unflatten(1, (-1, self.in_channels))
        return Corrections(x + steps.sum(1), steps)

    def _steps(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"FeatEnHancer needs pictures (batch, {self.in_channels}, height, width) of at least "
                f"{SMALLEST} × {SMALLEST} pixels, got {tuple(x.shape)}"
            )
        if (
            x.device.type == "cpu"
        ):  # torch's CPU convolutions of so few channels take a third less time on channels-last maps
            x = x.contiguous(memory_format=torch.channels_last)
        quarter = self.quarter_conv(x)
        eighth = self._features(self.hexa_conv(quarter), rectified=False)
        full = self._features(x)
        full = self.scale_aware_aggregation(full, self._features(quarter))
        eighth = F.interpolate(eighth, size=x.shape[2:], mode="bilinear", align_corners=True)
        return self.ue_conv9(_conv_of_both(self.ue_conv8, full, eighth)).tanh()

    def _features(self, x: Tensor, *, rectified: bool = True) -> Tensor:
        """The intra-scale network of one scale; the eighth ends without a ReLU, as published."""
        f1 = F.relu(self.e_conv1(x), inplace=True)
        f2 = F.relu(self.e_conv2(f1), inplace=True)
        f3 = F.relu(self.e_conv3(f2), inplace=True)
        f4 = F.relu(self.e_conv4(f3), inplace=True)
        f5 = F.relu(_conv_of_both(self.e_conv5, f3, f4), inplace=True)
        del f3, f4  # full-size maps: none is kept longer than it is needed
        f6 = F.relu(_conv_of_both(self.e_conv6, f2, f5), inplace=True)
        del f2, f5
        f7 = _conv_of_both(self.e_conv7, f1, f6)
        return F.relu(f7, inplace=True) if rectified else f7


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def _conv_of_both(conv: nn.Conv2d, first: Tensor, second: Tensor) -> Tensor:
    """A convolution of two maps side by side, as the sum of two: nothing is copied into one."""
    weight = conv.weight
    channels = first.shape[1]
    out = F.conv2d(first, weight[:, :channels], conv.bias, padding=conv.padding)
    return out.add_(F.conv2d(second, weight[:, channels:], padding=conv.padding))
