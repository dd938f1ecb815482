"""How far heads look: attention among patches by Chebyshev ring, its distance, entropy and share to the prefix tokens.

All of attention that leaves the patches is taken out first: the patch-to-patch part is normalised again so that its rows sum to 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ring_distance(rows: int, columns: int) -> Int[Tensor, "patches patches"]:
    """Chebyshev distance of every two patches of a grid."""
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid has at least one row and column, got {rows} × {columns}")
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], -1)
    return (places[:, None] - places).abs().amax(-1).int()


def ring_size(rows: int, columns: int) -> Int[Tensor, "patches rings"]:
    """How many patches stand at each distance from each patch; a row sums to the number of patches."""
    distance = ring_distance(rows, columns)
    rings = torch.arange(max(rows, columns))
    return (distance[:, :, None] == rings).sum(1).int()


@dataclass(frozen=True)
class HopStrength:
    """Attention among patches by distance, of each map given.

    Attributes:
        mass: share of attention at each distance; sums to 1.
        strength: mean attention per neighbour at each distance, over the patches that have neighbours there.
        distance: mean Chebyshev distance of attention, patches.
        entropy: of rows, divided by ln n: 0 one patch, 1 uniform.
        share_to_prefix: attention from patches to CLS and registers.
    """

    mass: Float[Tensor, "... rings"]
    strength: Float[Tensor, "... rings"]
    distance: Float[Tensor, "..."]
    entropy: Float[Tensor, "..."]
    share_to_prefix: Float[Tensor, "..."]


def hop_strength(weights: Float[Tensor, "... tokens tokens"], grid: tuple[int, int]) -> HopStrength:
    """Attention by distance.

    Args:
        weights: softmax attention of all tokens, the prefix first, patches in row-major order after it; any leading axes.
        grid: rows and columns of patches.

    Raises:
        ValueError: not square, or fewer tokens than patches; quotes the shapes.
    """
    rows, columns = grid
    patches = rows * columns
    tokens = weights.shape[-1]
    if weights.shape[-2] != tokens or tokens < patches:
        raise ValueError(
            f"needs weights (…, tokens, tokens) of at least {rows} × {columns} patches, got {tuple(weights.shape)}"
        )
    prefix = tokens - patches
    from_patches = weights[..., prefix:, :]
    share = from_patches[..., :prefix].sum(-1).mean(-1)
    inner = from_patches[..., prefix:]
    inner = inner / inner.sum(-1, keepdim=True).clamp(min=torch.finfo(inner.dtype).tiny)

    distance = ring_distance(rows, columns).to(inner.device)
    sizes = ring_size(rows, columns).to(inner)
    rings = sizes.shape[1]
    # sums over rings by scattering columns into as many bins as there are rings
    index = distance.long().expand_as(inner)
    by_ring = inner.new_zeros(*inner.shape[:-1], rings).scatter_add(-1, index, inner)
    mass = by_ring.mean(-2)
    per_neighbour = by_ring / sizes.clamp(min=1)
    have = (sizes > 0).to(inner)
    strength = (per_neighbour * have).sum(-2) / have.sum(0).clamp(min=1)
    mean_distance = (inner * distance.to(inner)).sum(-1).mean(-1)
    entropy = torch.special.entr(inner).sum(-1).mean(-1)
    if patches > 1:
        entropy = entropy / torch.log(torch.tensor(float(patches), dtype=inner.dtype))
    return HopStrength(mass, strength, mean_distance, entropy, share)


def offset_profile(weights: Float[Tensor, "... patches patches"], grid: tuple[int, int]) -> Float[Tensor, "... dy dx"]:
    """Mean attention by offset (dy, dx), of pairs that have it: shows heads that look along rows, columns or one corner.

    Args:
        weights: patch-to-patch attention.
        grid: rows and columns of patches.

    Returns:
        (…, 2 rows − 1, 2 columns − 1); the middle is a patch itself.
    """
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[None] - y[:, None] + rows - 1
    dx = x[None] - x[:, None] + columns - 1
    index = (dy * (2 * columns - 1) + dx).flatten().to(weights.device)
    bins = (2 * rows - 1) * (2 * columns - 1)
    flat = weights.flatten(-2)
    total = flat.new_zeros(*flat.shape[:-1], bins).scatter_add(-1, index.expand_as(flat), flat)
    pairs = torch.bincount(index, minlength=bins).to(flat)
    return (total / pairs).unflatten(-1, (2 * rows - 1, 2 * columns - 1))


@dataclass(frozen=True)
class Trend:
    """A measure by layer over heads and images.

    Attributes:
        mean: of each layer.
        sd: over heads, of each head's mean over images (population).
    """

    mean: Float[Tensor, "layers ..."]
    sd: Float[Tensor, "layers ..."]


def layer_trend(values: Float[Tensor, "images layers heads ..."]) -> Trend:
    """The mean of each layer, and how its heads differ."""
    of_heads = values.mean(0)
    return Trend(of_heads.mean(1), of_heads.std(1, correction=0))
