"""Which strategy a subject follows: row by row, by what stands out, or near by without coming back. Each is a distribution; the likeliest names it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaze.cohort.study import Trial
from gaze.scenes.scene import Scene

STRATEGIES = {"raster": "row by row", "saliency": "by what stands out", "memory": "to near objects not seen yet"}
_SLIP = 0.1  # of the steps that follow no strategy


@dataclass(frozen=True)
class Strategy:
    """Of one subject.

    Attributes:
        name: "raster", "saliency" or "memory"; "undecided" where the next best is hardly less likely.
        bits: per step, how much likelier the paths are under it than under the next best.
        scores: bits per step over a uniform choice, by strategy.
        steps: how many steps were judged.
    """

    name: str
    bits: float
    scores: dict[str, float]
    steps: int


def name_strategy(
    trials: Sequence[Trial], scenes: dict[str, Scene], saliency: dict[str, NDArray[np.float64]]
) -> Strategy:
    """Judges the steps of one subject's paths.

    Args:
        trials: of the subject.
        scenes: by name.
        saliency: of each scene's objects, between 0 and 1.
    """
    totals = dict.fromkeys(STRATEGIES, 0.0)
    steps = 0
    for trial in trials:
        scene = scenes[trial.scene]
        for step in range(1, len(trial.objects)):
            before, following = trial.objects[:step], trial.objects[step]
            if following in (before[-1], trial.target):
                continue  # staying, and going to what was found, say nothing of how one searches
            steps += 1
            for name, weights in _choices(scene, saliency[trial.scene], before).items():
                probability = (1 - _SLIP) * weights[following] + _SLIP / len(scene)
                totals[name] += float(np.log2(probability * len(scene)))
    scores = {name: total / max(steps, 1) for name, total in totals.items()}
    best, second = sorted(scores, key=lambda name: -scores[name])[:2]
    lead = scores[best] - scores[second]
    return Strategy(best if steps and lead > 0.05 else "undecided", lead, scores, steps)


def _choices(scene: Scene, saliency: NDArray[np.float64], before: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Probabilities of the next object under each strategy."""
    new = np.ones(len(scene), bool)
    new[list(before)] = False
    if not new.any():
        new[:] = True
    places = scene.places
    order = np.lexsort((places[:, 1], np.round(places[:, 0])))
    rank = np.empty(len(scene), int)
    rank[order] = np.arange(len(scene))
    ahead = np.where(new, (rank - rank[before[-1]]) % len(scene), len(scene))
    distance = np.linalg.norm(places - places[before[-1]], axis=1)
    weights = {
        "raster": np.exp(-(ahead - ahead.min())),
        "saliency": np.exp(8 * saliency),
        "memory": np.exp(-distance),
    }
    return {name: weight * new / (weight * new).sum() for name, weight in weights.items()}
