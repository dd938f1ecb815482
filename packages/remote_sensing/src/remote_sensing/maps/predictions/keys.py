"""What a mask was made from: the sheet and where it lies, the model, every option that changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.options import flat
from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.sheets.options import PartOptions, SheetOptions


def made_from(
    model: Path, reading: SheetOptions, asked: PartOptions, options: SegmentOptions, precision: str
) -> dict[str, Any]:
    """What masks depend on beside their sheets: the model and all options, but for how many tiles are computed at once."""
    from core_runtime.identity import identity, model_identity
    from remote_sensing.maps.sheets.formats import split_layer

    parts: dict[str, Any] = {
        "model": model_identity(model),
        **flat(reading=reading, asked=asked, options=options, precision=precision),
    }
    del parts["batch"]
    if asked.roi is not None:
        parts["regions"] = identity(split_layer(asked.roi)[0])
    return parts


def sheet_identity(path: Path, reading: SheetOptions) -> dict[str, Any]:
    """The file, the files that a virtual raster is made of, and where it lies: a world file may change beside it."""
    from core_runtime.identity import identity
    from remote_sensing.maps.sheets.sheet import Sheet

    known: dict[str, Any] = {"file": identity(path)}
    try:
        with Sheet(path, reading) as sheet:
            known["transform"] = ", ".join(f"{value:.12g}" for value in tuple(sheet.grid.transform)[:6])
            known["crs"] = "" if sheet.grid.crs is None else sheet.grid.crs.to_wkt()
            if path.suffix.lower() == ".vrt":
                sources = [Path(file) for file in sheet.file.files if Path(file) != path]
                known["sources"] = {file.name: identity(file) for file in sources if file.is_file()}
    except UserError:
        pass  # said again by the attempt to segment it
    return known
