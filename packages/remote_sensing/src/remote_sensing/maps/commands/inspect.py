"""``remote-sensing maps inspect``."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings, FolderFindings, examine_files
from remote_sensing.maps.sheets.formats import find_sheets, is_tiles

if TYPE_CHECKING:
    from PIL.Image import Image


def inspect(path: Path, /) -> Findings | FolderFindings:
    """Reports what a sheet holds, whether it can be used, and what to do next.

    Example: remote-sensing maps inspect sheet.tif

    Args:
        path: a sheet, a folder of sheets, or training tiles.
    """
    if is_tiles(path):
        return examine_tiles(path)
    sheets = find_sheets(path)
    if path.is_file():
        return examine_sheet(path)
    return examine_files(path, sheets, examine_sheet)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; for a folder, at its first sheet."""
    if is_tiles(path):
        return examine_tiles(path, pictures=True)
    return examine_sheet(find_sheets(path)[0], pictures=True)


def examine_tiles(path: Path, *, pictures: bool = False) -> Findings:
    """Examines training tiles.

    Raises:
        UserError: they cannot be used.
    """
    import numpy as np

    from remote_sensing.maps.sheets.examples import siegfried

    details: dict[str, Any] = {}
    drawn: list[tuple[Any, str]] = []
    for part in ("train", "val", "test"):
        if not (path / part).is_dir():
            continue
        examples = siegfried(path, part)
        labels = [examples.read(name)[1] for name in examples.names]
        shares = [(label > 0).mean() for label in labels]
        share = float(np.mean(shares))
        details[part] = f"{len(labels)} tiles of {examples.side} pixels, {share:.1%} of them feature"
        if pictures and not drawn:
            drawn.append((preview(examples.files[0]), "The first tile"))
    if not details:
        raise UserError(
            f"{path}: annotation/ but none of train/, val/, test/", "the layout of dataset_railway is expected"
        )
    parts = [f"{part}: {words}" for part, words in details.items()]
    return Findings(
        title=path.name,
        kind="training tiles",
        summary=", ".join(parts),
        details=details,
        next_commands=[f"remote-sensing maps train {quote(str(path))} --variant tiny --out run"],
        pictures=drawn,
    )


def examine_sheet(path: Path, *, pictures: bool = False) -> Findings:
    """Examines one sheet.

    Raises:
        UserError: it cannot be read.
    """
    from remote_sensing.kinds import kind_of
    from remote_sensing.maps.sheets.sheet import Sheet

    with Sheet(path) as sheet:
        details, warnings = sheet.facts, list(sheet.warnings)
        kind = kind_of(sheet.file, path)
        # a small mask is enough: only a sheet that is entirely empty is of interest
        holds_data = sheet.holds_data((64, 64))
        small = sheet.preview(64)
    details["holds data"] = f"{holds_data.mean():.0%}"
    if not holds_data.any():
        warnings.append("no pixel holds data: the mask would be all nodata")
    elif small.min() == small.max():
        warnings.append("all of it is of one colour: nothing can be found on it")
    file = quote(str(path))
    next_commands = [f"remote-sensing maps predict {file} --model run/model --vector gpkg"]
    if kind.warning:
        warnings.insert(0, kind.warning)
        next_commands = []
        if kind.command:
            next_commands.append(f"remote-sensing {kind.command} {file}")
    drawn = []
    if pictures:
        drawn.append((preview(path), "Preview"))
    return Findings(
        title=path.name,
        kind=kind.name,
        summary=f"{details['size']}, {details['bands']}, {details['coordinate system']}",
        details=details,
        warnings=warnings,
        usable=not kind.warning,
        next_commands=next_commands,
        pictures=drawn,
    )


def preview(path: Path) -> "Image":
    """A small picture of a sheet."""
    from PIL import Image

    from remote_sensing.maps.sheets.sheet import Sheet

    with Sheet(path) as sheet:
        return Image.fromarray(sheet.preview())
