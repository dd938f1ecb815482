"""What a labelled data set is: cases with their images, labels and patients."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, few
from core_runtime.identity import identity
from medical_segmentation.volumes.opening import identifying_words, open_volume, pseudonym, read_labels
from medical_segmentation.volumes.volume import ReadingOptions, Volume, require_image


@dataclass(frozen=True)
class Case:
    """One volume of a data set.

    Attributes:
        name: of the case.
        patient: whose it is; all cases of a patient stay in one fold.
        images: one file (or folder) per channel; a single 4-D file holds all.
        labels: file or folder of its labels; None for an unlabelled case.
        part: "train", "val" or "test" where the data set says so; else "".
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    labels: Path | None = None
    part: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set as its layout gives it.

    Attributes:
        root: folder.
        layout: in words.
        cases: labelled and unlabelled.
        classes: number → name, background 0 first; empty where the layout does not name them.
        channels: names; empty where the layout does not name them.
        regions: what is judged where this is not each class alone: name → its class numbers, which regions may share.
        mapping: values in the label files → class numbers, where they differ.
        folds: (train, val) names of `splits_final.json`, if it has one.
        spacing: of slices that do not say it.
        drawn: whether it says of itself that its images are drawn, as those of `sample` do.
        notes: what of the folder is left out, with numbers.
    """

    root: Path
    layout: str
    cases: Sequence[Case]
    classes: Mapping[int, str]
    channels: Sequence[str] = ()
    mapping: Mapping[int, int] | None = None
    regions: Mapping[str, tuple[int, ...]] | None = None
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] = ()
    spacing: tuple[float, float, float] | None = None
    drawn: bool = False
    notes: Sequence[str] = ()

    @property
    def labelled(self) -> list[Case]:
        """The cases with labels."""
        return [case for case in self.cases if case.labels is not None]

    def image(self, case: Case, reading: ReadingOptions = ReadingOptions()) -> Volume:
        """The volume of a case, its channels on the last axis.

        Raises:
            UserError: it cannot be read, or its channels do not share one grid.
        """
        if self.spacing is not None and reading.spacing is None:
            reading = replace(reading, spacing=self.spacing)
        return open_case(case, reading)

    def labels(self, case: Case, image: Volume | None) -> NDArray[np.uint8]:
        """The class numbers of a case.

        Raises:
            UserError: values or grid do not fit.
        """
        assert case.labels is not None
        reading = ReadingOptions(spacing=self.spacing) if self.spacing else ReadingOptions()
        return read_labels(case.labels, image, names=self.classes or None, mapping=self.mapping, reading=reading)[0]


def open_case(case: Case, reading: ReadingOptions = ReadingOptions()) -> Volume:
    """The volume of a case with its channels on the last axis."""
    volumes = [require_image(open_volume(path, reading), path) for path in case.images]
    first = volumes[0]
    for path, other in zip(case.images, volumes, strict=True):
        if not other.geometry.same_as(first.geometry):
            raise UserError(
                f"{path} has another grid than the first channel of {case.name}: {other.geometry.difference(first.geometry)}",
                "resample the channels of a case to one grid",
            )
    if len(volumes) > 1:
        first.array = np.stack([volume.array for volume in volumes], -1)
        for volume in volumes[1:]:
            first.warnings += [warning for warning in volume.warnings if warning not in first.warnings]
    return first


def patient_of(name: str) -> str:
    """The patient in a case's name where a convention says so: BIDS' ``sub-…``; else the case itself."""
    match = re.match(r"(sub-[A-Za-z0-9]+)", name)
    return match[1] if match else name


def with_patients(dataset: Dataset, table: Path) -> Dataset:
    """The data set with the patients of a table (columns case and patient).

    Raises:
        UserError: a case is not in the table, or stands there with two patients.
    """
    from core_runtime.tables import read_table

    read = read_table(table)
    case_column, patient_column = read.column("case", "name", "id"), read.column("patient", "subject", "patient_id")
    patients: dict[str, str] = {}
    for row in read.rows:
        case, patient = row.get(case_column), row.get(patient_column)
        if case is None or patient is None:
            continue
        if patients.setdefault(case, patient) != patient:
            raise UserError(
                f"{table}: {case} belongs to two patients ({patients[case]} and {patient})", "correct the table"
            )
    missing = [case.name for case in dataset.labelled if case.name not in patients]
    if missing:
        raise UserError(f"{table} does not name the patient of {few(missing)}", "add a row for every case")
    cases = [replace(case, patient=patients.get(case.name, case.patient)) for case in dataset.cases]
    return replace(dataset, cases=cases)


def without_names(cases: Sequence[Case]) -> list[Case]:
    """The cases under names that tables and reports may hold: a DICOM folder that is called after its patient gets a digest."""
    renamed = []
    for case in cases:
        words = identifying_words(case.images[0])
        renamed.append(replace(case, name=pseudonym(case.name, words), patient=pseudonym(case.patient, words)))
    return renamed


def with_mapping(dataset: Dataset, reading: ReadingOptions) -> Dataset:
    """The data set with the values of ``--map`` beside its own."""
    if not reading.mapping:
        return dataset
    return replace(dataset, mapping={**(dataset.mapping or {}), **reading.mapping})


def case_digest(case: Case) -> str:
    """What tells the image of a case from others, whatever it is called and wherever it lies."""
    digest = hashlib.sha256()
    for path in case.images:
        content = identity(path, full=True)
        digest.update(content["sha256"].encode())
    return digest.hexdigest()[:16]
