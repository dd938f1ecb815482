"""``explainability sample``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed


@dataclass(frozen=True)
class Samples(Outcome):
    """Files that were written."""

    folder: Path
    files: Sequence[Path]

    def facts(self) -> dict[str, Any]:
        return {"files": self.files}

    def lines(self) -> Iterable[str]:
        yield f"{len(self.files)} pictures by class in {self.folder}; masks of the test part beside"
        yield f"Next: explainability train {self.folder} --out run"


def sample(out: Path, /, *, seed: Seed = 0, overwrite: Overwrite = False) -> Samples:
    """Writes pictures of shapes whose class a coloured corner gives away, the same without the corner, and true masks.

    Example: explainability sample shapes

    Args:
        out: folder for the pictures.
    """
    from explainability.samples import make_samples

    return Samples(out, make_samples(out, seed=seed, overwrite=overwrite))
