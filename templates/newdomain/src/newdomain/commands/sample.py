"""``newdomain sample``."""

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
        yield f"{len(self.files)} signals and labels.csv in {self.folder}"


def sample(out: Path, /, *, seed: Seed = 0, overwrite: Overwrite = False) -> Samples:
    """Writes synthetic signals with labels, half of them with a burst.

    Example: newdomain sample data

    Args:
        out: folder for the signals.
    """
    from newdomain.samples import make_samples

    return Samples(out, make_samples(out, seed=seed, overwrite=overwrite))
