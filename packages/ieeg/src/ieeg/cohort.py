"""The recordings of a training run: found, identified by patient, checked for copies, split by patient."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.terminal import track, warn
from ieeg.recordings.copies import Signature, copies, refuse_copies, signature
from ieeg.recordings.finding import RecordingFile, find_recordings
from ieeg.recordings.labels import LabelOptions
from ieeg.recordings.opening import open_recording
from ieeg.recordings.seizures import seizures_of


@dataclass(frozen=True)
class Case:
    """One recording of a cohort.

    Attributes:
        path, name, patient: as in `ieeg.recordings.finding.find_recordings`.
        seizures: (n, 2) seconds; onset and offset.
        signature: of its content, to find copies.
    """

    path: Path
    name: str
    patient: str
    seizures: NDArray[np.float64]
    signature: Signature


@dataclass(frozen=True)
class Cohort:
    """Recordings of different content; `left_out` names those that were not taken, and why."""

    cases: list[Case]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        """Names of the patients, sorted."""
        return sorted({case.patient for case in self.cases})

    def of(self, patients: Sequence[str]) -> list[Case]:
        """The recordings of some patients."""
        selected = set(patients)
        return [case for case in self.cases if case.patient in selected]


def open_cohort(
    paths: Sequence[Path],
    *,
    drop_copies: bool = False,
    need_seizures: bool = False,
    labels: LabelOptions = LabelOptions(),
) -> Cohort:
    """Finds the recordings in files and folders and examines each.

    Args:
        drop_copies: of recordings that are the same, keep the first, instead of refusing.
        need_seizures: leave out recordings of which it is not known when they have seizures, and refuse data without a marked seizure.
        labels: how marked seizures are read.

    Raises:
        UserError: no recordings, copies, no seizures; recordings that cannot be read are left out and named.
    """
    cases: list[Case] = []
    left_out: dict[str, str] = {}
    unknown: dict[str, str] = {}
    files: list[RecordingFile] = []
    for path in paths:
        files += find_recordings(path)
    for file in track(told_apart(files), "Looking at recordings"):
        try:
            recording = open_recording(file.path)
            marked = seizures_of(recording, labels)
            content = signature(recording, file.name, file.patient, file.dataset)
        except UserError as error:
            left_out[file.name] = error.message
            continue
        # No table of seizures is not the same as no seizure, nor is a label that is not understood: both would teach the model wrongly.
        if need_seizures and marked.unfit:
            unknown[file.name] = marked.unfit
        elif need_seizures:
            for warning in marked.warnings:
                warn(f"{file.name}: {warning}")
        cases.append(Case(file.path, file.name, file.patient, marked.events, content))
    _refuse_empty(cases, left_out)
    # Copies are searched among all of them; of two that are the same, the one whose seizures are known stays.
    cases.sort(key=lambda case: case.name in unknown)
    signatures = [case.signature for case in cases]
    if drop_copies:
        for first, *others in copies(signatures):
            for other in others:
                left_out[other.name] = f"is the same recording as {first.name}"
    else:
        refuse_copies(signatures)
    left_out = unknown | left_out
    cases = [case for case in cases if case.name not in left_out]
    _refuse_empty(cases, left_out)
    if need_seizures and not any(len(case.seizures) for case in cases):
        raise UserError(
            "no seizure is marked in any of the recordings",
            "seizures are read from events.tsv, EDF+ annotations, and the tables of CHB-MIT, Siena, TUH and SzCORE beside the files",
        )
    return Cohort(cases, left_out)


def _refuse_empty(cases: Sequence[Case], left_out: Mapping[str, str]) -> None:
    """Refuses to continue without a recording, and says why each was left out."""
    if not cases:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise UserError(f"none of the recordings can be used: {reasons}")


def told_apart(files: Sequence[RecordingFile]) -> list[RecordingFile]:
    """Recordings of several folders, renamed so that names are unique, and patients of the same name in different data sets are two."""
    datasets: dict[str, set[str]] = {}
    for file in files:
        datasets.setdefault(file.patient, set()).add(file.dataset)
    names = Counter(file.name for file in files)
    # sub-01 of one data set is not sub-01 of another; run_1 and run_2 of one name are numbered
    unique, taken = [], Counter[str]()
    for file in files:
        name, patient = file.name, file.patient
        if names[name] > 1:
            taken[name] += 1
            name = f"{name}_{taken[name]}"
        if len(datasets[patient]) > 1:
            patient = f"{patient} ({file.dataset})"
        unique.append(replace(file, name=name, patient=patient))
    return unique


def split(cohort: Cohort, validation: str, *, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and validation recordings, by patient.

    Args:
        validation: the share of patients held out (0: none), or their names, separated by commas. Patients with seizures are held out first.

    Raises:
        UserError: a patient that does not exist, or none left to train on.
    """
    share = _share(validation)
    if share is None:
        held_out = [name.strip() for name in validation.split(",") if name.strip()]
        unknown = sorted(set(held_out) - set(cohort.patients))
        if unknown:
            raise UserError(f"no patient {', '.join(unknown)}", f"patients here: {', '.join(cohort.patients[:20])}")
    else:
        random = np.random.default_rng(seed)
        order = [cohort.patients[i] for i in random.permutation(len(cohort.patients))]
        # Patients with seizures first: without a seizure, a validation part measures nothing.
        with_seizures = {case.patient for case in cohort.cases if len(case.seizures)}
        order.sort(key=lambda patient: patient not in with_seizures)
        count = 0
        if share:  # at least one, and never all
            count = min(len(order) - 1, max(1, round(share * len(order))))
        held_out = order[:count]
    training = [patient for patient in cohort.patients if patient not in set(held_out)]
    if not training:
        raise UserError("no patient is left to train on", "hold out fewer with --validation")
    return cohort.of(training), cohort.of(held_out)


def _share(validation: str) -> float | None:
    """``--validation`` as a share, or None where it holds names.

    Raises:
        UserError: a number that is not a share.
    """
    try:
        share = float(validation)
    except ValueError:
        return None
    if not 0 <= share < 1:
        raise UserError(
            f"--validation {validation} is not a share (0 or more, less than 1)", "or give names of patients"
        )
    return share
