"""Context-aware saliency of a relevance image (after Goferman, Zelnik-Manor, Tal, TPAMI 2012): isolated pixels become areas.

A patch is salient if even the patches most like it, near it, differ from it. The definition is pinned down in the method's page: the
paper's second stage was a tool in MATLAB, so this is a reconstruction, compared with a transcription of that definition and not with the
tool.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

WHITE = (0.95047, 1.0, 1.08883)  # D65
XYZ_OF_SRGB = (  # as rounded in the definition that golden cases follow
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
ROWS_AT_ONCE = 512  # query patches compared at a time: about 40 MB at 250 × 250


@dataclass(frozen=True)
class SaliencyOptions:
    """What the definition leaves open.

    Args:
        patch: side of a patch, pixels.
        stride: between patches.
        k: nearest patches that count; all where there are fewer.
        c: weight of the distance in the image against that in colour.
        scales: of the image.
        min_scale: candidates come from scales r, r / 2 and r / 4 that are not below it.
        foci_threshold: pixels above it attract attention.
    """

    patch: int = 7
    stride: int = 3
    k: int = 64
    c: float = 3.0
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3)
    min_scale: float = 0.2
    foci_threshold: float = 0.8


@dataclass(frozen=True)
class Saliency:
    """Salient relevance, and the steps towards it.

    Attributes:
        map: (height, width), in [0, 1].
        lab: the image in L*a*b*, each channel in [0, 1].
        single_scale: saliency of each scale before normalisation, (scales, height, width).
        normalised: of each scale, min-max.
    """

    map: Float[Tensor, "height width"]
    lab: Float[Tensor, "height width 3"]
    single_scale: Float[Tensor, "scales height width"]
    normalised: Float[Tensor, "scales height width"]


def lab_of_srgb(image: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    """sRGB in [0, 1] → CIE L*a*b* under D65, scaled to L / 100, (a + 128) / 255, (b + 128) / 255."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = linear @ image.new_tensor(XYZ_OF_SRGB).T / image.new_tensor(WHITE)
    # the constants of CIE 1976 as they are usually rounded, (6 / 29)³ and (29 / 6)² / 3
    f = torch.where(xyz > 0.008856, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    lightness = (116 * f[..., 1] - 16) / 100
    a = (500 * (f[..., 0] - f[..., 1]) + 128) / 255
    b = (200 * (f[..., 1] - f[..., 2]) + 128) / 255
    return torch.stack([lightness, a, b], -1)


def area_weights(length: int, size: int) -> Float[Tensor, "size length"]:
    """Which share of each old pixel lies in each new one, exactly; rows sum to 1."""
    edges = torch.arange(size + 1, dtype=torch.float64) * length / size
    pixel = torch.arange(length, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixel)
    high = torch.minimum(edges[1:, None], pixel + 1)
    return (high - low).clamp(min=0) * size / length


def resample(image: Float[Tensor, "height width c"], rows: int, columns: int) -> Float[Tensor, "rows columns c"]:
    """Exact area resampling."""
    down = area_weights(image.shape[0], rows).to(image)
    across = area_weights(image.shape[1], columns).to(image)
    return torch.einsum("rh,hwc,kw->rkc", down, image, across)


@dataclass(frozen=True)
class _Patches:
    """Patches of one level: colours, centres relative to the image, and how many rows and columns of them."""

    values: Tensor
    centres: Tensor
    rows: int
    columns: int


def _patches(lab: Tensor, scale: float, options: SaliencyOptions) -> _Patches:
    height, width = lab.shape[:2]
    sides = [max(math.floor(side * scale + 0.5), options.patch) for side in (height, width)]
    level = resample(lab, *sides)
    unfolded = F.unfold(level.permute(2, 0, 1)[None], options.patch, stride=options.stride)
    counts = [(side - options.patch) // options.stride + 1 for side in sides]
    axes = []
    for count, side, length in zip(counts, sides, (height, width), strict=True):
        centre = options.patch // 2 + options.stride * torch.arange(count, dtype=lab.dtype)
        axes.append((centre + 0.5) / side * length)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], -1) / max(height, width)
    return _Patches(unfolded[0].T, centres.to(lab), *counts)


def _mean_distance(queries: _Patches, candidates: Sequence[_Patches], options: SaliencyOptions) -> Tensor:
    """Mean distance of each query patch to the k nearest candidates, itself among them."""
    values = torch.cat([level.values for level in candidates])
    centres = torch.cat([level.centres for level in candidates])
    k = min(options.k, len(values))
    means = []
    for start in range(0, len(queries.values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        colour = torch.cdist(queries.values[rows], values) / math.sqrt(values.shape[1])
        place = torch.cdist(queries.centres[rows], centres)
        distance = colour / (1 + options.c * place)
        means.append(distance.topk(k, 1, largest=False, sorted=False).values.mean(1))
    return torch.cat(means)


def _upsample(grid: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(grid[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]


def min_max(values: Tensor) -> Tensor:
    """To [0, 1]; a constant map is 0, not NaN."""
    low, high = values.min(), values.max()
    if high == low:
        return torch.zeros_like(values)
    return (values - low) / (high - low)


def context_aware_saliency(image: Float[Tensor, "height width 3"], options: SaliencyOptions | None = None) -> Saliency:
    """Context-aware saliency of an image in [0, 1], computed in its dtype (float64 for exact comparisons).

    Raises:
        ValueError: the image is no (height, width, 3) or smaller than a patch, or options are impossible.
    """
    options = options or SaliencyOptions()
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"needs an image (height, width, 3), got {tuple(image.shape)}")
    height, width = image.shape[:2]
    if min(height, width) < options.patch:
        raise ValueError(f"an image of {height} × {width} is smaller than a patch of {options.patch} × {options.patch}")
    if not options.scales or min(options.scales) < options.min_scale or options.k < 1:
        raise ValueError(
            f"scales {options.scales} from {options.min_scale} on, k {options.k}: nothing would be compared"
        )
    lab = lab_of_srgb(image)
    levels: dict[float, _Patches] = {}

    def level(scale: float) -> _Patches:
        if scale not in levels:
            levels[scale] = _patches(lab, scale, options)
        return levels[scale]

    single, normalised, combined = [], [], torch.zeros_like(lab[..., 0])
    for scale in options.scales:
        candidates = [level(s) for s in (scale, scale / 2, scale / 4) if s >= options.min_scale]
        queries = level(scale)
        grid = 1 - torch.exp(-_mean_distance(queries, candidates, options))
        # a grid whose candidates are all alike differs from 0 by rounding alone
        saliency = _upsample(grid.view(queries.rows, queries.columns), height, width)
        scaled = min_max(saliency)
        foci = scaled > options.foci_threshold
        if bool(foci.any()):
            distance = torch.from_numpy(distance_transform_edt(~foci.cpu().numpy())).to(lab) / max(height, width)
        else:
            distance = torch.zeros_like(scaled)  # nothing attracts: nothing is pulled towards it
        combined = combined + scaled * (1 - distance)
        single.append(saliency)
        normalised.append(scaled)
    return Saliency(min_max(combined / len(options.scales)), lab, torch.stack(single), torch.stack(normalised))
