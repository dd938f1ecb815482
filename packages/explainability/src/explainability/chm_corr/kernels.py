"""Kernels of convolutional Hough matching whose positions share parameters (Min and Cho, CVPR 2021).

A position (i, j, k, l) of a 4-D kernel is an offset (i, j) in the source and one (k, l) in the target. In "psi" positions with the same
three squared distances share a parameter: source offset and target offset from the centre (whichever is greater first), and from each
other. In "iso" only the last counts. Each parameter is spread evenly over its positions.
"""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

KernelType = Literal["psi", "iso", "full"]

# pairs of scale offsets (source, target) of a 3 × 3 kernel, by flat index, that share a 4-D kernel
SCALE_SETS: dict[str, tuple[tuple[int, ...], ...]] = {
    "psi": ((4,), (0, 8), (2, 6), (1, 3, 5, 7)),
    "iso": ((0, 4, 8), (2, 6), (1, 3, 5, 7)),
    "full": tuple((index,) for index in range(9)),
}


@cache
def groups(side: int, kind: KernelType) -> Int[Tensor, "side side side side"]:
    """The parameter of each position, numbered by first occurrence in row-major order of (i, j, k, l).

    Raises:
        ValueError: an even side, which has no centre, or no such kind of sharing.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"a kernel has an odd side, got {side}")
    if kind not in SCALE_SETS:
        raise ValueError(f"kernel_type is one of {', '.join(SCALE_SETS)}, got {kind!r}")
    if kind == "full":
        return torch.arange(side**4).view(side, side, side, side)
    axis = torch.arange(side)
    i, j, k, l = torch.meshgrid(axis, axis, axis, axis, indexing="ij")
    centre = side // 2
    source = (i - centre) ** 2 + (j - centre) ** 2
    target = (k - centre) ** 2 + (l - centre) ** 2
    between = (i - k) ** 2 + (j - l) ** 2
    if kind == "iso":
        keys = between
    else:
        base = 2 * side**2  # more than any of the three can be
        keys = (torch.maximum(source, target) * base + torch.minimum(source, target)) * base + between
    _, numbers = torch.unique(keys.flatten(), return_inverse=True)
    # torch numbers values in ascending order; the published parameters are in order of first occurrence
    first = torch.full((int(numbers.max()) + 1,), side**4).scatter_reduce(0, numbers, torch.arange(side**4), "amin")
    rank = first.argsort().argsort()
    return rank[numbers].view(side, side, side, side)


def parameters(side: int, kind: KernelType) -> int:
    """How many parameters a 4-D kernel has: 55 for psi, 15 for iso, 625 without sharing, at side 5."""
    return int(groups(side, kind).max()) + 1


def kernel4d(parameter: Float[Tensor, " groups"], side: int, kind: KernelType) -> Float[Tensor, "side side side side"]:
    """The kernel: each position is its group's parameter divided by the size of the group."""
    index = groups(side, kind).to(parameter.device)
    sizes = torch.bincount(index.flatten()).to(parameter)
    return (parameter / sizes)[index]


def kernel6d(parameter_sets: list[Tensor], side: int, kind: KernelType) -> Float[Tensor, "3 3 side side side side"]:
    """The kernel over pairs of scales: each set of scale offsets has its 4-D kernel, divided by the size of the set."""
    by_offset: list[Tensor | None] = [None] * 9
    for offsets, parameter in zip(SCALE_SETS[kind], parameter_sets, strict=True):
        kernel = kernel4d(parameter, side, kind) / len(offsets)
        for offset in offsets:
            by_offset[offset] = kernel
    stacked = torch.stack([kernel for kernel in by_offset if kernel is not None])
    return stacked.view(3, 3, side, side, side, side)
