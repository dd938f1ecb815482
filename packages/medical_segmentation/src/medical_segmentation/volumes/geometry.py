"""Where voxels lie: one affine from array indices to millimetres, right-anterior-superior (RAS+), for every format.

ITK and DICOM count towards left and posterior (LPS): the first two coordinates change sign on the way in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS to RAS and back
SHEAR = 0.5  # degrees off a right angle from which axes count as sheared
OBLIQUE = 0.5  # degrees between an axis of the array and the nearest axis of the body
PLAUSIBLE = (0.01, 50.0)  # millimetres of a voxel's side
FAR = 1e5  # millimetres from the origin, where single precision no longer tells slices apart
ITK_SHEAR = 1e-4  # deviation from orthonormal that ITK refuses


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape and place of a volume.

    Attributes:
        shape: voxels along the three axes of the array.
        affine: 4×4, index → millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbouring voxels along each axis of the array."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @cached_property
    def axes(self) -> str:
        """Towards which side of the body each axis runs: "RAS", "LPS" …, the nearest one."""
        import nibabel as nib

        return "".join(str(code) for code in nib.orientations.aff2axcodes(self.affine))

    @cached_property
    def left_handed(self) -> bool:
        """Whether the axes form a left-handed system, as in LAS."""
        return bool(np.linalg.det(self.affine[:3, :3]) < 0)

    @cached_property
    def obliqueness(self) -> float:
        """Degrees between an axis of the array and the nearest axis of the body; the largest of the three."""
        directions = np.abs(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0))
        return float(np.degrees(np.arccos(np.clip(directions.max(0), 0, 1))).max())

    @cached_property
    def shear(self) -> float:
        """Degrees that the most skewed pair of axes is off a right angle."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        products = directions.T @ directions
        off = np.abs(products[np.triu_indices(3, 1)])
        return float(np.degrees(np.arcsin(np.clip(off, 0, 1))).max())

    def same_as(self, other: Geometry, *, tolerance: float = 1e-3) -> bool:
        """Whether two volumes share shape and place: corners within `tolerance` of the smallest voxel side (at least 1 µm)."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, side - 1) for side in self.shape], indexing="ij")).reshape(3, -1)
        corners = np.concatenate([corners, np.ones((1, corners.shape[1]))])
        apart = np.abs((self.affine - other.affine) @ corners)[:3].max()
        return bool(apart <= max(tolerance * min(self.spacing), 1e-3))

    def difference(self, other: Geometry) -> str:
        """What differs from another geometry, in words."""
        if self.shape != other.shape:
            return f"{_times(self.shape)} voxels beside {_times(other.shape)}"
        if self.axes != other.axes:
            return f"axes {self.axes} beside {other.axes}"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return f"spacing {_millimetres(self.spacing)} beside {_millimetres(other.spacing)}"
        shift = np.linalg.norm(self.affine[:3, 3] - other.affine[:3, 3])
        return f"a place {shift:.2f} mm away, or another tilt"

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "shape": list(self.shape),
            "spacing_mm": [round(each, 6) for each in self.spacing],
            "axes": self.axes,
            "oblique_degrees": round(self.obliqueness, 3),
            "sheared_degrees": round(self.shear, 3),
            "affine": self.affine.tolist(),
        }


def check_affine(affine: NDArray, where: object) -> NDArray[np.float64]:
    """The affine.

    Raises:
        UserError: it holds NaN or infinities, or is singular (an axis has no length, or lies in the plane of the others).
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise UserError(
            f"{where}: its affine holds values that are not finite", "convert the volume again from its source"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 1e-6 or abs(np.linalg.det(affine[:3, :3] / np.maximum(lengths, 1e-12))) < 1e-3:
        raise UserError(
            f"{where}: its affine is singular (axes of {_millimetres(lengths.tolist())})",
            "convert the volume again from its source; no place can be given to its voxels",
        )
    return affine


def warnings_of(geometry: Geometry) -> list[str]:
    """What a user should know of a geometry."""
    warnings = []
    if geometry.shear > SHEAR:
        warnings.append(
            f"its axes are sheared by {geometry.shear:.1f}°: kept exactly here, but ITK's readers refuse such a NIfTI"
        )
    elif _off_orthonormal(geometry) > ITK_SHEAR:
        warnings.append("its axes are not exactly at right angles: ITK's readers may refuse it")
    if min(geometry.spacing) < PLAUSIBLE[0] or max(geometry.spacing) > PLAUSIBLE[1]:
        warnings.append(f"voxels of {_millimetres(geometry.spacing)} are hardly those of a body: is its unit right?")
    if np.abs(geometry.affine[:3, 3]).max() > FAR:
        warnings.append(
            f"it lies {np.abs(geometry.affine[:3, 3]).max() / 1000:.3g} m from the origin of its coordinates"
        )
    ratio = max(geometry.spacing) / min(geometry.spacing)
    if ratio > 8:
        warnings.append(f"voxels are {ratio:.0f} times longer than wide: a 2-D or 2.5-D model suits such slices")
    return warnings


def _off_orthonormal(geometry: Geometry) -> float:
    directions = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


@dataclass(frozen=True)
class Reorientation:
    """Permutation and flips that bring an array to given axes; exact, and exactly inverted.

    Attributes:
        order: source axis of each target axis.
        flips: whether that axis is then reversed.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def between(cls, geometry: Geometry, axes: str) -> Reorientation:
        """From a geometry to the axes "RAS", "LPS" …"""
        import nibabel as nib

        start = nib.orientations.io_orientation(geometry.affine)
        change = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
        order = [0, 0, 0]
        flips = [False, False, False]
        for source, (target, direction) in enumerate(change):
            order[int(target)] = source
            flips[int(target)] = direction < 0
        return cls((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    def apply(self, array: NDArray) -> NDArray:
        """A view with the new axes; further axes stay behind."""
        rest = tuple(range(3, array.ndim))
        turned = array.transpose(*self.order, *rest)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def invert(self, array: NDArray) -> NDArray:
        """A view with the old axes."""
        rest = tuple(range(3, array.ndim))
        turned = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return turned.transpose(*np.argsort(self.order).tolist(), *rest)

    def spacing(self, geometry: Geometry) -> tuple[float, float, float]:
        """The spacing along the new axes."""
        x, y, z = (geometry.spacing[axis] for axis in self.order)
        return x, y, z


def _times(values: Sequence[int]) -> str:
    return " × ".join(str(value) for value in values)


def _millimetres(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values) + " mm"


def in_words(geometry: Geometry) -> str:
    """Shape and spacing for people."""
    return f"{_times(geometry.shape)} voxels of {_millimetres(geometry.spacing)}, axes {geometry.axes}"
