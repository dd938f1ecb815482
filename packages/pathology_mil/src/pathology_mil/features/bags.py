"""Bags of features: one slide's (N, F) matrix with its coordinates, read lazily from every layout in use.

Layouts, recognised by their content: CLAM (`features` and `coords` in `h5_files/`, a bare tensor in `pt_files/`), TRIDENT (the same keys, attributes
on `coords`), ACMIL (one file, a group per slide with `feat`, `coords`, attribute `label`), Slideflow (`.pt` beside `.index.npz`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from pathology_mil.slides.tiles import level0_side, open_h5, plain_attributes, read_coords

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("features", "feat")
# Attributes that must agree between slides, and their names in messages.
_PREPARATION = {
    "encoder": "encoder",
    "weights": "weights of the encoder",
    "patch_size": "patch size",
    "target_magnification": "magnification",
    "target_mpp": "resolution (µm per pixel)",
}
# Folders of CLAM and TRIDENT that hold .h5 files, but no features.
_OTHER_FOLDERS = {"patches", "masks", "stitches", "thumbnails", "contours", "contours_geojson", "visualization"}


class LazyFeatures:
    """A feature matrix that stays on disk: `shape`, `dtype`, `x[a:b]`, `numpy.asarray(x)`. Holds no open file, so it can be sent to workers.

    Args:
        path: the file.
        key: the dataset inside an HDF5 file; None for a `.pt` file.
    """

    def __init__(self, path: Path, key: str | None) -> None:
        self.path, self.key = path, key
        if key is None:
            tensor = self._tensor()
            shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            if dtype == "bfloat16":  # numpy has none
                dtype = "float32"
        else:
            with open_h5(path) as file:
                data = file[key]
                if not isinstance(data, h5py.Dataset):
                    raise UserError(f"{path.name}: {key} is not a dataset in this HDF5 file")
                shape, dtype = data.shape, data.dtype
        self._leading = len(shape) == 3 and shape[0] == 1  # some older files hold (1, N, F)
        self.shape: tuple[int, ...] = tuple(shape[1:] if self._leading else shape)
        self.dtype = np.dtype(dtype)
        if len(self.shape) != 2:
            raise UserError(f"{path.name}: features of shape {shape} are not one row per tile")
        if self.dtype.kind not in "fiu":
            raise UserError(f"{path.name}: features of type {dtype} are not numbers")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray:
        if self.key is None:
            tensor = self._tensor()[rows]
            if self._bfloat16:
                tensor = tensor.float()
            return tensor.numpy()
        with open_h5(self.path) as file:
            data: Any = file[self.key]
            # A leading axis of length 1 is dropped on reading.
            if isinstance(rows, (slice, int, np.integer)):
                if self._leading:
                    return data[0, rows]
                return data[rows]
            # h5py takes only sorted index lists without repeats: the rest is done in memory.
            whole = data[0] if self._leading else data[:]
            return whole[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype=dtype)

    def _tensor(self) -> Any:
        tensor = _load_pt(self.path)
        self._bfloat16 = str(tensor.dtype) == "torch.bfloat16"
        if tensor.ndim == 3 and tensor.shape[0] == 1:
            return tensor[0]
        return tensor


@dataclass(frozen=True)
class Bag:
    """One slide's features.

    Attributes:
        slide_id: name of the slide file without extension.
        features: (N, F), on disk until indexed: `bag.features[a:b]`, `numpy.asarray(bag.features)`. N may be 0.
        coords: (N, 2) top left corners in level-0 pixels; None where the layout has none.
        side: side of a tile in level-0 pixels (TRIDENT calls it patch_size_level0); None where it is unknown.
        label: the class number, where the layout has one (ACMIL).
        encoder: name of the encoder, where the file states it.
        attributes: what else the file states.
        notes: what a user should know about how this was read.
    """

    slide_id: str
    features: LazyFeatures
    coords: NDArray[np.int64] | None
    side: int | None
    label: int | None = None
    encoder: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def preparation(self) -> dict[str, str]:
        """How the features were made, as far as the file states it: it must be the same for every slide that a model sees."""
        recorded: dict[str, Any] = {"encoder": self.encoder, "weights": _weights(self.attributes.get("made_by"))}
        for name in ("patch_size", "target_magnification", "target_mpp", "overlap"):
            recorded[name] = self.attributes.get(name)
        return {name: _as_text(value) for name, value in recorded.items() if value is not None}


def _weights(made_by: Any) -> str | None:
    """The digest of the encoder's weights, as `encode` records it."""
    try:
        return json.loads(made_by)["weights"]
    except (TypeError, ValueError, KeyError):
        return None


def _as_text(value: Any) -> str:
    """Values are compared as text: 20, 20.0 and "20" are the same."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


@dataclass(frozen=True)
class BagFile:
    """Where a bag is stored: a file, or a group in one."""

    slide_id: str
    path: Path
    group: str | None = None

    def open(self) -> Bag:
        return open_bag(self.path, self.group)


def open_bag(path: Path | str, slide_id: str | None = None) -> Bag:
    """Opens one bag, whatever its layout.

    Args:
        path: an HDF5 or `.pt` file.
        slide_id: the slide, in a file that holds many.

    Raises:
        UserError: absent, damaged, of unknown content, different numbers of features and coordinates, or a file of many slides
            without a choice.
    """
    path = Path(path)
    if path.suffix == ".pt":
        return _open_pt(path)
    with open_h5(path) as file:
        root: Any = file
        # An ACMIL file holds a group per slide; the others hold one slide at their root.
        if slide_id is not None and slide_id in file and isinstance(file[slide_id], h5py.Group):
            root = file[slide_id]
        elif not any(name in file for name in _NAMES):
            groups = [name for name, entry in file.items() if isinstance(entry, h5py.Group)]
            if slide_id is not None and groups:
                raise UserError(f"{path.name} holds no slide {slide_id!r}")
            if len(groups) > 1:
                raise UserError(f"{path.name} holds {len(groups)} slides: name one of them")
            if len(groups) == 1:
                root, slide_id = file[groups[0]], groups[0]
        name = next((name for name in _NAMES if name in root), None)
        if name is None:
            kind = f"neither {' nor '.join(_NAMES)}"
            if "coords" in root:
                kind = "coordinates but no features"
            raise UserError(f"{path.name}: {kind} in this HDF5 file", "features are made by: pathology-mil encode")
        coords = None
        if "coords" in root:
            coords = read_coords(root, path.name)
        attributes = plain_attributes(root.attrs) | plain_attributes(root[name].attrs)
        if coords is not None:
            attributes |= plain_attributes(root["coords"].attrs)
        key = f"{root.name}/{name}"
        in_group = root.name != "/"
    features = LazyFeatures(path, key)
    return _bag(path, features, coords, attributes, slide_id if in_group else None)


def _bag(
    path: Path, features: LazyFeatures, coords: NDArray | None, attributes: dict[str, Any], slide_id: str | None
) -> Bag:
    if coords is not None and len(coords) != len(features):
        raise UserError(f"{path.name}: {len(features)} rows of features but {len(coords)} coordinates")
    side, notes = None, []
    if coords is not None:
        side, notes = level0_side(attributes, coords, path.name)
    label = _class_number(attributes.get("label"), path.name)
    encoder = attributes.get("encoder")
    if encoder is not None:
        encoder = str(encoder)
    return Bag(slide_id or path.stem, features, coords, side, label, encoder, attributes, notes)


def _class_number(label: Any, where: str) -> int | None:
    """The attribute `label` of an ACMIL file.

    Raises:
        UserError: it is not a class number.
    """
    if label is None:
        return None
    try:
        return int(label)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: the attribute label is {label!r}, expected a class number") from None


def _open_pt(path: Path) -> Bag:
    """A bare tensor, with the coordinates that Slideflow or CLAM store beside it."""
    features = LazyFeatures(path, None)
    slideflow_index = path.with_suffix(".index.npz")
    clam_file = path.parent.parent / "h5_files" / f"{path.stem}.h5"
    coords: NDArray | None = None
    attributes: dict[str, Any] = {}
    if slideflow_index.is_file():
        with np.load(slideflow_index, allow_pickle=False) as file:
            coords = file["arr_0"].astype(np.int64)
    elif path.parent.name == "pt_files" and clam_file.is_file():
        with open_h5(clam_file) as file:
            data = file.get("coords")
            if isinstance(data, h5py.Dataset):
                coords, attributes = read_coords(file, clam_file.name), plain_attributes(data.attrs)
    return _bag(path, features, coords, attributes, None)


def _load_pt(path: Path) -> Any:
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        # memory-mapped, which only torch's newer ZIP format can be: a lookup of the shape need not read gigabytes
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # truncated archives and forbidden classes raise half a dozen kinds
        raise UserError(
            f"{path.name}: damaged, or not a plain tensor (files that would run code are refused)"
        ) from error
    if isinstance(content, dict):
        content = next((content[name] for name in _NAMES if name in content), None)
    if not isinstance(content, torch.Tensor):
        raise UserError(f"{path.name}: neither a tensor nor a dictionary with 'features'")
    return content


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def read_features(features: LazyFeatures, name: str) -> "Tensor":
    """All rows of a bag in the file's own precision (at most float32), as a torch tensor.

    Raises:
        UserError: values that are not finite.
    """
    import torch

    matrix = np.asarray(features)
    if matrix.dtype.kind != "f" or matrix.dtype.itemsize > 4:
        matrix = matrix.astype(np.float32)  # no model computes in float64
    rows = torch.from_numpy(np.ascontiguousarray(matrix))
    finite = torch.isfinite(rows).all(dim=1)
    if not finite.all():  # one NaN would make the whole slide's prediction NaN
        bad = int((~finite).sum())
        raise UserError(f"{name}: {bad} of {len(rows)} feature rows hold NaN or infinity", "encode this slide again")
    return rows


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The differences of two preparations, in words; values that one of them does not state are passed over."""
    words = []
    for key, name in _PREPARATION.items():
        one, other = first.get(key), second.get(key)
        if one is not None and other is not None and _as_text(one) != _as_text(other):
            words.append(f"{name} {_as_text(one)} and {_as_text(other)}")
    return words


def find_bags(path: Path | str) -> dict[str, BagFile]:
    """The bags that a path names, by slide id, sorted: one file, an ACMIL file of many slides, or a folder of files (any depth).

    Raises:
        UserError: no such path, or a folder that holds several sets of features of the same slides.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return {bag.slide_id: bag for bag in _in_file(path)}
    bags: dict[str, BagFile] = {}
    files = [file for file in path.rglob("*") if _may_hold_features(file, path)]
    # CLAM stores every slide twice: the HDF5 file comes first, since it has the coordinates.
    files.sort(key=lambda file: (file.suffix == ".pt", file))
    for file in files:
        for bag in _in_file(file):
            before = bags.get(bag.slide_id)
            if before is None:
                bags[bag.slide_id] = bag
            elif before.path.parent.parent != file.parent.parent or file.parent.name != "pt_files":
                raise UserError(
                    f"{path} holds several sets of features of {bag.slide_id!r}: {before.path.parent} and {file.parent}",
                    "name the folder of one of them",
                )
    if not bags:
        raise UserError(
            f"{path}: no feature files (.h5, .pt) in this folder or below it",
            "features are made by: pathology-mil encode",
        )
    return dict(sorted(bags.items()))


def _may_hold_features(file: Path, root: Path) -> bool:
    """Whether a file below `root` has a name of feature files, and is not in a folder of tiles, pictures or whole-slide features."""
    if file.suffix not in (".h5", ".hdf5", ".pt") or file.name.startswith("."):
        return False
    folders = file.relative_to(root).parts[:-1]
    return not any(folder in _OTHER_FOLDERS or folder.startswith("slide_features_") for folder in folders)


def _in_file(path: Path) -> Iterable[BagFile]:
    """The bags of one file: itself, or its groups."""
    whole = [BagFile(path.stem, path)]
    if path.suffix == ".pt":
        return whole
    try:
        with open_h5(path) as file:
            if any(name in file for name in (*_NAMES, "coords")):
                return whole
            groups = [name for name, entry in file.items() if isinstance(entry, h5py.Group)]
            return [BagFile(name, path, name) for name in groups] or whole
    except UserError:
        return whole  # damaged: listed here, named when it is opened, so that the rest of a folder goes on


def write_acmil(path: Path, bags: Iterable[tuple[Bag, int | None]]) -> None:
    """Writes bags and their class numbers as one file in ACMIL's layout: a group per slide with `feat` (float16), `coords`, attribute `label`."""
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        for bag, label in bags:
            group = file.create_group(bag.slide_id)
            group.create_dataset("feat", data=np.asarray(bag.features, np.float16))
            if bag.coords is not None:
                group.create_dataset("coords", data=bag.coords)
            attributes = {"label": label, "patch_size_level0": bag.side, "encoder": bag.encoder}
            for name, value in attributes.items():
                if value is not None:
                    group.attrs[name] = value
