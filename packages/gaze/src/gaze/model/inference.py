"""A model with its pre- and post-processing: a scene and a target in, paths out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gaze.model.batches import batch_scenes
from gaze.model.decoding import decode_greedily, follow_paths, sample_paths, search_beams
from gaze.model.durations import Durations
from gaze.model.folder import Prepared
from gaze.model.oat import OAT
from gaze.results import Prediction
from gaze.scenes.scene import Scene


@torch.inference_mode()
def predict_scenes(
    model: OAT,
    prepared: Prepared,
    scenes: Sequence[Scene],
    targets: Sequence[int | None],
    *,
    samples: int = 100,
    beams: int = 0,
    seed: int = 0,
    temperature: float = 1.0,
    longest: int | None = None,
) -> list[Prediction]:
    """Paths for many scenes at once; a scene's result does not depend on the others.

    Args:
        model: in eval mode.
        prepared: what it expects.
        scenes: with looks if the model was trained with them.
        targets: index of the searched object of each scene; None: none.
        samples: paths drawn per scene.
        beams: search the likeliest whole path with this many beams; 0: take the likeliest object at every step.
        seed: of the samples of every scene.
        temperature: of the samples.
        longest: fixations of the longest path; None: as long as the model's training paths were.
    """
    device = next(model.parameters()).device
    steps = longest or prepared.longest
    tokens = batch_scenes(scenes, targets).to(device).embed(model)
    drawn = sample_paths(
        model, tokens, samples=samples, steps=steps, seeds=[seed] * len(scenes), temperature=temperature
    )
    if beams:
        paths_of_scenes = [paths[0].objects for paths in search_beams(model, tokens, beams=beams, steps=steps)]
        best = follow_paths(model, tokens, paths_of_scenes, steps=steps)
    else:
        best = [paths[0] for paths in decode_greedily(model, tokens, steps=steps, probabilities=True)]
    predictions = []
    for scene, target, likeliest, paths in zip(scenes, targets, best, drawn, strict=True):
        assert likeliest.probabilities is not None
        objects = likeliest.objects
        columns = [*range(len(scene)), likeliest.probabilities.shape[1] - 1]
        steps_seen = likeliest.probabilities[:, columns].double().cpu().numpy()
        looked_at, first_at = visits([path.objects for path in paths], len(scene))
        centres = scene.centres[objects]
        timing = {}
        if prepared.durations is not None:
            timing = _timing(prepared.durations, objects, [path.objects for path in paths], target, len(scene), seed)
        predictions.append(
            Prediction(
                scene=scene.name,
                target=None if target is None else scene.names[target],
                objects=list(scene.names),
                likeliest=objects,
                samples=[path.objects for path in paths],
                x=centres[:, 0].round(2).tolist(),
                y=centres[:, 1].round(2).tolist(),
                step_probabilities=steps_seen.round(6).tolist(),
                looked_at=looked_at.round(4).tolist(),
                first_at=first_at.round(2).tolist(),
                beams=beams,
                longest=steps,
                stopped=likeliest.stopped,
                samples_stopped=sum(path.stopped for path in paths),
                **timing,
            )
        )
    return predictions


def _timing(
    durations: Durations,
    likeliest: Sequence[int],
    samples: Sequence[Sequence[int]],
    target: int | None,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """The fields of `Prediction` that say how long fixations last."""
    rng = np.random.default_rng(seed)
    drawn = [np.round(durations.draw(path, target, rng), 1).tolist() for path in samples]
    dwell = np.zeros(count)
    for path, lasted in zip(samples, drawn, strict=True):
        np.add.at(dwell, list(path), lasted)
    return {
        "durations": np.round(durations.typical(likeliest, target), 1).tolist(),
        "sample_durations": drawn,
        "dwell": (dwell / len(samples)).round(1).tolist(),
    }


def visits(paths: Sequence[Sequence[int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """(objects,) each: the share of paths that visit an object, and the mean step of the first visit, from 1 (NaN: never)."""
    first = np.full((len(paths), count), np.nan)
    for row, path in enumerate(paths):
        for step in range(len(path) - 1, -1, -1):
            first[row, path[step]] = step + 1
    visited = ~np.isnan(first)
    total = visited.sum(0)
    mean = np.divide(np.nansum(first, 0), total, out=np.full(count, np.nan), where=total > 0)
    return visited.mean(0), mean
