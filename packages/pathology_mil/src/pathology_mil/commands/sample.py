"""``pathology-mil sample``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome
from core_runtime.options import AtLeast, Overwrite, Seed, Workers, options


@options
class SampleOptions:
    """What to draw.

    Attributes:
        slides: number of slides; half of them have tumour-like nests.
    """

    slides: Annotated[int, AtLeast(1)] = 12


@dataclass(frozen=True)
class Samples(BulkOutcome):
    """Slides, annotated truth and labels in a folder."""

    folder: Path
    attempts: Sequence[Attempt]

    @property
    def slides(self) -> int:
        return sum(attempt.ok for attempt in self.attempts)

    def facts(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "slides": self.slides,
            "labels": self.folder / "labels.csv",
            "annotations": self.folder / "annotations",
        }

    def lines(self) -> Iterable[str]:
        folder = self.folder
        yield (
            f"{self.slides} slides in {folder / 'slides'}, labels in {folder / 'labels.csv'}, "
            f"annotated nests in {folder / 'annotations'}"
        )
        yield f"Next: pathology-mil tile {folder / 'slides'} --out {folder}-job --patch-size 128"


def sample(
    out: Path,
    /,
    *,
    drawing: SampleOptions = SampleOptions(),
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> Samples:
    """Draws synthetic pyramidal slides with labels and annotated nests.

    Example: pathology-mil sample data --slides 24

    Args:
        out: folder for slides, annotations and labels.csv.
    """
    from pathology_mil.samples.samples import make_samples

    return Samples(out, make_samples(out, slides=drawing.slides, seed=seed, workers=workers, overwrite=overwrite))
