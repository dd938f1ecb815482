"""Options about sheets and their labels that several verbs share. Imports nothing heavy."""

from pathlib import Path
from typing import Literal

from core_runtime.options import Box, Names, options


@options
class SheetOptions:
    """How sheets are read.

    Attributes:
        stretch: how values of more than 8 bits become 8 bits, for the whole sheet.
        crs: coordinate system of sheets whose files do not state it (EPSG:2056).
    """

    stretch: Literal["percentile", "dtype"] = "percentile"
    crs: str | None = None


@options
class PartOptions:
    """The part of a sheet that is processed.

    Attributes:
        bbox: left,bottom,right,top in map coordinates.
        roi: polygons (GeoPackage, GeoJSON) outside of which pixels are ignored: the map frame without collar and legend.
    """

    bbox: Box | None = None
    roi: Path | None = None


@options
class LabelOptions:
    """How true vectors become labels.

    Attributes:
        classes: names of the classes 1, 2, …: 'railway,vineyard'.
        class_column: column of the vectors that names the class.
        line_width: width of drawn lines: map units (5) or '4px'.
        labels_crs: coordinate system of vectors whose file does not state it (EPSG:2056).
    """

    classes: Names = ("feature",)
    class_column: str | None = None
    line_width: str = "4px"
    labels_crs: str | None = None
