"""``vision-models video sample``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from vision_models.video.samples import SampleOptions, make_samples


@dataclass(frozen=True)
class Samples(Outcome):
    """What was written.

    Attributes:
        folder: of all.
        places: model and clips.
    """

    folder: Path
    places: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, **self.places}

    def lines(self) -> Iterable[str]:
        yield f"A tiny random Wan in {self.places['model']}, clips in {self.places['clips']}"
        yield f"Next: vision-models video train {quote(str(self.places['clips']))} --out run"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Writes a tiny random Wan in diffusers' format, and clips of moving squares as MP4.

    Example: vision-models video sample data

    Args:
        out: folder for both.
    """
    return Samples(out, make_samples(out, samples, seed=seed, overwrite=overwrite))
