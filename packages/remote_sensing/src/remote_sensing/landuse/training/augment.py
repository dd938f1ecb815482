"""The published augmentation of training tiles, drawn for each tile of a batch and computed for the batch at once, where the batch is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Weights of R, G, B in brightness, and the two axes of colour beside it (YIQ), in whose plane hue is an angle.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augmented(x: Float[Tensor, "b bands h w"], *, limit: float, rgb: bool) -> Float[Tensor, "b bands h w"]:
    """Mirrored (each way with 1/2), rotated by up to 90° (zeros outside), jittered (brightness, contrast, saturation 0.3, hue 0.1), blurred (3 × 3).

    For reflectances only brightness and contrast are jittered. All random numbers come from torch's global generator.

    Args:
        x: tiles of 0 to `limit`.
        limit: the brightest value: 255 for pictures, 10,000 for reflectances.
        rgb: whether the bands are R, G, B.
    """
    b, n = len(x), x.shape[1]

    def draw(low: float, high: float) -> Tensor:
        # drawn on the CPU, so that a seed gives the same tiles on every device
        return torch.empty(b, 1, 1, 1).uniform_(low, high).to(x.device, x.dtype)

    for axis in (2, 3):
        x = torch.where(draw(0, 1) < 0.5, x.flip(axis), x)
    x = turned(x, draw(-math.pi / 2, math.pi / 2).flatten())
    x = x / limit * draw(0.7, 1.3)  # brightness
    weights = x.new_full((n,), 1 / n)
    if rgb:
        weights = x.new_tensor(_YIQ[0])
    # contrast: away from, or towards, the mean brightness of the tile
    mean = torch.einsum("bchw,c->bhw", x, weights).mean((1, 2))[:, None, None, None]
    x = mean + (x - mean) * draw(0.7, 1.3)
    if rgb:  # saturation: away from, or towards, grey
        grey = torch.einsum("bchw,c->bhw", x, weights)[:, None]
        x = grey + (x - grey) * draw(0.7, 1.3)
        x = hue_turned(x, draw(-0.1, 0.1).flatten() * 2 * math.pi)
    x = blurred(x, draw(0.1, 2.0).flatten())
    return x.clamp(0, 1) * limit


def turned(x: Float[Tensor, "b c h w"], angle: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Each tile rotated about its centre; nearest pixels, zeros from outside."""
    c, s = angle.cos(), angle.sin()
    zero = torch.zeros_like(c)
    # rotation matrices (tiles, 2, 3) without shift, which affine_grid applies to the pixels of the result
    matrix = torch.stack([torch.stack([c, -s, zero], 1), torch.stack([s, c, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False)


def hue_turned(x: Float[Tensor, "b 3 h w"], angle: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """Each tile's hue rotated by an angle, with the brightness unchanged."""
    to = x.new_tensor(_YIQ)
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    # to YIQ, a rotation of its plane of colours, and back, as one matrix for each tile
    turn = torch.stack([one, zero, zero, zero, c, -s, zero, s, c], 1).reshape(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", torch.linalg.inv(to) @ turn @ to, x)


def blurred(x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Each tile blurred with a 3 × 3 Gaussian of its own deviation, mirrored at the edges."""
    # the kernel is (side, 1, side) / total along each axis, one after the other
    side = torch.exp(-0.5 / sigma**2)
    total = 1 + 2 * side
    inner, outer = (1 / total)[:, None, None, None], (side / total)[:, None, None, None]
    for axis, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        y = F.pad(x, pad, mode="reflect")
        n = x.shape[axis]
        x = outer * (y.narrow(axis, 0, n) + y.narrow(axis, 2, n)) + inner * x
    return x
