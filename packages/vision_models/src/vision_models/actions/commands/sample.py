"""``vision-models actions sample``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from vision_models.actions.samples import LABELS, SampleOptions, make_samples


@dataclass(frozen=True)
class Samples(Outcome):
    """The videos written.

    Attributes:
        folder: of all.
        videos: how many.
        places: videos and annotations by what they are.
    """

    folder: Path
    videos: int
    places: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "count": self.videos, "labels": list(LABELS), **self.places}

    def lines(self) -> Iterable[str]:
        yield f"{self.videos} videos in {self.places['videos']}, with annotations as JSON and as a table"
        yield f"Actions: {', '.join(LABELS)}; squares that pass by are none"
        videos, folder = quote(str(self.places["videos"])), quote(str(self.folder / "features"))
        yield f"Next: vision-models actions extract {videos} --out {folder}"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws videos of a shape that bounces, flashes, grows and spins at planted times, as MP4 with their annotations.

    Example: vision-models actions sample data --videos 12

    Args:
        out: folder for the videos and annotations.
    """
    places = make_samples(out, samples, seed=seed, overwrite=overwrite)
    return Samples(out, samples.videos, places)
