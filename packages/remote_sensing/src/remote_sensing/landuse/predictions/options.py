"""How tiles and scenes are read for a prediction. Imports nothing heavy."""

from typing import Annotated

from core_runtime.options import Above, AtLeast, Names, options


@options
class PredictionOptions:
    """How tiles and scenes are read.

    Attributes:
        bands: names of a scene's bands in the order of the file, if the file does not state them: B02,B03,B04,B08.
        stride: for a scene: pixels between tiles, and the side of a cell; default: half a tile.
        tta: for tiles: average over the tile and its two mirror images.
        batch: tiles per step.
        quantification: value that stands for a reflectance of 1 (10,000 in Sentinel-2 products); default: from the file.
        any_resolution: also take scenes whose pixels are larger or smaller than those of the training tiles.
    """

    bands: Names | None = None
    stride: Annotated[int | None, AtLeast(1)] = None
    tta: bool = False
    batch: Annotated[int, AtLeast(1)] = 128
    quantification: Annotated[float | None, Above(0)] = None
    any_resolution: bool = False
