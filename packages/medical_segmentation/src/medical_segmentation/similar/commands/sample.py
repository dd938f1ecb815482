"""``medical-segmentation similar sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed
from medical_segmentation.similar.options import SampleOptions


@dataclass(frozen=True)
class Samples(Outcome):
    """The archive written."""

    folder: Path

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "archive": self.folder / "lesions.npz"}

    def lines(self) -> Iterable[str]:
        yield f"Drawn lesions of four kinds in {self.folder / 'lesions.npz'}"
        yield f"Next: medical-segmentation similar inspect {quote(str(self.folder / 'lesions.npz'))}"


def sample(
    out: Path, /, *, samples: SampleOptions = SampleOptions(), seed: Seed = 0, overwrite: Overwrite = False
) -> Samples:
    """Draws skin lesions of four kinds under varying skin and light, as a MedMNIST archive with train, val and test.

    Example: medical-segmentation similar sample lesions --images 60

    Args:
        out: folder for the archive.
    """
    from medical_segmentation.similar.samples import make_samples

    return Samples(make_samples(out, samples, seed=seed, overwrite=overwrite))
