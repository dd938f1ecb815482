"""``gaze sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.options import Overwrite, Seed

# a model for a first look: a minute on a CPU, where the published sizes take hours
SMALL = "--width 64 --feedforward 128 --layers 1 --pyramid 2 --crop 24,24 --lr 0.002 --batch 64 --epochs 20 --score likelihood"


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
        yield f"Next: gaze train '{self.files['scanpaths']}' --images '{self.files['pictures']}' --out run {SMALL}"


def sample(out: Path, /, *, seed: Seed = 0, overwrite: Overwrite = False) -> Sampled:
    """Writes drawn shelves and the scanpaths of three observers with known strategies.

    Example: gaze sample data

    Args:
        out: folder for the pictures and files.
    """
    import json

    from gaze.samples import make_samples

    files = make_samples(out, seed=seed, overwrite=overwrite)
    paths = len(json.loads(files.scanpaths.read_text(encoding="utf-8")))
    return Sampled(dict(files.__dict__), paths)
