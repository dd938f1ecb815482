"""``remote-sensing maps vectorize``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite
from remote_sensing.maps.vectors.options import VectorOptions

if TYPE_CHECKING:
    from remote_sensing.maps.vectors.vectorise import Vectors


@dataclass(frozen=True)
class Vectorized(Outcome):
    """Vector files of a mask."""

    vectors: "Vectors"

    def facts(self) -> dict[str, Any]:
        return self.vectors.facts()

    def lines(self) -> Iterable[str]:
        return self.vectors.text()


def vectorize(
    mask: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")] = Path("features.gpkg"),
    probability: Path | None = None,
    vectors: VectorOptions = VectorOptions(),
    overwrite: Overwrite = False,
) -> Vectorized:
    """Turns a mask into polygons, one per object however large, and centre-lines, in map coordinates.

    Example: remote-sensing maps vectorize out/sheet_mask.tif --centrelines --out railways.gpkg

    Args:
        mask: a raster of class numbers, as written by predict.
        out: a .gpkg, .geojson, .shp or .fgb file.
        probability: the _prob.tif beside the mask.
    """
    from remote_sensing.maps.vectors.vectorise import vectorise

    return Vectorized(vectorise(mask, out, vectors, probability=probability, overwrite=overwrite))
