"""``gaze sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed


@dataclass(frozen=True)
class Sampled(Outcome):
    """Where the samples are."""

    files: dict[str, Path]
    paths: int

    def facts(self) -> dict[str, Any]:
        return {"paths": self.paths, **self.files}

    def lines(self) -> Iterable[str]:
        yield f"{self.paths} searches: {self.files['scanpaths']} (COCO-Search18), {self.files['recordings']} (EyeLink ASC), {self.files['bids']} (BIDS)"
        yield f"Pictures: {self.files['pictures']}; objects: {self.files['areas']}"
        yield f"Next: gaze train '{self.files['scanpaths']}' --images '{self.files['pictures']}' --out run"


def sample(out: Path, /, *, seed: Seed = 0, overwrite: Overwrite = False) -> Sampled:
    """Writes drawn shelves and the scanpaths of three observers with known strategies.

    Example: gaze sample data

    Args:
        out: folder for the pictures and files.
    """
    import json

    from gaze.samples import make_samples

    made = make_samples(out, seed=seed, overwrite=overwrite)
    paths = len(json.loads(made.scanpaths.read_text(encoding="utf-8")))
    return Sampled(dict(made.__dict__), paths)
