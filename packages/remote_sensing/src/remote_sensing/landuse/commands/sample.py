"""``remote-sensing landuse sample``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from remote_sensing.landuse.samples import SampleOptions


@dataclass(frozen=True)
class Samples(Outcome):
    """The tiles, lists and scene written.

    Attributes:
        tiles: number of tiles.
        places: paths by name ("rgb", "ms", "scene", "truth").
    """

    folder: Path
    tiles: int
    places: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, **self.places}

    def lines(self) -> Iterable[str]:
        yield f"{self.tiles} tiles in {self.folder}"
        yield f"Next: remote-sensing landuse train {quote(str(self.folder))} --split stratified --out run"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws EuroSAT-like tiles (RGB and 13-band GeoTIFF in UTM), split lists of every kind, and a scene with its truth.

    Example: remote-sensing landuse sample data --tiles 40

    Args:
        out: folder for tiles, split lists and a scene.
    """
    from remote_sensing.landuse.samples.samples import make_samples
    from remote_sensing.landuse.scenes.classes import CLASSES

    places = make_samples(out, samples, seed=seed, overwrite=overwrite)
    return Samples(out, len(CLASSES) * samples.tiles, places)
