"""Convolutional Hough matching: dense correspondences from features of two images (Min and Cho, CVPR 2021).

Correlations of all positions at three scales each vote for others around them, in 6-D over scales and in 4-D at a finer resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from explainability.chm_corr.kernels import SCALE_SETS, KernelType, kernel4d, kernel6d, parameters


def resizing(length: int, size: int, like: Tensor) -> Float[Tensor, "size length"]:
    """Linear resizing of one axis with aligned corners, as a matrix."""
    identity = torch.eye(length, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size, mode="linear", align_corners=True)[0].T


def correlate6d(
    source: Sequence[Float[Tensor, "b c s s"]], target: Sequence[Float[Tensor, "b c t t"]], side: int
) -> Float[Tensor, "b 3 3 side side side side"]:
    """Cosine correlations of every pair of scales, all axes resized to `side`, clamped at 0.

    Resizing is linear, so the normed features are resized instead of their correlations: the same numbers from far smaller arrays.
    """
    resized = []
    for features in (source, target):
        scales = []
        for feature in features:
            # a position without features has no direction: its correlations are 0 instead of NaN
            normed = F.normalize(feature, dim=1, eps=1e-30)
            matrix = resizing(feature.shape[-1], side, feature)
            scales.append(torch.einsum("yh,bchw,xw->bcyx", matrix, normed, matrix))
        resized.append(torch.stack(scales, 1))
    return torch.einsum("bscij,btckl->bstijkl", *resized).clamp(min=0)


def convolve6d(
    x: Float[Tensor, "b s t h w h2 w2"], kernel: Float[Tensor, "ks kt k k k k"]
) -> Float[Tensor, "b s t h w h2 w2"]:
    """Zero-padded 6-D cross-correlation of one channel, its four axes of places in the frequency domain.

    The pairs of scales are channels: out[s, t] takes in[s', t'] with kernel[s' − s + 1, t' − t + 1]. Kernels that are equal for several
    scale offsets (`SCALE_SETS`) cost nothing more: a product per pair of scales is all that is left of each.
    """
    _, s, t, *places = x.shape
    ks, kt = kernel.shape[:2]
    sizes = _padded_sizes(places, kernel.shape[-1])
    kernels = _spectrum_of_kernel(kernel, sizes)
    results = []
    # the spectrum of one pair of images fills the caches already
    for pair in x.split(1):
        spectrum = _spectrum(pair, sizes)
        total = torch.zeros_like(spectrum)
        for out_s in range(s):
            for out_t in range(t):
                for in_s in range(s):
                    for in_t in range(t):
                        offset = in_s - out_s + ks // 2, in_t - out_t + kt // 2
                        if 0 <= offset[0] < ks and 0 <= offset[1] < kt:
                            total[:, out_s, out_t].addcmul_(spectrum[:, in_s, in_t], kernels[offset])
        results.append(_from_spectrum(total, sizes, places, x.dtype))
    return torch.cat(results)


def convolve4d(x: Float[Tensor, "b h w h2 w2"], kernel: Float[Tensor, "k k k k"]) -> Float[Tensor, "b h w h2 w2"]:
    """Zero-padded 4-D cross-correlation of one channel, in the frequency domain."""
    places = list(x.shape[1:])
    sizes = _padded_sizes(places, kernel.shape[-1])
    spectrum_of_kernel = _spectrum_of_kernel(kernel, sizes)
    results = []
    for pair in x.split(1):
        results.append(_from_spectrum(_spectrum(pair, sizes) * spectrum_of_kernel, sizes, places, x.dtype))
    return torch.cat(results)


AXES = (-4, -3, -2, -1)  # of places


def _padded_sizes(places: Sequence[int], side: int) -> list[int]:
    """Lengths for the Fourier transform: half a kernel of zeros keeps both ends of an axis apart; then the next product of 2, 3 and 5."""
    sizes = []
    for length in places:
        size = length + side // 2
        while not _is_smooth(size):
            size += 1
        sizes.append(max(size, side))
    return sizes


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def _spectrum(x: Tensor, sizes: Sequence[int]) -> Tensor:
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return torch.fft.rfftn(x, s=list(sizes), dim=AXES)


def _spectrum_of_kernel(kernel: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of the kernel with its middle at the origin; conjugated, since a cross-correlation does not turn the kernel round."""
    length = kernel.shape[-1]
    padding = [n for size in reversed(sizes) for n in (0, size - length)]
    centred = F.pad(kernel, padding).roll([-(length // 2)] * 4, AXES)
    return _spectrum(centred, sizes).conj().resolve_conj()


def _from_spectrum(spectrum: Tensor, sizes: Sequence[int], places: Sequence[int], dtype: torch.dtype) -> Tensor:
    whole = torch.fft.irfftn(spectrum, s=list(sizes), dim=AXES)
    inside = tuple(slice(0, length) for length in places)
    return whole[(..., *inside)].to(dtype)


def filter_mutual(correlation: Float[Tensor, "b n m"]) -> Float[Tensor, "b n m"]:
    """``c · (c / max over targets) · (c / max over sources)``: votes that both sides prefer stay."""
    best_target = correlation.amax(2, keepdim=True)
    best_source = correlation.amax(1, keepdim=True)
    tiny = 1e-30
    best_target = torch.where(best_target == 0, tiny, best_target)
    best_source = torch.where(best_source == 0, tiny, best_source)
    return correlation * (correlation / best_target) * (correlation / best_source)


class HoughLayer(nn.Module):
    """Parameters of one layer of votes. `scales` layers hold one set of parameters for each set of scale offsets.

    Args:
        side: of the kernel.
        kind: how positions share parameters.
        scales: a layer over pairs of scales.
    """

    def __init__(self, side: int, kind: KernelType, *, scales: bool):
        super().__init__()
        self.side = side
        self.kind: KernelType = kind
        count = parameters(side, kind)
        sets = len(SCALE_SETS[kind]) if scales else 1
        self.sets = nn.ParameterList([nn.Parameter(torch.rand(count)) for _ in range(sets)])
        self.bias = nn.Parameter(torch.zeros(1))
        self.scales = scales

    def kernel(self) -> Tensor:
        """The kernel, 6-D or 4-D."""
        if self.scales:
            return kernel6d(list(self.sets), self.side, self.kind)
        return kernel4d(self.sets[0], self.side, self.kind)

    def forward(self, x: Tensor) -> Tensor:
        """Votes, of the shape of `x`."""
        convolve = convolve6d if self.scales else convolve4d
        return convolve(x, self.kernel()) + self.bias


class CHMLearner(nn.Module):
    """Features of two images → correlation of all source with all target positions.

    Args:
        feature_dim: channels of the features.
        kind: how kernels share parameters; ``"psi"`` is what was released.
        width: channels after the convolutions of each scale; None: a quarter of `feature_dim`.
        scales: areas relative to the features.
        side: of the kernels.

    Raises:
        ValueError: not three scales: the kernel over pairs of scales is 3 × 3.
    """

    def __init__(
        self,
        feature_dim: int = 1024,
        *,
        kind: KernelType = "psi",
        width: int | None = None,
        scales: Sequence[float] = (0.5, 1, 2),
        side: int = 5,
    ):
        super().__init__()
        if len(scales) != 3:
            raise ValueError(f"needs three scales, got {list(scales)}")
        self.scales = tuple(scales)
        width = width or feature_dim // 4
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(feature_dim, width, 3, padding=1, bias=False) for _ in self.scales]
        )
        self.votes6d = HoughLayer(side, kind, scales=True)
        self.votes4d = HoughLayer(side, kind, scales=False)

    def at_scales(self, features: Float[Tensor, "b c s s"]) -> list[Float[Tensor, "b width t t"]]:
        """Features at each scale: what can be kept of every support image."""
        side = features.shape[-1]
        scaled = []
        for scale, convolution in zip(self.scales, self.convolutions, strict=True):
            size = round(side * math.sqrt(scale))
            resized = F.interpolate(features, (size, size), mode="bilinear", align_corners=True)
            scaled.append(convolution(resized))
        return scaled

    def match(self, source: Sequence[Tensor], target: Sequence[Tensor], side: int) -> Float[Tensor, "b n m"]:
        """The correlation, from features at scales; `side` is that of the features."""
        votes = self.votes6d(correlate6d(source, target, side)).sigmoid()
        best = votes.flatten(1, 2).amax(1)
        matrix = resizing(side, 2 * side, best)
        finer = torch.einsum("ai,bj,nijkl,ck,dl->nabcd", matrix, matrix, best, matrix, matrix)
        final = F.softplus(self.votes4d(finer))
        return filter_mutual(final.flatten(3, 4).flatten(1, 2))

    def forward(self, source: Float[Tensor, "b c s s"], target: Float[Tensor, "b c s s"]) -> Float[Tensor, "b n n"]:
        """Correlation (batch, (2s)², (2s)²), source first, positions in row-major order.

        Raises:
            ValueError: features that are not square or differ in shape; both shapes are quoted.
        """
        if source.shape != target.shape or source.shape[-1] != source.shape[-2]:
            raise ValueError(
                f"needs square features of one shape, got source {tuple(source.shape)} and target {tuple(target.shape)}"
            )
        return self.match(self.at_scales(source), self.at_scales(target), source.shape[-1])
