"""``remote-sensing maps sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Overwrite, Seed


@dataclass(frozen=True)
class MapSamples(Outcome):
    """The folders written."""

    folder: Path
    sheets: Path
    truth: Path
    tiles: Path

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "sheets": self.sheets, "truth": self.truth, "tiles": self.tiles}

    def lines(self) -> Iterable[str]:
        yield f"Sheets in {self.sheets}, their true vectors in {self.truth}, training tiles in {self.tiles}"
        yield f"Next: remote-sensing maps train {quote(str(self.tiles))} --variant tiny --out run"


def sample(
    out: Path,
    /,
    *,
    sheets: Annotated[int, AtLeast(1)] = 2,
    size: Annotated[int, AtLeast(200)] = 700,
    tiles: Annotated[int, AtLeast(4)] = 20,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> MapSamples:
    """Draws georeferenced sheets with true railways and vineyards, and training tiles.

    Example: remote-sensing maps sample data --sheets 3

    Args:
        out: folder for sheets, truth and training tiles.
        sheets: number of sheets.
        size: side of a sheet in pixels.
        tiles: number of training tiles with labels.
    """
    from remote_sensing.maps.samples.samples import MapSampleParams, make_samples

    folders = make_samples(out, MapSampleParams(sheets, size, tiles, seed=seed), overwrite=overwrite)
    return MapSamples(out, **folders)
