"""From a volume to what a network takes, and where its slices and windows lie: recorded in every model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_segmentation.volumes.geometry import Reorientation
from medical_segmentation.volumes.volume import Volume

Scheme = Literal["window", "zscore", "range"]
AXES = "RAS"  # every network sees the body in these


@dataclass(frozen=True)
class Preparation:
    """What is done to a volume before the network.

    Attributes:
        scheme: "window": clip to [low, high] and scale to 0…1 (CT); "zscore": mean 0, deviation 1 over what is not 0 (MR);
            "range": from the volume's least and greatest value to 0…1 (pictures).
        low, high: of the window.
        spacing: millimetres that the network sees along right, anterior, superior; 0 leaves an axis as it is.
        axis: along which slices are taken: 0 sagittal, 1 coronal, 2 axial; ignored in three dimensions.
        dims: 2 or 3.
        slices: neighbouring slices that enter as channels (2.5-D).
        window: sides of what the network saw in training: two numbers or three.
    """

    scheme: Scheme = "range"
    low: float = 0.0
    high: float = 1.0
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: int = 2
    dims: int = 2
    slices: int = 1
    window: tuple[int, ...] = (256, 256)

    def plain(self) -> dict[str, Any]:
        """For config.json."""
        return asdict(self)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Preparation:
        """From config.json."""
        values = dict(described)
        for name in ("spacing", "window"):
            values[name] = tuple(values[name])
        return cls(**values)

    def intensities(self, array: NDArray) -> NDArray[np.float32]:
        """Values as the network takes them; channels are treated one by one."""
        values = array.astype(np.float32)
        if self.scheme == "window":
            return np.clip((values - self.low) / max(self.high - self.low, 1e-6), 0, 1)
        if values.ndim == 4:
            return np.stack([self._by_content(values[..., c]) for c in range(values.shape[3])], -1)
        return self._by_content(values)

    def _by_content(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.scheme == "range":
            low, high = float(values.min()), float(values.max())
            return (values - low) / max(high - low, 1e-6)
        body = values[values != 0]
        if not body.size:
            return values
        return (values - body.mean(dtype=np.float64)) / max(float(body.std(dtype=np.float64)), 1e-6)

    def grid(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int, int]:
        """Voxels that the network sees of a volume with these voxels (RAS)."""
        sides = []
        for side, own, wanted in zip(shape, spacing, self.spacing, strict=True):
            sides.append(side if wanted <= 0 else max(1, round(side * own / wanted)))
        if self.dims == 2:
            sides[self.axis] = shape[self.axis]  # slices are taken as they are
        return sides[0], sides[1], sides[2]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume as the network sees it.

    Attributes:
        image: (channels, first, second, depth): in 2-D the slicing axis is the last.
        turn: from the file's axes to RAS.
        shape: of the RAS array before resampling.
        order: axes of RAS in the order of `image`.
    """

    image: NDArray[np.float32]
    turn: Reorientation
    shape: tuple[int, int, int]
    order: tuple[int, int, int]


def slice_order(axis: int) -> tuple[int, int, int]:
    """The axes of RAS with the slicing axis last."""
    rest = [each for each in range(3) if each != axis]
    return rest[0], rest[1], axis


def prepare(volume: Volume, preparation: Preparation) -> Prepared:
    """Turns, scales and resamples a volume."""
    turn = Reorientation.between(volume.geometry, AXES)
    values = preparation.intensities(turn.apply(volume.array))
    if values.ndim == 3:
        values = values[..., None]
    shape = (values.shape[0], values.shape[1], values.shape[2])
    target = preparation.grid(shape, turn.spacing(volume.geometry))
    order = slice_order(preparation.axis if preparation.dims == 2 else 2)
    image = values.transpose(3, *order)
    size = (target[order[0]], target[order[1]], target[order[2]])
    return Prepared(resample(image, size), turn, shape, order)


def prepare_labels(labels: NDArray[np.uint8], prepared: Prepared) -> NDArray[np.uint8]:
    """Labels on the grid of a prepared volume, nearest neighbour."""
    turned = prepared.turn.apply(labels).transpose(*prepared.order)
    size = prepared.image.shape[1:]
    if turned.shape == size:
        return np.ascontiguousarray(turned)
    index = []
    for side, wanted in zip(turned.shape, size, strict=True):
        index.append(np.minimum(((np.arange(wanted) + 0.5) * side / wanted).astype(int), side - 1))
    return np.ascontiguousarray(turned[np.ix_(*index)])


def resample(image: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Linear resampling of (channels, a, b, c) to other sides, voxel edges aligned, averaging where it shrinks."""
    if tuple(image.shape[1:]) == tuple(size):
        return np.ascontiguousarray(image)
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(image))
    # plane by plane, so that slices of a 2-D model never mix and memory stays small
    depth, wanted = tensor.shape[3], int(size[2])
    planes = tensor.permute(3, 0, 1, 2)
    if planes.shape[2:] != tuple(size[:2]):
        planes = F.interpolate(planes, size=tuple(size[:2]), mode="bilinear", align_corners=False, antialias=True)
    if depth != wanted:
        flat = planes.permute(1, 2, 3, 0).reshape(1, -1, 1, depth)
        flat = F.interpolate(flat, size=(1, wanted), mode="bilinear", align_corners=False, antialias=True)
        return np.ascontiguousarray(flat.reshape(tensor.shape[0], *planes.shape[2:], wanted).numpy())
    return np.ascontiguousarray(planes.permute(1, 2, 3, 0).numpy())


def with_neighbours(image: NDArray[np.float32], k: int, slices: int) -> NDArray[np.float32]:
    """Slice k and its neighbours as channels, the border slice repeated: (channels · slices, first, second)."""
    half = slices // 2
    depth = image.shape[3]
    places = [min(max(k + step, 0), depth - 1) for step in range(-half, half + 1)]
    return np.concatenate([image[..., place] for place in places], 0)
