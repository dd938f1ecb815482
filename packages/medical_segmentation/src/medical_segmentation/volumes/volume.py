"""A volume as every reader gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, counted
from core_runtime.options import AtLeast, Names, Numbers, options
from medical_segmentation.volumes.geometry import Geometry


@options
class ReadingOptions:
    """How files are read.

    Attributes:
        series: which of several DICOM series in a folder: its number in the message, or its UID.
        channel: which volume of a 4-D file, counted from 0; default: all, as channels.
        spacing: millimetres between voxels along x, y and z, for files that do not say it: 0.8,0.8,5.
        map: values in label files that mean other ones: 255=1,63=2.
        fill: value in place of voxels that are NaN or infinite; default: such a volume is refused.
    """

    series: str | None = None
    channel: Annotated[int | None, AtLeast(0)] = None
    spacing: Numbers | None = None
    map: Names | None = None
    fill: float | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise UserError(
                f"--spacing {','.join(map(str, self.spacing))}: three lengths in mm are needed", "0.8,0.8,5"
            )
        _ = self.mapping  # a mistake in it shows at once

    @property
    def mapping(self) -> dict[int, int]:
        """Values → values of ``--map``.

        Raises:
            UserError: it is not understood.
        """
        try:
            return {int(value): int(target) for value, _, target in (pair.partition("=") for pair in self.map or ())}
        except ValueError:
            raise UserError(f"--map {','.join(self.map or ())} is not understood", "write --map 255=1,63=2") from None


@dataclass(eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: (x, y, z), or (x, y, z, channels).
        geometry: of the three axes.
        kind: the format, in words.
        files: that it was read from; of a DICOM series in the order of its slices.
        modality: "CT", "MR" …; "" where the format does not say.
        warnings: what the user should know.
        header: what a writer of the same format copies (a NIfTI header).
        frames: of a DICOM series, the file and frame of each slice, in order.
        facts: further properties for `inspect`.
    """

    array: NDArray
    geometry: Geometry
    kind: str
    files: Sequence[Path]
    modality: str = ""
    warnings: list[str] = field(default_factory=list)
    header: Any = None
    frames: Sequence[tuple[Path, int]] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """1 for a plain volume."""
        return self.array.shape[3] if self.array.ndim == 4 else 1

    @property
    def name(self) -> Path:
        """The file, or the folder of a series."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent


def finish(volume: Volume, options: ReadingOptions, where: object) -> Volume:
    """Chooses the channel and deals with voxels that are not finite, as every format needs.

    Raises:
        UserError: no such channel, voxels that are NaN or infinite (without ``--fill``), or no voxel at all.
    """
    array = volume.array
    if 0 in array.shape:
        raise UserError(f"{where} holds no voxels ({' × '.join(map(str, array.shape))})")
    if array.dtype.kind not in "biuf":
        what = "colours" if array.dtype.names else f"{array.dtype} values"
        raise UserError(f"{where} holds {what}: a volume has one real number per voxel", "convert it to such numbers")
    if options.channel is not None:
        if array.ndim != 4 or options.channel >= array.shape[3]:
            raise UserError(
                f"{where} has {counted(volume.channels, 'channel')}: there is no --channel {options.channel}"
            )
        volume.array = array = array[..., options.channel]
    if array.dtype.kind == "f":
        count = int(array.size - np.isfinite(array).sum())
        if count:
            volume.facts["voxels that are not finite"] = count
            if options.fill is None:
                volume.facts["not finite"] = f"{count:,} of {array.size:,} voxels are NaN or infinite"
            else:
                volume.array = np.where(np.isfinite(array), array, np.asarray(options.fill, dtype=array.dtype))
                volume.warnings.append(f"{count:,} voxels that are not finite became {options.fill:g}")
    return volume


def require_image(volume: Volume, where: object) -> Volume:
    """The volume as an image that a network can take.

    Raises:
        UserError: voxels that are not finite, or the same value everywhere.
    """
    if "not finite" in volume.facts:
        raise UserError(f"{where}: {volume.facts['not finite']}", "--fill 0 (or -1024 for CT) gives them a value")
    low, high = volume.array.min(), volume.array.max()
    if low == high:
        raise UserError(f"{where}: every voxel is {low:g}; nothing can be found in it", "look at how it was exported")
    return volume


def require_single(volume: Volume, where: object) -> Volume:
    """The volume where three axes are needed.

    Raises:
        UserError: it is 4-D.
    """
    if volume.array.ndim == 4:
        raise UserError(
            f"{where} is 4-D ({volume.channels} volumes), one volume is needed",
            f"--channel 0 … {volume.channels - 1} chooses one",
        )
    return volume
