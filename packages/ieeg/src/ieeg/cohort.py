"""The recordings of a training run: found, told apart by patient, checked for copies, split by patient, prepared once."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.cli import note, track
from core_runtime.errors import UserError
from ieeg.recordings.bids import find_recordings
from ieeg.training.data import Source, store
from ieeg.recordings.copies import Signature, copies, refuse_copies, signature
from ieeg.recordings.prepared import Prepared, Settings
from ieeg.recordings.recording import open_recording
from ieeg.recordings.seizures import seizures_of


@dataclass(frozen=True)
class Case:
    """One recording of a cohort.

    Attributes:
        path, name, patient: which, as `ieeg.recordings.bids.find_recordings` tells them apart.
        seizures: (n, 2) seconds; onset and offset.
        signature: what it holds, to find copies.
    """

    path: Path
    name: str
    patient: str
    seizures: NDArray[np.float64]
    signature: Signature


@dataclass(frozen=True)
class Cohort:
    """Recordings of different content; `left_out` says which were not taken and why."""

    cases: list[Case]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        """By name, sorted."""
        return sorted({case.patient for case in self.cases})

    def of(self, patients: Sequence[str]) -> list[Case]:
        """The recordings of some patients."""
        return [case for case in self.cases if case.patient in set(patients)]


def open_cohort(
    paths: Sequence[Path], *, drop_copies: bool = False, need_seizures: bool = False, progress: bool = True
) -> Cohort:
    """Finds the recordings in files and folders and looks into each.

    Args:
        drop_copies: of recordings that are the same, keep the first, instead of refusing.
        need_seizures: refuse data without any marked seizure.

    Raises:
        UserError: nothing found, copies, no seizures; recordings that cannot be read are left out and named.
    """
    cases: list[Case] = []
    left_out: dict[str, str] = {}
    found = [each for path in paths for each in find_recordings(path)]
    for each in track(found, "Looking at recordings") if progress else found:
        try:
            recording = open_recording(each.path)
            marked = seizures_of(recording).events
            signed = signature(recording, each.name, each.patient)
        except UserError as error:
            left_out[each.name] = error.message
            continue
        cases.append(Case(each.path, each.name, each.patient, marked, signed))
    if not cases:
        raise UserError(
            "none of the recordings can be read: " + "; ".join(f"{k}: {v}" for k, v in list(left_out.items())[:3])
        )
    if drop_copies:
        for group in copies([c.signature for c in cases]):
            left_out |= {s.name: f"is the same recording as {group[0].name}" for s in group[1:]}
        cases = [c for c in cases if c.name not in left_out]
    else:
        refuse_copies([c.signature for c in cases])
    if need_seizures and not any(len(c.seizures) for c in cases):
        raise UserError(
            "no seizure is marked in any of the recordings",
            "seizures are read from events.tsv, EDF+ annotations, and the tables of CHB-MIT, Siena, TUH and SzCORE beside the files",
        )
    return Cohort(cases, left_out)


def split(cohort: Cohort, validation: str | float, *, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and validation recordings, by patient.

    Args:
        validation: names of patients, comma-separated, or the share of patients (0: none). Patients with seizures are shared out first.

    Raises:
        UserError: a patient that is not there, or none left to train on.
    """
    if isinstance(validation, str):
        chosen = [name.strip() for name in validation.split(",") if name.strip()]
        unknown = sorted(set(chosen) - set(cohort.patients))
        if unknown:
            raise UserError(f"no patient {', '.join(unknown)}", f"there are: {', '.join(cohort.patients[:20])}")
    else:
        random = np.random.default_rng(seed)
        order = [cohort.patients[i] for i in random.permutation(len(cohort.patients))]
        order.sort(key=lambda p: not any(len(c.seizures) for c in cohort.of([p])))
        count = min(len(order) - 1, max(1, round(validation * len(order)))) if validation else 0
        chosen = order[:count]
    learned = [p for p in cohort.patients if p not in set(chosen)]
    if not learned:
        raise UserError("no patient is left to train on", "hold fewer out with --validation")
    return cohort.of(learned), cohort.of(chosen)


class OnDisk:
    """A prepared recording that is opened where it is used, so that it can be sent to other processes."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "settings": self.settings}

    @cached_property
    def _prepared(self) -> Prepared:
        return Prepared(open_recording(self.path), self.settings)

    @property
    def names(self) -> list[str]:
        return self._prepared.names

    @property
    def segment_count(self) -> int:
        return self._prepared.segment_count

    def segments(self, first: int, last: int) -> NDArray[np.float32]:
        return self._prepared.segments(first, last)


def sources(
    cases: Sequence[Case], settings: Settings, folder: Path, *, limit: float = 20e9, progress: bool = True
) -> tuple[list[Source], dict[str, str]]:
    """The recordings as training data, prepared once into `folder` if all of it takes fewer than `limit` bytes, else read as needed.

    Returns:
        The sources, and the recordings that cannot be prepared, with the reason.
    """
    made: list[tuple[Case, OnDisk]] = []
    left_out: dict[str, str] = {}
    for case in cases:
        signals = OnDisk(case.path, settings)
        try:
            signals.names  # noqa: B018 - opens it
            made.append((case, signals))
        except UserError as error:
            left_out[case.name] = error.message
    size = sum(s.segment_count * len(s.names) * settings.segment_samples * 4 for _, s in made)
    folder.mkdir(parents=True, exist_ok=True)
    keep = size <= min(limit, 0.8 * shutil.disk_usage(folder).free)
    if not keep and progress:
        note.print(f"{size / 1e9:.0f} GB of prepared data: read from the recordings in every step (--store-limit)")
    found = []
    for case, signals in track(made, "Preparing recordings") if progress and keep else made:
        name = re.sub(r"[^\w.-]+", "_", case.name)
        kept = store(signals, folder / f"{name}.npy") if keep else signals
        found.append(Source(case.name, case.patient, kept, case.seizures, settings.segment))
    return found, left_out
