"""``medical-segmentation organs sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from medical_segmentation.organs.options import SampleOptions


@dataclass(frozen=True)
class Samples(Outcome):
    """The folder written.

    Attributes:
        cases: labelled volumes in it.
    """

    folder: Path
    cases: int

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "cases": self.cases}

    def lines(self) -> Iterable[str]:
        yield f"{self.cases} labelled abdomens, unlabelled ones and a DICOM series in {self.folder} (nnU-Net v2 layout)"
        yield f"Next: medical-segmentation organs inspect {quote(str(self.folder))}"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws abdomens with liver, spleen and kidneys: NIfTI in odd orientations with thick slices, and a DICOM series.

    Example: medical-segmentation organs sample data --cases 10

    Args:
        out: folder, in nnU-Net's layout.
    """
    from medical_segmentation.organs.samples import make_samples

    return Samples(make_samples(out, samples, seed=seed, overwrite=overwrite), samples.cases)
