"""Which trials learn, which choose and which judge: by scene, by target or by subject, so that none is on both sides."""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from core_runtime.errors import UserError
from gaze.cohort.study import Study, Trial

SplitBy = Literal["image", "target", "subject", "trial", "published"]


@dataclass(frozen=True)
class Split:
    """Trials of each part.

    Attributes:
        by: what no two parts share.
    """

    by: SplitBy
    train: Sequence[Trial]
    valid: Sequence[Trial]
    test: Sequence[Trial]

    def parts(self) -> dict[str, Sequence[Trial]]:
        return {"train": self.train, "valid": self.valid, "test": self.test}


def unit_of(trial: Trial, by: SplitBy) -> Hashable:
    """What must not be on two sides of a split."""
    if by == "image":
        return trial.scene
    if by == "subject":
        return trial.subject
    if by == "target":
        if trial.scanpath.task is not None:
            return trial.scanpath.task
        return trial.target
    return trial.name


def split_trials(study: Study, by: SplitBy, *, shares: tuple[float, float] = (0.1, 0.1), seed: int = 0) -> Split:
    """A seeded split.

    Args:
        study: the trials.
        by: what no two parts share; "trial" as published, where the same scene, target and person are on both sides; "published" takes the
            parts that the data set names.
        shares: of validation and of test.
        seed: of the shuffle.

    Raises:
        UserError: too few to split, or no parts are published.
    """
    if by == "published":
        return _published(study)
    units = sorted({unit_of(trial, by) for trial in study.trials}, key=str)
    if len(units) < 3:
        raise UserError(
            f"--split {by}: {len(units)} of them cannot be split into three parts, training, validation and test",
            "choose another --split: image, target, subject or trial",
        )
    random.Random(seed).shuffle(units)
    valid_count = max(1, round(shares[0] * len(units)))
    test_count = max(1, round(shares[1] * len(units)))
    test = set(units[:test_count])
    valid = set(units[test_count : test_count + valid_count])
    return _divide(study, by, valid, test)


def folds(study: Study, by: SplitBy, count: int, *, seed: int = 0) -> list[Split]:
    """Cross-validation: every unit is tested once; the next fold validates.

    Raises:
        UserError: fewer units than folds.
    """
    units = sorted({unit_of(trial, by) for trial in study.trials}, key=str)
    if len(units) < count or count < 3:
        raise UserError(
            f"--split {by}: {len(units)} of them cannot make {count} folds", "choose 3 folds or more, or fewer"
        )
    random.Random(seed).shuffle(units)
    parts = [set(units[start::count]) for start in range(count)]
    return [_divide(study, by, parts[(i + 1) % count], parts[i]) for i in range(count)]


def _divide(study: Study, by: SplitBy, valid: set[Hashable], test: set[Hashable]) -> Split:
    parts: dict[str, list[Trial]] = {"train": [], "valid": [], "test": []}
    for trial in study.trials:
        unit = unit_of(trial, by)
        part = "test" if unit in test else "valid" if unit in valid else "train"
        parts[part].append(trial)
    return Split(by, parts["train"], parts["valid"], parts["test"])


def _published(study: Study) -> Split:
    parts: dict[str, list[Trial]] = {"train": [], "valid": [], "test": []}
    for trial in study.trials:
        if trial.split not in parts:
            raise UserError(f"--split published: {trial.name} is in no published part", "choose --split image")
        parts[trial.split].append(trial)
    if not parts["train"] or not (parts["valid"] or parts["test"]):
        raise UserError("--split published: the file holds one part alone", "give a folder that holds all of them")
    # COCO-Search18's test part is not published: then its validation part judges too
    return Split("published", parts["train"], parts["valid"] or parts["test"], parts["test"] or parts["valid"])
