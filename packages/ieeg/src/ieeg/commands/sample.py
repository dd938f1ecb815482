"""``ieeg sample``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Overwrite, Seed


@dataclass(frozen=True)
class Samples(Outcome):
    """The recordings written."""

    folder: Path
    patients: int
    files: Sequence[Path]

    def facts(self) -> dict[str, Any]:
        return {"files": self.files}

    def lines(self) -> Iterable[str]:
        yield f"{len(self.files)} recordings of {self.patients} patients in {self.folder}"


def sample(
    out: Path,
    /,
    *,
    patients: Annotated[int, AtLeast(1)] = 3,
    runs: Annotated[int, AtLeast(1)] = 1,
    seconds: Annotated[int, AtLeast(60)] = 300,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Samples:
    """Simulates patients with seizures, artefacts and mains hum: a BIDS data set of EDF+ files.

    Example: ieeg sample data --patients 6 --seconds 600

    Args:
        out: folder for the BIDS data set.
        patients: number of patients; channels and rates vary.
        runs: recordings of each patient.
        seconds: length of a recording.
    """
    from ieeg.samples import SampleOptions, make_samples

    options = SampleOptions(patients, runs, seconds, seed)
    return Samples(out, patients, make_samples(out, options, overwrite=overwrite))
