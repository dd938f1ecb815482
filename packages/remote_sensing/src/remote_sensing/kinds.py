"""The kind of a raster: a scanned sheet, a satellite product, an elevation model, a mask; not every GeoTIFF is a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCAN, MASK, MEASURED = "map sheet", "mask of classes", "elevation or other measured values"


class Kind(NamedTuple):
    """The kind of a raster.

    Attributes:
        name: in words.
        warning: why it is not a map; "" for a scan.
        command: the verb for it, without the path; "" if there is none here.
    """

    name: str
    warning: str = ""
    command: str = ""


def kind_of(file: Any, path: Path) -> Kind:
    """The kind of an open raster, from its bands, their type and its tags.

    Args:
        file: as rasterio opened it.
        path: of the file.
    """
    from remote_sensing.landuse.scenes.bands import band_of, band_of_file
    from remote_sensing.landuse.scenes.claims import claim

    satellite = claim(path)
    if satellite is not None and satellite.certainty >= 0.7:
        return Kind("satellite product", f"a {satellite.kind} ({satellite.evidence}), not a map", "landuse inspect")
    if file.tags().get("CLASS_1"):  # written by our own predict
        return Kind(MASK, "class numbers, not a map", "maps vectorize")
    value = np.dtype(file.dtypes[0])
    # Elevations are signed or fractional, which a scan is not; and a band of reflectances has a band's name.
    is_band = band_of(file.descriptions[0] or "") is not None or band_of_file(path.stem) is not None
    if file.count == 1 and value.kind in "if" and not is_band:
        return Kind(MEASURED, f"one band of {value}: measured values, not a scanned map")
    if file.count > 4:
        return Kind("raster of many bands", f"{file.count} bands of {value}: not a scanned map")
    return Kind(SCAN)
