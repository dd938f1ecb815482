"""Options about sheets and their labels that several verbs share. Imports nothing heavy."""

from pathlib import Path
from typing import Literal

from core_runtime.options import Box, Names, options


@options
class SheetOptions:
    """How sheets are read.

    Attributes:
        stretch: how more than 8 bits become 8, for the whole sheet.
        crs: coordinate system of sheets whose files do not name it (EPSG:2056).
    """

    stretch: Literal["percentile", "dtype"] = "percentile"
    crs: str | None = None


@options
class PartOptions:
    """The part of a sheet that is looked at.

    Attributes:
        bbox: left,bottom,right,top in map coordinates.
        roi: polygons (GeoPackage, GeoJSON) outside of which nothing is looked at: the map frame without collar and legend.
    """

    bbox: Box | None = None
    roi: Path | None = None


@options
class LabelOptions:
    """How true vectors become labels.

    Attributes:
        classes: names of the classes 1, 2, …: 'railway,vineyard'.
        class_column: column of the vectors that names the class.
        line_width: how wide lines are drawn: map units (5) or '4px'.
        labels_crs: coordinate system of vectors whose file does not name it (EPSG:2056).
    """

    classes: Names = ("feature",)
    class_column: str | None = None
    line_width: str = "4px"
    labels_crs: str | None = None
