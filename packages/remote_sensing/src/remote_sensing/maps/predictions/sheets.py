"""A sheet's mask, probabilities and overlay, and the warnings about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_sensing.maps.model.options import SegmentOptions
from remote_sensing.maps.sheets.options import PartOptions, SheetOptions

if TYPE_CHECKING:
    from remote_sensing.maps.model.folder import SheetModel
    from remote_sensing.maps.results import Segmentation
    from remote_sensing.maps.sheets.sheet import Sheet


def segment_sheet(
    model: "SheetModel",
    path: Path,
    out: Path,
    reading: SheetOptions = SheetOptions(),
    asked: PartOptions = PartOptions(),
    options: SegmentOptions = SegmentOptions(),
    *,
    key: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> "tuple[Segmentation, list[str]]":
    """Segments one sheet; writes mask, probabilities and the sheet under the mask. Returns warnings, too.

    Args:
        model: for sheets.
        path: the sheet.
        out: folder for ``NAME_mask.tif``, ``NAME_prob.tif`` and ``NAME_overlay.png``.
        reading, asked, options: how it is read, which part of it, how it is segmented.
        key: the inputs; an interrupted run is resumed only if it had the same.
        progress: show a bar.

    Raises:
        UserError: a sheet that cannot be read.
    """
    from remote_sensing.maps.model.inference import segment
    from remote_sensing.maps.reports.pictures import write_overlay
    from remote_sensing.maps.sheets.parts import part_of
    from remote_sensing.maps.sheets.sheet import Sheet

    with Sheet(path, reading) as sheet:
        part = part_of(sheet.grid, asked)
        segmentation = segment(model, sheet, out, path.stem, part, options, key=key or {}, progress=progress)
        picture = sheet.preview(1400)
        warnings = [*sheet.warnings, *_mismatches(model, sheet, options)]
        write_overlay(
            picture,
            segmentation.mask,
            part,
            sheet.grid,
            out / f"{path.stem}_overlay.png",
            shares=segmentation.shares,
            notice=model.notice,
        )
    if not segmentation.holds_data:
        warnings.append("no pixel holds data: the mask is all nodata")
    elif picture.min() == picture.max():
        warnings.append("all of it is of one colour: the mask says nothing")
    return segmentation, warnings


def _mismatches(model: "SheetModel", sheet: "Sheet", options: SegmentOptions) -> list[str]:
    """How a sheet differs from those the model was trained on, and whether it is one of them."""
    from core_runtime.identity import identity

    notes = []
    trained_on = model.provenance.get("trained_on")
    if not isinstance(trained_on, Mapping):
        return notes
    pixel = trained_on.get("pixel")
    if isinstance(pixel, (int, float)) and pixel > 0 and sheet.grid.georeferenced and sheet.grid.metric:
        # symbols keep their size on the ground or on paper; only in the first case does the pixel size matter
        factor = pixel / sheet.grid.pixel
        if not 2 / 3 < factor / options.scale < 3 / 2:
            notes.append(
                f"a pixel is {sheet.grid.pixel:g} map units here, {pixel:g} in training: "
                f"--scale {factor:.2g} would fit if the symbols have one size on the ground"
            )
    digests = trained_on.get("digests")
    if isinstance(digests, list) and digests:
        digest = identity(sheet.path, full=True)["sha256"][:16]
        trained_digests = {str(entry).partition(":")[0] for entry in digests}
        if digest in trained_digests:
            notes.append("the model was trained on this sheet: its result here says little about other sheets")
    return notes
