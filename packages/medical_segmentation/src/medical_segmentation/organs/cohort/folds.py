"""Who is trained on and who is judged: folds by patient, kept beside the data so that they are the same next time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core_runtime.errors import UserError, counted, few
from medical_segmentation.organs.cohort.dataset import Case, Dataset, case_digest


@dataclass(frozen=True)
class Split:
    """The cases of one fold.

    Attributes:
        train, val: their cases; no patient is in both.
        test: cases of the data set's own test part, if it has one.
        name: in words.
    """

    train: Sequence[Case]
    val: Sequence[Case]
    test: Sequence[Case]
    name: str

    def names(self) -> dict[str, list[str]]:
        """For records."""
        return {part: [case.name for case in getattr(self, part)] for part in ("train", "val", "test")}


def split_cases(dataset: Dataset, *, fold: int, folds: int, seed: int) -> Split:
    """One fold of a data set: its own parts or splits_final.json where it has them, else folds by patient.

    Raises:
        UserError: a patient in two parts, too few patients, or no such fold.
    """
    cases = dataset.labelled
    if any(case.part for case in cases):
        parts = {part: [case for case in cases if case.part == part] for part in ("train", "val", "test")}
        split = Split(parts["train"], parts["val"] or parts["test"], parts["test"], "the data set's own parts")
    elif dataset.folds:
        if fold >= len(dataset.folds):
            raise UserError(f"splits_final.json has {len(dataset.folds)} folds, there is no --fold {fold}")
        by_name = {case.name: case for case in cases}
        train, val = dataset.folds[fold]
        missing = [name for name in (*train, *val) if name not in by_name]
        if missing:
            raise UserError(f"splits_final.json names cases that are not here: {few(missing)}", "correct or remove it")
        split = Split(
            [by_name[name] for name in train], [by_name[name] for name in val], [], f"fold {fold} of splits_final.json"
        )
    else:
        split = _by_patient(cases, fold, folds, seed)
    check_patients(split)
    if not split.train or not split.val:
        raise UserError(
            f"{split.name}: {len(split.train)} cases to train on and {len(split.val)} to validate", "both are needed"
        )
    return split


def _by_patient(cases: Sequence[Case], fold: int, folds: int, seed: int) -> Split:
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise UserError(
            f"{counted(len(patients), 'patient')}: training and validation need one each",
            "add cases of another patient",
        )
    folds = min(folds, len(patients))
    if fold >= folds:
        raise UserError(f"there are {folds} folds, counted from 0: no --fold {fold}")
    order = np.random.default_rng(seed).permutation(len(patients))
    held_out = {patients[i] for i in order[fold::folds]}
    train = [case for case in cases if case.patient not in held_out]
    val = [case for case in cases if case.patient in held_out]
    return Split(train, val, [], f"fold {fold} of {folds}, by patient")


def check_images(split: Split) -> None:
    """No image is trained on and judged under another name.

    Raises:
        UserError: one is; names them. Every file is read for it.
    """
    trained = {case_digest(case): case.name for case in split.train}
    judged = {case.name: case_digest(case) for case in (*split.val, *split.test)}
    pairs = [f"{name} is {trained[digest]}" for name, digest in judged.items() if digest in trained]
    if pairs:
        raise UserError(
            f"{split.name}: {counted(len(pairs), 'held-out image')} in training under another name: {few(pairs)}",
            "take the copies away, or give them one patient by --patients table.csv",
        )


def check_patients(split: Split) -> None:
    """No patient is trained on and judged.

    Raises:
        UserError: one is; names them.
    """
    trained = {case.patient for case in split.train}
    shared = sorted(trained & {case.patient for case in (*split.val, *split.test)})
    if shared:
        raise UserError(
            f"{split.name}: {counted(len(shared), 'patient')} in training and in validation: {few(shared)}",
            "put all cases of a patient into one part, or remove the split to have folds made by patient",
        )
