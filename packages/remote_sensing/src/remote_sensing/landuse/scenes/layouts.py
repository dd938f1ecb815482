"""The tiles of a EuroSAT download, in every layout in use, and its split lists."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from cyclopts import Parameter

from core_runtime.errors import UserError, few
from core_runtime.options import options
from core_runtime.tables import read_table
from core_runtime.terminal import warn
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB
from remote_sensing.landuse.scenes.formats import PICTURES, RASTERS

# folders below the root that may hold the class folders, with the name of the layout
_MS = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
PLACES: tuple[tuple[str, str], ...] = (
    ("torchvision RGB", "2750"),
    ("torchvision RGB", "eurosat/2750"),
    ("Zenodo RGB", "EuroSAT_RGB"),
    ("Kaggle RGB", "EuroSAT"),
    ("torchgeo multispectral", _MS),
    ("Kaggle multispectral", "EuroSATallBands"),
    ("Zenodo multispectral", "EuroSAT_MS"),
    ("class folders", "."),
)
ARCHIVES = ("EuroSAT.zip", "EuroSAT_RGB.zip", "EuroSATallBands.zip", "EuroSAT_MS.zip")
_LISTS = {"torchgeo": "eurosat-", "spatial": "eurosat-spatial-", "100": "eurosat-100-"}
IMAGES = {".bmp", ".gif", ".jp2", ".webp"}  # which others make tiles of, and are not read here
PARTS = ("train", "val", "test")  # of a split
LFS = b"version https://git-lfs"  # how a Git LFS pointer begins

# Folder or .zip of a download, as verbs take it.
Download = Annotated[Path, Parameter(help="Folder or .zip of a EuroSAT download, in any layout.")]
SplitName = Literal["auto", "csv", "torchgeo", "spatial", "100", "random70", "stratified"]


@options
class TileOptions:
    """Which tiles of a download are used, and how they are split.

    Attributes:
        kind: which tiles, if there are both RGB and 13-band ones.
        split: Kaggle's lists (csv), torchgeo's (torchgeo, spatial, 100), or a random one of 70, 15 and 15 % (random70 as published, stratified).
        cache: folder for decoded tiles; default: your cache folder.
    """

    kind: Literal["auto", "rgb", "ms"] = "auto"
    split: SplitName = "auto"
    cache: Path | None = None


@dataclass(frozen=True)
class TileSet:
    """The labelled tiles of a download.

    Attributes:
        root: the given folder or archive.
        layout: name of its layout.
        base: folder (or path inside the archive) that holds the class folders.
        files: ``Class/name`` below `base`, sorted.
        labels: class number of each file; the alphabetical index of its folder.
        classes: names of the class folders.
        bands: ("R", "G", "B"), or the 13 bands in the order of the files.
        lists: split lists beside the tiles, by name ("csv", "torchgeo", "spatial", "100"): part → stems of files.
        archive: the .zip that the tiles are read from, if there is one.
    """

    root: Path
    layout: str
    base: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    lists: Mapping[str, Mapping[str, tuple[str, ...]]]
    archive: Path | None = None

    @property
    def is_rgb(self) -> bool:
        return self.bands == RGB

    def read(self, names: Iterable[str]) -> Iterable[bytes]:
        """The bytes of some of `files`, in order."""
        if self.archive is None:
            for name in names:
                yield (Path(self.base) / name).read_bytes()
        else:
            with zipfile.ZipFile(self.archive) as archive:
                for name in names:
                    yield archive.read(str(PurePosixPath(self.base) / name))


class NoTiles(UserError):
    """A folder without labelled tiles in any known layout."""


def find_tiles(root: Path, kind: str = "auto") -> TileSet:
    """Finds the tiles of a download.

    Args:
        root: its folder, or a .zip of it.
        kind: "rgb" or "ms" if both are there; "auto" takes RGB first.

    Raises:
        UserError: nothing is there, no class folders, or a clone with pointers instead of pixels.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"no such folder: {root}", "give the folder of a EuroSAT download")
    if root.is_file():
        if not zipfile.is_zipfile(root):
            raise UserError(f"{root} is neither a folder nor a .zip", "give the folder of a EuroSAT download")
        tiles = _in_archive(root, root.parent, kind)
        if tiles is None:
            raise UserError(f"{root}: no class folders with pictures inside", "give a EuroSAT download")
        return tiles
    for layout, place in PLACES:
        base = root / place
        names = _of_one_kind(_class_folders(base), kind, str(base))
        if names:
            _refuse_pointers(base / names[0])
            return _tile_set(root, layout, str(base), names, _lists(root, base.parent, base))
    for name in ARCHIVES:
        if not (root / name).is_file():
            continue
        tiles = _in_archive(root / name, root, kind)
        if tiles is not None:
            return tiles
    of_kind = ""
    if kind != "auto":
        of_kind = f" of the kind {kind!r}"
    raise NoTiles(
        f"{root}: no EuroSAT tiles{of_kind}",
        "expected class folders with .jpg, .png or .tif: plain, or in 2750, EuroSAT_RGB, EuroSAT, EuroSATallBands or ds/images/…/tif",
    )


def _class_folders(base: Path) -> list[str]:
    """``Class/file`` of every file in the folders below `base`."""
    if not base.is_dir():
        return []
    folders = [path for path in base.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    names: list[str] = []
    for folder in sorted(folders):
        names += [f"{folder.name}/{file.name}" for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    return names


def _of_one_kind(names: list[str], kind: str, where: str) -> list[str]:
    """The tiles of the requested kind, or pictures before rasters; what is a tile too and is left out is said."""
    pictures, rasters, others = [], [], []
    for name in names:
        ending = PurePosixPath(name).suffix.lower()
        if ending in PICTURES:
            pictures.append(name)
        elif ending in RASTERS:
            rasters.append(name)
        elif ending in IMAGES:
            others.append(name)
    is_rgb = kind == "rgb" or (kind == "auto" and bool(pictures))
    tiles, of_other_kind = (pictures, rasters) if is_rgb else (rasters, pictures)
    if not tiles:
        return []
    if of_other_kind:
        noun, option = ("rasters", "ms") if is_rgb else ("pictures", "rgb")
        warn(f"{where}: {len(of_other_kind)} {noun} beside {len(tiles)} tiles are left out; --kind {option} takes them")
    if others:
        endings = sorted({PurePosixPath(name).suffix.lower() for name in others})
        warn(f"{where}: {len(others)} images are left out, tiles are .jpg, .png or .tif, not {few(endings)}")
    lost = {name.partition("/")[0] for name in of_other_kind + others} - {name.partition("/")[0] for name in tiles}
    if lost:
        warn(f"{where}: no tile is left of {few(sorted(lost))}")
    return tiles


def _tile_set(
    root: Path,
    layout: str,
    base: str,
    tiles: list[str],
    lists: Mapping[str, Mapping[str, tuple[str, ...]]],
    archive: Path | None = None,
) -> TileSet:
    tiles = sorted(tiles)
    names = sorted({tile.partition("/")[0] for tile in tiles})
    number_of = {name: number for number, name in enumerate(names)}
    if len(names) < 2:
        raise UserError(f"{root}: only the class {names[0]!r} is there", "a data set needs at least two class folders")
    bands = FILE_ORDER
    if PurePosixPath(tiles[0]).suffix.lower() in PICTURES:
        bands = RGB
    labels = tuple(number_of[tile.partition("/")[0]] for tile in tiles)
    return TileSet(root, layout, base, tuple(tiles), labels, tuple(names), bands, lists, archive)


def _in_archive(path: Path, beside: Path, kind: str) -> TileSet | None:
    with zipfile.ZipFile(path) as archive:
        by_base: dict[str, list[str]] = {}
        for entry in map(PurePosixPath, archive.namelist()):
            # …/Class/tile: the folder above the class is the base
            if entry.suffix.lower() in PICTURES | RASTERS | IMAGES and len(entry.parts) > 1:
                by_base.setdefault(str(entry.parent.parent), []).append(f"{entry.parent.name}/{entry.name}")
        for base in sorted(by_base, key=len):  # the one nearest to the root first
            names = _of_one_kind(by_base[base], kind, f"{path}: {base}")
            if not names:
                continue
            if archive.read(str(PurePosixPath(base) / names[0]))[: len(LFS)] == LFS:
                raise _pointers(f"{path}: {names[0]}")
            return _tile_set(path, f"archive {path.name}", base, names, _lists(beside), path)
    return None


def _refuse_pointers(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise _pointers(str(file))


def _pointers(name: str) -> UserError:
    return UserError(
        f"{name} is a Git LFS pointer of about 130 bytes, not a picture",
        "fetch the pixels with 'git lfs install && git lfs pull' in the clone, or download EuroSAT from Zenodo (record 7711810)",
    )


def _lists(*folders: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Split lists in some folders: Kaggle's CSV files, torchgeo's text files."""
    lists: dict[str, dict[str, tuple[str, ...]]] = {}
    for folder in folders:
        tables = {"train": "train.csv", "val": "validation.csv", "test": "test.csv"}
        if "csv" not in lists and all((folder / table).is_file() for table in tables.values()):
            lists["csv"] = {part: _filenames(folder / table) for part, table in tables.items()}
        for name, prefix in _LISTS.items():
            texts = {part: folder / f"{prefix}{part}.txt" for part in PARTS}
            if name not in lists and all(text.is_file() for text in texts.values()):
                lists[name] = {part: _lines(text) for part, text in texts.items()}
    return lists


def _lines(path: Path) -> tuple[str, ...]:
    """The stems in one of torchgeo's lists, one file name per line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file", "it must have one file name per line, in UTF-8") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(PurePosixPath(name).stem for name in names)


def _filenames(path: Path) -> tuple[str, ...]:
    """The stems in one of Kaggle's tables (Filename, Label, ClassName)."""
    table = read_table(path)
    column = table.column("Filename")
    assert column is not None  # it is required
    stems = []
    for row in table:
        name = row[column]
        if name is None:
            table.leave_out(row, "without a file name")
        else:
            stems.append(PurePosixPath(name.replace("\\", "/")).stem)
    if table.left_out:
        warn(table.account())
    return tuple(stems)
