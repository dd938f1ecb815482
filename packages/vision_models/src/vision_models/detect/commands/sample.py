"""``vision-models detect sample``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from vision_models.detect.samples import SampleOptions


@dataclass(frozen=True)
class Samples(Outcome):
    """The scenes written.

    Attributes:
        places: paths by layout ("exdark", "coco").
    """

    folder: Path
    scenes: int
    places: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "scenes": self.scenes, **self.places}

    def lines(self) -> Iterable[str]:
        yield f"{self.scenes} dark scenes in {self.folder}, in ExDark's layout and as a COCO file"
        yield f"Next: vision-models detect train {quote(str(self.folder))} --out run"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws dark scenes with boxes in ExDark's native layout, and the same as a COCO file.

    Example: vision-models detect sample data --scenes 100

    Args:
        out: folder for the scenes.
    """
    from vision_models.detect.samples import make_samples

    places = make_samples(out, samples, seed=seed, overwrite=overwrite)
    return Samples(out, samples.scenes, places)
