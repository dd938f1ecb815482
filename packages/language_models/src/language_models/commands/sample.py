"""``language-models sample``."""

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
        yield f"{', '.join(file.name for file in self.files)} in {self.folder}"
        yield f"Next: language-models train {self.files[0]} --params 100000 --tokens 100000 --out run"


def sample(out: Path, /, *, seed: Seed = 0, overwrite: Overwrite = False) -> Samples:
    """Writes small texts made by rule: plain text, JSON lines, and token ids.

    Example: language-models sample texts

    Args:
        out: folder for the files.
    """
    from language_models.samples import make_samples

    return Samples(out, make_samples(out, seed=seed, overwrite=overwrite))
