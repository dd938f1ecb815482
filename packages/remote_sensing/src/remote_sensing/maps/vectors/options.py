"""How a mask becomes vectors. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import Flag, options


@options
class VectorOptions:
    """How a mask becomes vectors; lengths and areas are in map units, or in pixels as ``12px``.

    Attributes:
        centrelines: also centre-lines, of line features.
        min_area: smallest object: map units² (200) or pixels ('60px').
        simplify: distance by which outlines may move: map units or pixels.
        spur: dead ends shorter than this are pruned.
        gap: ends this near that point at each other are joined.
        connectivity: 8 joins pixels over corners, 4 does not.
        wgs84: GeoJSON in WGS 84, as RFC 7946 requires, or in the sheet's coordinates.
    """

    centrelines: bool = False
    min_area: str = "0"
    simplify: str = "0.7px"
    spur: str = "10px"
    gap: str = "12px"
    connectivity: Literal[4, 8] = 8
    wgs84: Annotated[bool, Flag("--keep-crs")] = True
