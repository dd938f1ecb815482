"""Features that stay in their files: a training holds places of windows, and reads the snippets of a window when it is needed."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from vision_models.actions.features import Features, Source, array_name, read_features


@dataclass(frozen=True)
class Layout:
    """Where the rows of an array stand in a file.

    Attributes:
        offset: bytes before the first row.
        kind: of its numbers.
    """

    offset: int
    kind: np.dtype[Any]


@dataclass(frozen=True)
class StoredFeatures:
    """The features of one video in their file: has a length and a shape, and reads what it is sliced by.

    Attributes:
        name: of the video.
        source: where they stand.
        shape: (snippets, channels).
        layout: of the rows, which are then read alone; None (text, HDF5, compressed, transposed): the file is read whole for each slice.
    """

    name: str
    source: Source
    shape: tuple[int, int]
    layout: Layout | None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Snippets (count, channels), as a slice of an array gives them.

        Raises:
            UserError: the file is no longer what it was.
        """
        first, last, _ = rows.indices(self.shape[0])
        channels = self.shape[1]
        if self.layout is None:
            values = read_features(self.name, self.source, channels=channels).values
            if len(values) != len(self):
                raise self._changed()
            return values[first:last]
        offset = self.layout.offset + first * channels * self.layout.kind.itemsize
        count = max(0, last - first) * channels
        try:
            numbers = np.fromfile(self.source.path, self.layout.kind, count, offset=offset)
        except OSError:
            raise self._changed() from None
        if numbers.size != count:
            raise self._changed()
        return numbers.reshape(-1, channels).astype(np.float32, copy=False)

    def _changed(self) -> UserError:
        return UserError(
            f"{self.source.path}: features of {self.name} were changed while they were in use", "start again"
        )


def keep_stored(name: str, source: Source, features: Features) -> StoredFeatures:
    """What stands for features that were read and found usable, without their values."""
    snippets, channels = features.values.shape
    return StoredFeatures(name, source, (snippets, channels), _layout_of(source.path, (snippets, channels)))


def _layout_of(path: Path, shape: tuple[int, int]) -> Layout | None:
    ending = path.suffix.lower()
    if ending == ".npy":
        with path.open("rb") as file:
            return _rows_behind_header(file, shape)
    if ending != ".npz":
        return None
    with zipfile.ZipFile(path) as archive:
        name = array_name([entry.removesuffix(".npy") for entry in archive.namelist()])
        entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        # the lengths of name and extra field stand in the entry's own header, 30 bytes before them
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(int(lengths.sum()), 1)
        return _rows_behind_header(file, shape)


def _rows_behind_header(file: BinaryIO, shape: tuple[int, int]) -> Layout | None:
    """The layout of an array whose .npy header begins here; None where its rows do not stand one behind the other."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        return None
    read_header = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read_header = np.lib.format.read_array_header_2_0
    stated, transposed, kind = read_header(file)
    sides = tuple(side for side in stated if side != 1)
    if transposed or sides != tuple(side for side in shape if side != 1):
        return None
    return Layout(file.tell(), kind)
