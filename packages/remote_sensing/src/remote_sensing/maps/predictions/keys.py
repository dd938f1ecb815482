"""The inputs of a mask: the sheet and its position, the model, every option that changes the result."""

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
    """The inputs of masks other than their sheets: the model and all options but the batch size."""
    from core_runtime.identity import identity, model_identity
    from remote_sensing.maps.sheets.formats import split_layer

    parts: dict[str, Any] = {
        "model": model_identity(model),
        **flat(reading=reading, asked=asked, options=options, precision=precision),
    }
    del parts["batch"]  # changes the speed, not the mask
    if asked.roi is not None:
        parts["regions"] = identity(split_layer(asked.roi)[0])
    return parts


def sheet_identity(path: Path, reading: SheetOptions) -> dict[str, Any]:
    """The file, the sources of a virtual raster, and the position: a world file may change while the image does not."""
    from core_runtime.identity import identity
    from remote_sensing.maps.sheets.sheet import Sheet

    known: dict[str, Any] = {"file": identity(path)}
    try:
        with Sheet(path, reading) as sheet:
            known["transform"] = ", ".join(f"{value:.12g}" for value in tuple(sheet.grid.transform)[:6])
            known["crs"] = "" if sheet.grid.crs is None else sheet.grid.crs.to_wkt()
            if path.suffix.lower() == ".vrt":
                # a VRT is a text file that stays the same when its sources change
                sources = {}
                for source in map(Path, sheet.file.files):
                    if source != path and source.is_file():
                        sources[source.name] = identity(source)
                known["sources"] = sources
    except UserError:
        pass  # the attempt to segment it reports the same error
    return known
