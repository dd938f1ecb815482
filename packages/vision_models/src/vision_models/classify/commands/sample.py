"""``vision-models classify sample``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from vision_models.classify.samples import SampleOptions


@dataclass(frozen=True)
class Samples(Outcome):
    """The images written.

    Attributes:
        places: paths by container ("folders", "npz", "sprite").
    """

    folder: Path
    images: int
    places: Mapping[str, Path]

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "images": self.images, **self.places}

    def lines(self) -> Iterable[str]:
        yield f"{self.images} images in {self.folder}, as {', '.join(self.places)}"
        yield f"Next: vision-models classify train {quote(str(self.places['folders']))} --epochs 20 --out run"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws labelled images of six kinds of weave and shape, as class folders, an .npz with MedMNIST's keys and a sprite sheet.

    Example: vision-models classify sample data --per-class 40

    Args:
        out: folder for the images.
    """
    from vision_models.classify.samples import CLASSES, make_samples

    places = make_samples(out, samples, seed=seed, overwrite=overwrite)
    return Samples(out, len(CLASSES) * samples.per_class, places)
