"""Baselines of a few numbers: uniform, centre, nearest step, and winner-take-all over saliency (Itti and Koch 2001).

Each says how attractive objects are after the fixations so far; how long paths are is learned from training paths, alike for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.cohort.study import Trial
from gaze.scenes.saliency import object_saliency
from gaze.scenes.scene import Scene

Weights = Callable[[Scene, Sequence[int]], NDArray[np.float64]]
_FLOOR = 1e-6  # of the largest weight, so that nothing that people do is impossible


@dataclass
class StepBaseline:
    """Objects are chosen in proportion to a weight that depends on the scene and the fixations so far.

    Attributes:
        name: for tables.
        weights: of the objects, before a step.
        stops: probability of a stop after n fixations, for n = 0, 1, …; the last holds for all longer paths.
        settings: what was learned, for the report.
    """

    name: str
    weights: Weights
    stops: NDArray[np.float64]
    settings: dict[str, float] = field(default_factory=dict)

    def step_probabilities(self, trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[NDArray[np.float64]]:
        return [self._of_path(scenes[trial.scene], trial.objects) for trial in trials]

    def _of_path(self, scene: Scene, objects: Sequence[int]) -> NDArray[np.float64]:
        rows = [self._next(scene, objects[:step]) for step in range(len(objects) + 1)]
        return np.stack(rows)

    def _next(self, scene: Scene, before: Sequence[int]) -> NDArray[np.float64]:
        weights = self.weights(scene, before)
        weights = np.maximum(weights, weights.max() * _FLOOR)
        stop = self.stops[min(len(before), len(self.stops) - 1)]
        return np.append(weights / weights.sum() * (1 - stop), stop)

    def sample(self, scene: Scene, target: int | None, *, samples: int, seed: int, longest: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        paths = []
        for _ in range(samples):
            path: list[int] = []
            while len(path) < longest:
                choice = int(rng.choice(len(scene) + 1, p=self._next(scene, path)))
                if choice == len(scene):
                    break
                path.append(choice)
            paths.append(path)
        return paths


def stop_probabilities(trials: Sequence[Trial]) -> NDArray[np.float64]:
    """After how many fixations training paths stop: the hazard, smoothed by one stop in ten; never before the first fixation."""
    lengths = np.array([len(trial.objects) for trial in trials])
    longest = lengths.max()
    hazard = np.zeros(longest + 1)
    for n in range(1, longest + 1):
        still_going = (lengths >= n).sum()
        hazard[n] = ((lengths == n).sum() + 0.1) / (still_going + 1)
    return hazard


def uniform(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """Every object alike."""

    def weights(scene: Scene, before: Sequence[int]) -> NDArray[np.float64]:
        return np.ones(len(scene))

    return StepBaseline("uniform", weights, stop_probabilities(trials))


def centre(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """Objects near the middle of the picture; how near is learned: a normal distribution with the spread of training fixations."""
    offsets = [_offsets(scenes[trial.scene])[list(trial.objects)] for trial in trials]
    spread = np.sqrt((np.concatenate(offsets) ** 2).mean(0))

    def weights(scene: Scene, before: Sequence[int]) -> NDArray[np.float64]:
        return np.exp(-((_offsets(scene) / np.maximum(spread, 1e-3)) ** 2).sum(1) / 2)

    settings = {"spread_x": float(spread[0]), "spread_y": float(spread[1])}
    return StepBaseline("centre", weights, stop_probabilities(trials), settings)


def _offsets(scene: Scene) -> NDArray[np.float64]:
    """From the middle of the picture, in shares of its size."""
    return scene.centres / np.asarray(scene.size) - 0.5


def nearest_step(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """Objects near the last fixation, itself included; the reach is learned: of a row of reaches the likeliest for training paths.

    The first fixation is as under `centre`.
    """
    first = centre(trials, scenes)
    steps = [
        (scenes[trial.scene], a, b) for trial in trials for a, b in zip(trial.objects, trial.objects[1:], strict=False)
    ]
    reaches = np.geomspace(0.2, 20, 30)
    scores = [sum(np.log(_near(scene, a, reach)[b]) for scene, a, b in steps) for reach in reaches]
    reach = float(reaches[int(np.argmax(scores))]) if steps else 1.0
    repeats = np.mean([a == b for _, a, b in steps]) if steps else 0.0

    def weights(scene: Scene, before: Sequence[int]) -> NDArray[np.float64]:
        if not before:
            return first.weights(scene, before)
        others = _near(scene, before[-1], reach)
        others[before[-1]] = 0
        others *= (1 - repeats) / max(others.sum(), 1e-12)
        others[before[-1]] = repeats
        return others

    settings = {"reach_in_cells": reach, "refixations": float(repeats)}
    return StepBaseline("nearest step", weights, stop_probabilities(trials), settings)


def _near(scene: Scene, last: int, reach: float) -> NDArray[np.float64]:
    places = scene.places
    distance = np.linalg.norm(places - places[last], axis=1)
    weights = np.exp(-distance / reach)
    return weights / weights.sum()


def winner_take_all(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """The most salient object that was not looked at lately; how sharply and how long objects are avoided is learned.

    Raises:
        UserError: a scene without a picture.
    """
    saliency = {name: _saliency(scene) for name, scene in scenes.items()}

    def likelihood(sharpness: float, memory: int) -> float:
        total = 0.0
        for trial in trials:
            for step, following in enumerate(trial.objects):
                weights = _attraction(saliency[trial.scene], trial.objects[:step], sharpness, memory)
                total += float(np.log(weights[following] / weights.sum()))
        return total

    choices = [(sharpness, memory) for sharpness in (0.5, 1.0, 2.0, 4.0) for memory in (0, 1, 3, 6)]
    sharpness, memory = max(choices, key=lambda pair: likelihood(*pair))

    def weights(scene: Scene, before: Sequence[int]) -> NDArray[np.float64]:
        known = saliency.get(scene.name)
        if known is None:
            known = saliency.setdefault(scene.name, _saliency(scene))
        return _attraction(known, before, sharpness, memory)

    settings = {"sharpness": sharpness, "fixations_avoided": float(memory)}
    return StepBaseline("saliency", weights, stop_probabilities(trials), settings)


def _attraction(
    saliency: NDArray[np.float64], before: Sequence[int], sharpness: float, memory: int
) -> NDArray[np.float64]:
    weights = np.maximum(saliency, 0.01) ** sharpness
    if memory and before:
        # inhibition of return: lately visited objects are hardly chosen
        weights = weights.copy()
        weights[list(before[-memory:])] *= 0.05
    return weights


def _saliency(scene: Scene) -> NDArray[np.float64]:
    if scene.picture is None:
        raise UserError(f"the saliency baseline needs the picture of {scene.name!r}", "give --images FOLDER")
    return object_saliency(scene.picture, scene.boxes, scene.size)


def baselines(trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[StepBaseline]:
    """All that can be made: saliency only where every scene has its picture."""
    made = [uniform(trials, scenes), centre(trials, scenes), nearest_step(trials, scenes)]
    if all(scene.picture is not None for scene in scenes.values()):
        made.append(winner_take_all(trials, scenes))
    return made
