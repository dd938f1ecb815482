"""Baselines of a few numbers: uniform, centre, nearest step, and winner-take-all over saliency (Itti and Koch 2001).

Each says how attractive objects are after the fixations so far; how long paths are is learned from training paths, alike for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.cohort.study import Trial
from gaze.scenes.saliency import object_saliency
from gaze.scenes.scene import Scene

# of a scene and (paths, steps) fixations so far: (paths, objects)
Weights = Callable[[Scene, NDArray[np.int64]], NDArray[np.float64]]
_FEW = 256  # objects of a scene, up to which the steps from all of them are worked out once
_FLOOR = 1e-6  # of the largest weight, so that nothing that people do is impossible


@dataclass
class StepBaseline:
    """Objects are chosen in proportion to a weight that depends on the scene and the fixations so far.

    Attributes:
        name: for tables.
        weights: of the objects before a step, for many paths of one scene at once.
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
        path = np.asarray(objects, np.int64)[None]
        rows = [self._next(scene, path[:, :step]) for step in range(len(objects) + 1)]
        return np.concatenate(rows)

    def _next(self, scene: Scene, before: NDArray[np.int64]) -> NDArray[np.float64]:
        """(paths, objects + 1): probabilities of what follows, the stop in the last column."""
        weights = self.weights(scene, before)
        weights = np.maximum(weights, weights.max(1, keepdims=True) * _FLOOR)
        stop = self.stops[min(before.shape[1], len(self.stops) - 1)]
        shares = weights / weights.sum(1, keepdims=True) * (1 - stop)
        return np.pad(shares, ((0, 0), (0, 1)), constant_values=stop)

    def sample(
        self,
        scenes: Sequence[Scene],
        targets: Sequence[int | None],
        *,
        samples: int,
        seeds: Sequence[int],
        longest: int,
    ) -> list[list[list[int]]]:
        return [self._sample(scene, samples, seed, longest) for scene, seed in zip(scenes, seeds, strict=True)]

    def _sample(self, scene: Scene, samples: int, seed: int, longest: int) -> list[list[int]]:
        draws = np.random.default_rng(seed).random((samples, longest))
        paths = np.zeros((samples, longest), np.int64)
        lengths = np.full(samples, longest)
        going = np.arange(samples)
        for step in range(longest):
            shares = self._next(scene, paths[going, :step]).cumsum(1)
            # the first choice whose cumulative share exceeds the draw, which is scaled to a total that rounding may leave below 1
            choice = (shares <= draws[going, step, None] * shares[:, -1:]).sum(1)
            stopped = choice == len(scene)
            lengths[going[stopped]] = step
            going, choice = going[~stopped], choice[~stopped]
            if not len(going):
                break
            paths[going, step] = choice
        return [path[:length].tolist() for path, length in zip(paths, lengths, strict=True)]


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

    def weights(scene: Scene, before: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones((len(before), len(scene)))

    return StepBaseline("uniform", weights, stop_probabilities(trials))


def centre(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """Objects near the middle of the picture; how near is learned: a normal distribution with the spread of training fixations."""
    offsets = [_offsets(scenes[trial.scene])[list(trial.objects)] for trial in trials]
    spread = np.sqrt((np.concatenate(offsets) ** 2).mean(0))

    def weights(scene: Scene, before: NDArray[np.int64]) -> NDArray[np.float64]:
        near = np.exp(-((_offsets(scene) / np.maximum(spread, 1e-3)) ** 2).sum(1) / 2)
        return np.broadcast_to(near, (len(before), len(scene)))

    settings = {"spread_x": float(spread[0]), "spread_y": float(spread[1])}
    return StepBaseline("centre", weights, stop_probabilities(trials), settings)


def _offsets(scene: Scene) -> NDArray[np.float64]:
    """From the middle of the picture, in shares of its size."""
    return scene.centres / np.asarray(scene.size) - 0.5


def nearest_step(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """Objects near the last fixation. Learned: how often people stay on the object, and how far they reach when they leave it.

    Of a row of reaches the likeliest for training paths is taken. The first fixation is as under `centre`.
    """
    first = centre(trials, scenes)
    reach, staying = _reach_and_staying(trials, scenes)

    def weights(scene: Scene, before: NDArray[np.int64]) -> NDArray[np.float64]:
        if not before.shape[1]:
            return first.weights(scene, before)
        last = before[:, -1]
        if len(scene) <= _FEW:
            return _all_near(scene, reach, staying)[last]
        return _near(scene, last, reach, staying)

    settings = {"reach_in_cells": reach, "refixations": staying}
    return StepBaseline("nearest step", weights, stop_probabilities(trials), settings)


def _reach_and_staying(trials: Sequence[Trial], scenes: dict[str, Scene]) -> tuple[float, float]:
    reaches = np.geomspace(0.2, 20, 30)
    scores = np.zeros(len(reaches))
    stays = steps = 0
    for trial in trials:
        path = np.asarray(trial.objects)
        leaves = path[1:] != path[:-1]
        steps += len(leaves)
        stays += int((~leaves).sum())
        last, following = path[:-1][leaves], path[1:][leaves]
        distance = _distances(scenes[trial.scene], last)
        distance[np.arange(len(last)), last] = np.inf
        for i, reach in enumerate(reaches):
            # shifted by the nearest, so that far objects of a short reach do not all vanish
            shifted = (distance.min(1, initial=np.inf, keepdims=True) - distance) / reach
            scores_of_next = shifted[np.arange(len(last)), following]
            scores[i] += (scores_of_next - np.log(np.exp(shifted).sum(1))).sum()
    return float(reaches[int(np.argmax(scores))]), stays / max(steps, 1)


def _distances(scene: Scene, objects: NDArray[np.int64]) -> NDArray[np.float64]:
    """(objects, objects of the scene), in cells."""
    return np.linalg.norm(scene.places[objects, None] - scene.places, axis=-1)


@lru_cache(64)
def _all_near(scene: Scene, reach: float, staying: float) -> NDArray[np.float64]:
    return _near(scene, np.arange(len(scene)), reach, staying)


def _near(scene: Scene, last: NDArray[np.int64], reach: float, staying: float) -> NDArray[np.float64]:
    """(paths, objects): from the last object of each path the probability of the next."""
    if len(scene) == 1:
        return np.ones((len(last), 1))
    row = np.arange(len(last))
    distance = _distances(scene, last)
    distance[row, last] = np.inf
    weights = np.exp((distance.min(1, keepdims=True) - distance) / reach)
    weights *= (1 - staying) / weights.sum(1, keepdims=True)
    weights[row, last] = staying
    return weights


def winner_take_all(trials: Sequence[Trial], scenes: dict[str, Scene]) -> StepBaseline:
    """The most salient object that was not looked at lately; how sharply and how long objects are avoided is learned.

    Raises:
        UserError: a scene without a picture.
    """
    saliency = {name: _saliency(scene) for name, scene in scenes.items()}

    def likelihood(sharpness: float, memory: int) -> float:
        total = 0.0
        for trial in trials:
            path = np.asarray(trial.objects)
            for step, following in enumerate(path):
                weights = _attraction(saliency[trial.scene], path[None, :step], sharpness, memory)[0]
                total += float(np.log(weights[following] / weights.sum()))
        return total

    choices = [(sharpness, memory) for sharpness in (0.5, 1.0, 2.0, 4.0) for memory in (0, 1, 3, 6)]
    sharpness, memory = max(choices, key=lambda pair: likelihood(*pair))

    def weights(scene: Scene, before: NDArray[np.int64]) -> NDArray[np.float64]:
        known = saliency.get(scene.name)
        if known is None:
            known = saliency.setdefault(scene.name, _saliency(scene))
        return _attraction(known, before, sharpness, memory)

    settings = {"sharpness": sharpness, "fixations_avoided": float(memory)}
    return StepBaseline("saliency", weights, stop_probabilities(trials), settings)


def _attraction(
    saliency: NDArray[np.float64], before: NDArray[np.int64], sharpness: float, memory: int
) -> NDArray[np.float64]:
    """(paths, objects)."""
    weights = np.tile(np.maximum(saliency, 0.01) ** sharpness, (len(before), 1))
    if memory and before.shape[1]:
        # inhibition of return: lately visited objects are hardly chosen
        recent = before[:, -memory:]
        np.put_along_axis(weights, recent, np.take_along_axis(weights, recent, 1) * 0.05, 1)
    return weights


def _saliency(scene: Scene) -> NDArray[np.float64]:
    if scene.picture is None:
        raise UserError(f"the saliency baseline needs the picture of {scene.name!r}", "give --images FOLDER")
    return object_saliency(scene.picture, scene.boxes, scene.size)


def baselines(trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[StepBaseline]:
    """All that can be made: saliency only where every scene has its picture."""
    predictors = [uniform(trials, scenes), centre(trials, scenes), nearest_step(trials, scenes)]
    if all(scene.picture is not None for scene in scenes.values()):
        predictors.append(winner_take_all(trials, scenes))
    return predictors
