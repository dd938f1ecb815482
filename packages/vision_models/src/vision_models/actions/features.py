"""Snippet features in files: one array (snippets, channels) for each video, as the field's tools write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.arrays import DAMAGED
from core_runtime.errors import UserError, clean, counted, few, shorten
from core_runtime.folders import leave_out_broken_links, writing
from core_runtime.options import Above, options
from vision_models.actions.annotations import plain_name

KINDS = "files VIDEO.npy, VIDEO.npz or VIDEO.csv (snippets × channels), or an HDF5 file with a data set for each video"
_ENDINGS = (".npy", ".npz", ".csv", ".h5", ".hdf5")
_NAMES = ("features", "feats", "feature", "x", "arr_0")  # of the array in an .npz or a group of HDF5
BESIDE = ("annotations.csv", "metrics.csv")  # tables that lie among features: the annotations, and a run's
MOST = 50_000_000  # numbers of one video: beyond it a file is a mistake


@options
class FeatureOptions:
    """How features lie in time.

    Attributes:
        snippet_seconds: seconds from one snippet to the next; default: as the files state, else the video's length over its snippets.
    """

    snippet_seconds: Annotated[float, Above(0)] | None = None


@dataclass(frozen=True)
class Source:
    """Where the features of one video stand.

    Attributes:
        path: the file.
        dataset: name inside an HDF5 file; "" elsewhere.
    """

    path: Path
    dataset: str = ""


@dataclass(frozen=True)
class Features:
    """The features of one video.

    Attributes:
        values: (snippets, channels), finite.
        step: seconds from one snippet to the next; None where the file does not state it.
        seconds: length of the video; None where the file does not state it.
        backbone: what made them, where the file says so.
    """

    values: NDArray[np.float32]
    step: float | None = None
    seconds: float | None = None
    backbone: str = ""


def find_features(path: Path) -> dict[str, Source]:
    """Video → where its features stand.

    Raises:
        UserError: there are none, or two files are about one video.
    """
    if not path.exists():
        raise UserError(f"no such file or folder: {path}", f"features are {KINDS}")
    files = [path]
    if path.is_dir():
        listed = sorted(file for file in path.iterdir() if file.suffix.lower() in _ENDINGS)
        files = [file for file in leave_out_broken_links(path, listed) if not file.name.startswith(".")]
        if (path / "features").is_dir() and not any(file.suffix != ".csv" for file in files):
            return find_features(path / "features")
        files = [file for file in files if file.name not in BESIDE]
    sources: dict[str, Source] = {}
    for file in files:
        for name, source in _sources(file):
            if name in sources:
                raise UserError(
                    f"two files hold features of {name!r}: {sources[name].path.name} and {file.name}",
                    "keep one of them",
                )
            sources[name] = source
    if not sources:
        raise UserError(f"{path} holds no features", f"features are {KINDS}")
    return sources


def _sources(file: Path) -> Iterator[tuple[str, Source]]:
    if file.suffix.lower() not in (".h5", ".hdf5"):
        if file.suffix.lower() in _ENDINGS:
            yield plain_name(file.name), Source(file)
        return
    with _hdf5(file) as content:
        import h5py

        names = sorted(content)
        if names and all(name in _NAMES for name in names):  # a file for one video
            yield plain_name(file.name), Source(file, names[0])
            return
        for name in names:
            entry = content[name]
            if isinstance(entry, h5py.Group):
                inner = [key for key in _NAMES if key in entry] or sorted(entry)[:1]
                yield plain_name(name), Source(file, f"{name}/{inner[0]}")
            else:
                yield plain_name(name), Source(file, name)


def _hdf5(file: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"{file}: reading HDF5 needs h5py, which is not installed",
            "pip install 'attention-suite-vision-models[actions]' (or pip install h5py)",
        ) from None
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise UserError(f"{file} is not an HDF5 file: {str(error)[:80]}", f"features are {KINDS}") from None


def read_features(name: str, source: Source, *, channels: int | None = None) -> Features:
    """The features of one video.

    Args:
        name: of the video, for messages.
        channels: that they must have.

    Raises:
        UserError: damaged, of zero length, of other width, or with values that are not finite; each is named.
    """
    try:
        values, facts = _read(source)
    except DAMAGED as error:
        raise UserError(
            f"{source.path}: features of {name} cannot be read: {shorten(clean(str(error)), 100)}", KINDS
        ) from None
    for fact in ("step", "seconds"):
        stated = facts.get(fact)
        if stated is not None and not (np.isfinite(stated) and stated > 0):
            raise UserError(
                f"{source.path}: {fact} of {name} is {stated:g}",
                "step (seconds of a snippet) and seconds (of the video) are above 0; extract the features again",
            )
    if values.ndim == 3 and 1 in values.shape:  # some tools keep an axis of one
        values = values.reshape([side for side in values.shape if side != 1] or [1, 1])
    if values.ndim != 2:
        raise UserError(
            f"{source.path}: features of {name} are of shape {values.shape}", "expected (snippets, channels)"
        )
    if not values.shape[0] or not values.shape[1]:
        raise UserError(f"{source.path}: features of {name} have no snippet: {values.shape}", "extract them again")
    if values.size > MOST:
        raise UserError(f"{source.path}: features of {name} are of shape {values.shape}: too many", "is it features?")
    if channels is not None and values.shape[1] != channels:
        hint = "features and model must come from one backbone"
        if values.shape[0] == channels:
            hint = "they lie (channels, snippets): transpose them"
        raise UserError(f"{source.path}: features of {name} have {values.shape[1]} channels, expected {channels}", hint)
    unknown = ~np.isfinite(values)
    if unknown.any():
        rows = [str(row) for row in np.flatnonzero(unknown.any(1)).tolist()]
        raise UserError(
            f"{source.path}: features of {name} hold values that are not finite: {int(unknown.sum())}, in "
            f"{counted(len(rows), 'snippet')} of {len(values)} (from 0: {few(rows)})",
            "extract them again, or leave it out",
        )
    return Features(values.astype(np.float32, copy=False), **facts)


def _read(source: Source) -> tuple[NDArray[Any], dict[str, Any]]:
    ending = source.path.suffix.lower()
    facts: dict[str, Any] = {}
    if ending == ".npy":
        values = np.load(source.path, allow_pickle=False)
    elif ending == ".npz":
        with np.load(source.path, allow_pickle=False) as content:
            if not content.files:
                raise ValueError("it holds no array")
            values = content[array_name(content.files)]
            for name in ("step", "seconds"):
                if name in content.files:
                    facts[name] = float(content[name])
            if "backbone" in content.files:
                facts["backbone"] = str(content["backbone"])
    elif ending == ".csv":
        values = _read_csv(source.path)
    else:
        with _hdf5(source.path) as content:
            values = np.asarray(content[source.dataset])
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise ValueError(f"they are of type {values.dtype}, not numbers")
    return values, facts


def array_name(names: Sequence[str]) -> str:
    """Which array of an .npz holds the features: one of the usual names, else the first."""
    for name in _NAMES:
        if name in names:
            return name
    return names[0]


def _read_csv(path: Path) -> NDArray[Any]:
    """Rows are snippets; a first line that is not numbers is a header, as in ActivityNet's files."""
    with path.open(encoding="utf-8") as file:
        first = file.readline().strip()
    try:
        [float(cell) for cell in first.split(",")]
        header = 0
    except ValueError:
        header = 1
    lines = path.read_text(encoding="utf-8").splitlines()[header:]
    if not any(line.strip() for line in lines):
        return np.zeros((0, max(1, first.count(",") + 1)))
    return np.loadtxt(lines, delimiter=",", ndmin=2)


def widths(sources: Mapping[str, Source]) -> int:
    """The number of channels that most files have; the first twenty are looked at.

    Raises:
        UserError: the files differ, or look transposed.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, source in list(sources.items())[:20]:
        shapes[name] = read_features(name, source).values.shape  # type: ignore[assignment]
    columns = {shape[1] for shape in shapes.values()}
    rows = {shape[0] for shape in shapes.values()}
    if len(columns) > 1 and len(rows) == 1 and len(shapes) > 1:
        raise UserError(
            f"features look transposed: every file has {rows.pop()} rows, and columns differ",
            "expected (snippets, channels)",
        )
    if len(columns) > 1:
        examples = [f"{name} {shape[1]}" for name, shape in shapes.items()]
        raise UserError(
            f"features differ in their number of channels: {few(examples)}", "extract all with one backbone"
        )
    return columns.pop()


def length_notes(features: Features) -> list[str]:
    """A stated length of the video that its snippets do not reach or go beyond, as a note with both numbers."""
    if features.step is None or features.seconds is None:
        return []
    covered = features.step * len(features.values)
    # networks that see many frames leave a few snippets out at the end
    if abs(covered - features.seconds) <= max(2 * features.step, 0.05 * features.seconds):
        return []
    return [
        f"it is stated to last {features.seconds:.1f} s, its {len(features.values)} snippets of {features.step:.3g} s "
        f"cover {covered:.1f} s"
    ]


def write_features(path: Path, values: NDArray[Any], *, step: float, seconds: float, backbone: str) -> Path:
    """Writes features as .npz with the times of their snippets and the backbone that made them."""
    with writing(path) as part, part.open("wb") as file:
        np.savez(file, features=values.astype(np.float32), step=step, seconds=seconds, backbone=backbone)
    return path
