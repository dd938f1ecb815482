"""Every measure of a predictor against people, trial by trial, and people against each other: who is compared with whom is said.

*Pairing.* A predictor's paths for a trial (its samples) are compared with that trial's human path, averaged over the samples, then over
trials. A subject is compared with every other subject who searched the same target in the same scene, never with itself; that leave-one-out
mean is the human ceiling. Where nobody else searched it, there is no ceiling for the trial, and the count is said.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaze.cohort.study import Trial
from gaze.metrics.behaviour import BEHAVIOUR, Behaviour, behaviour_of, delta
from gaze.metrics.maps import nss
from gaze.metrics.multimatch import multimatch_pairs
from gaze.metrics.sequences import edit_distances, scanmatch_pairs, sequence_scores
from gaze.model.durations import Durations
from gaze.predictors.predictor import Predictor, log_likelihood
from gaze.scenes.scene import Scene

PEOPLE = "people (leave one out)"
PATH_MEASURES = (
    "sequence_score",
    "edit_distance",
    "scanmatch",
    "mm_vector",
    "mm_direction",
    "mm_length",
    "mm_position",
    "mm_duration",
)
LIKELIHOOD_MEASURES = ("log_likelihood", "bits", "auc")
_TOGETHER = 32  # trials whose paths are drawn together
MEASURES = (*PATH_MEASURES, "nss", *LIKELIHOOD_MEASURES)


@dataclass
class Judged:
    """Of one predictor, or of people.

    Attributes:
        name: of the predictor.
        rows: a row per trial: its name, scene, subject, target, and the measures; NaN where a measure cannot be told.
        behaviours: of all of its paths, with the behaviours of the people they are compared with.
        delta: distance of mean behaviours; NaN for people.
        pairs: how many pairs of paths were compared.
        short: pairs without MultiMatch because a path has fewer than three fixations.
        notes: what was left out.
    """

    name: str
    rows: list[dict[str, Any]]
    behaviours: list[Behaviour]
    delta: float
    pairs: int
    short: int
    notes: list[str] = field(default_factory=list)

    def column(self, measure: str) -> NDArray[np.float64]:
        return np.array([row[measure] for row in self.rows], np.float64)


def judge_predictor(
    predictor: Predictor,
    trials: Sequence[Trial],
    scenes: dict[str, Scene],
    *,
    samples: int,
    longest: int,
    seed: int = 0,
    durations: Durations | None = None,
) -> Judged:
    """All measures of a predictor on test trials.

    Args:
        predictor: a model or baseline.
        trials: to be judged on.
        scenes: by name.
        samples: paths per trial.
        longest: fixations of the longest predicted path.
        seed: of the samples; each trial has its own, whatever the others are.
        durations: from which those of its fixations are drawn; None: its paths have none, and MultiMatch's duration is not told.
    """
    rows, pairs, modelled, human = [], 0, [], []
    short = 0
    for start in range(0, len(trials), _TOGETHER):
        chunk = trials[start : start + _TOGETHER]
        probabilities = predictor.step_probabilities(chunk, scenes)
        drawn = predictor.sample(
            [scenes[trial.scene] for trial in chunk],
            [trial.target for trial in chunk],
            samples=samples,
            seeds=[seed * 1_000_003 + start + offset for offset in range(len(chunk))],
            longest=longest,
        )
        for trial, steps, paths in zip(chunk, probabilities, drawn, strict=True):
            scene = scenes[trial.scene]
            rng = np.random.default_rng(len(rows))
            points = [_timed(scene, path, trial.target, durations, rng) for path in paths]
            compared, without = _compare(points, paths, trial, scene)
            row = _described(trial) | compared | _likelihood(steps, trial)
            predicted = np.concatenate([scene.centres[path] for path in paths])
            row["nss"] = nss(predicted, trial.scanpath.points, scene.size)
            rows.append(row)
            pairs += len(paths)
            short += without
            modelled += [behaviour_of(path, trial.target) for path in paths]
            human.append(behaviour_of(trial.objects, trial.target))
    distance = delta(modelled, human)
    notes = [f"people never show {name!r}: it is left out of delta" for name in distance.left_out]
    return Judged(predictor.name, rows, modelled, distance.value, pairs, short, notes)


def judge_people(trials: Sequence[Trial], scenes: dict[str, Scene]) -> Judged:
    """Each subject against all others with the same scene and target."""
    groups: dict[tuple[str, Any], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[trial.scene, trial.target].append(trial)
    rows, pairs, short, alone = [], 0, 0, 0
    for trial in trials:
        others = [other for other in groups[trial.scene, trial.target] if other.subject != trial.subject]
        row = _described(trial) | dict.fromkeys(MEASURES, float("nan"))
        if not others:
            alone += 1
        else:
            scene = scenes[trial.scene]
            compared, without = _compare(
                [other.scanpath.timed_points for other in others], [other.objects for other in others], trial, scene
            )
            row |= compared
            looked = np.concatenate([other.scanpath.points for other in others])
            row["nss"] = nss(looked, trial.scanpath.points, scene.size)
            pairs += len(others)
            short += without
        rows.append(row)
    notes = []
    if alone:
        notes.append(f"{alone} of {len(trials)} searches that nobody else did have no ceiling of people")
    behaviours = [behaviour_of(trial.objects, trial.target) for trial in trials]
    return Judged(PEOPLE, rows, behaviours, float("nan"), pairs, short, notes)


def _described(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.name,
        "scene": trial.scene,
        "subject": trial.subject,
        "target": trial.target,
        "fixations": len(trial.objects),
        "digest": trial.digest,
    }


def _timed(
    scene: Scene, path: Sequence[int], target: int | None, durations: Durations | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A path of objects at their middles; how long it stays is drawn, or not known."""
    lasted = np.full(len(path), np.nan) if durations is None else durations.draw(path, target, rng)
    return np.column_stack([scene.centres[list(path)], lasted])


def _compare(
    points: Sequence[NDArray[np.float64]], objects: Sequence[Sequence[int]], trial: Trial, scene: Scene
) -> tuple[dict[str, float], int]:
    """Means over pairs of other paths with the trial's, and how many pairs MultiMatch cannot compare."""
    human = [trial.objects] * len(objects)
    truth = trial.scanpath.timed_points
    matched = multimatch_pairs([truth] * len(points), points, scene.size)
    letters = scanmatch_pairs([truth[:, :2]] * len(points), [path[:, :2] for path in points], scene.size)
    values = {
        "sequence_score": sequence_scores(human, objects).mean(),
        "edit_distance": edit_distances(human, objects).mean(),
        "scanmatch": letters.mean(),
    }
    with np.errstate(all="ignore"):
        usable = ~np.isnan(matched[:, 0])
        means = matched[usable].mean(0) if usable.any() else np.full(5, np.nan)
    names = ("mm_vector", "mm_direction", "mm_length", "mm_position", "mm_duration")
    values |= dict(zip(names, means.tolist(), strict=True))
    return {name: float(value) for name, value in values.items()}, int((~usable).sum())


def _likelihood(steps: NDArray[np.float64], trial: Trial) -> dict[str, float]:
    """How likely the human path is, per step with its stop; and how well each step's probabilities find the object."""
    logs = log_likelihood(steps, trial.objects)
    objects = steps.shape[1] - 1
    # the uniform alternative of one step: any object, or (after the first) a stop
    uniform = -np.log(np.full(len(logs), objects + 1.0))
    uniform[0] = -np.log(objects)
    # of one object among the others, the area under the ROC curve is the share of them that are less likely; equal ones count half
    shares = steps[:-1, :-1]
    fixated = shares[np.arange(len(shares)), list(trial.objects)][:, None]
    below = (shares < fixated).sum(1) + ((shares == fixated).sum(1) - 1) / 2
    areas = below / (objects - 1) if objects > 1 else np.full(len(shares), np.nan)
    return {
        "log_likelihood": float(logs.mean()),
        "bits": float((logs - uniform).mean() / np.log(2)),
        "auc": float(np.mean(areas)),
    }


def behaviour_means(behaviours: Sequence[Behaviour]) -> dict[str, float]:
    """Means over paths, by name."""
    return {name: float(np.mean([getattr(each, name) for each in behaviours])) for name in BEHAVIOUR}
