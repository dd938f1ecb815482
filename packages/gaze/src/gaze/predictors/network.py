"""OAT as a predictor; and the pixel baseline, the same network over equal patches of the picture in place of objects."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from gaze.cohort.study import Trial
from gaze.model.batches import batch_scenes, batch_trials
from gaze.model.decoding import decode_greedily, sample_paths, search_beams
from gaze.model.folder import Prepared
from gaze.model.oat import OAT
from gaze.scenes.grids import equal_grid
from gaze.scenes.scene import Layout, Scene, cut_crops

_BATCH = 16  # trials at a time


class NetworkPredictor:
    """A trained network, in eval mode."""

    def __init__(self, model: OAT, prepared: Prepared, name: str = "OAT") -> None:
        self.model, self.prepared, self.name = model, prepared, name

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def step_probabilities(self, trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[NDArray[np.float64]]:
        result: list[NDArray[np.float64]] = []
        for start in range(0, len(trials), _BATCH):
            chunk = list(trials[start : start + _BATCH])
            result += self._chunk(chunk, scenes)
        return result

    def _chunk(self, trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[NDArray[np.float64]]:
        batch, steps, _ = batch_trials(trials, scenes)
        tokens = batch.to(self.device).embed(self.model)
        logits = self.model(tokens, steps.to(self.device))[..., :-1]
        logits[:, 0, -1] = -torch.inf  # a path has at least one fixation
        probabilities = logits.double().softmax(-1).cpu().numpy()
        result = []
        for trial, rows in zip(trials, probabilities, strict=True):
            count = len(scenes[trial.scene])
            columns = [*range(count), rows.shape[1] - 1]
            result.append(rows[: len(trial.objects) + 1][:, columns])
        return result

    @torch.inference_mode()
    def sample(
        self,
        scenes: Sequence[Scene],
        targets: Sequence[int | None],
        *,
        samples: int,
        seeds: Sequence[int],
        longest: int,
    ) -> list[list[list[int]]]:
        result: list[list[list[int]]] = []
        for start in range(0, len(scenes), _BATCH):
            some = slice(start, start + _BATCH)
            tokens = batch_scenes(scenes[some], targets[some]).to(self.device).embed(self.model)
            paths = sample_paths(self.model, tokens, samples=samples, steps=longest, seeds=seeds[some])
            result += [[path.objects for path in drawn] for drawn in paths]
        return result

    @torch.inference_mode()
    def greedy(self, scene: Scene, target: int | None, *, longest: int) -> list[int]:
        """The likeliest object at every step."""
        tokens = batch_scenes([scene], [target]).to(self.device).embed(self.model)
        return decode_greedily(self.model, tokens, steps=longest)[0][0].objects

    @torch.inference_mode()
    def beams(self, scene: Scene, target: int | None, *, beams: int, longest: int) -> list[list[int]]:
        """The likeliest whole paths, the likeliest first."""
        tokens = batch_scenes([scene], [target]).to(self.device).embed(self.model)
        return [path.objects for path in search_beams(self.model, tokens, beams=beams, steps=longest)[0]]


class PatchPredictor:
    """The pixel baseline: a network over equal patches, whose paths and probabilities are read as those of objects.

    A patch counts for the object that is nearest to its middle; an object that is nearest to no patch shares its nearest patch.
    """

    name = "pixels"

    def __init__(self, network: NetworkPredictor) -> None:
        self.network = network
        self.rows, self.columns = network.prepared.patches

    def step_probabilities(self, trials: Sequence[Trial], scenes: dict[str, Scene]) -> list[NDArray[np.float64]]:
        patches = {name: self.scene_of(scene) for name, scene in scenes.items()}
        read = [self.trial_of(trial, scenes[trial.scene], patches[trial.scene]) for trial in trials]
        result = []
        for trial, rows in zip(trials, self.network.step_probabilities(read, patches), strict=True):
            shares = patch_shares(scenes[trial.scene], patches[trial.scene])
            result.append(np.column_stack([rows[:, :-1] @ shares, rows[:, -1]]))
        return result

    def sample(
        self,
        scenes: Sequence[Scene],
        targets: Sequence[int | None],
        *,
        samples: int,
        seeds: Sequence[int],
        longest: int,
    ) -> list[list[list[int]]]:
        patches = {id(scene): self.scene_of(scene) for scene in scenes}
        drawn = [patches[id(scene)] for scene in scenes]
        aims = []
        for scene, target in zip(scenes, targets, strict=True):
            aim = None
            if target is not None:
                aim = nearest(patches[id(scene)].centres, scene.centres[target])
            aims.append(aim)
        paths = self.network.sample(drawn, aims, samples=samples, seeds=seeds, longest=longest)
        result = []
        for scene, own, seed in zip(scenes, paths, seeds, strict=True):
            shares = patch_shares(scene, patches[id(scene)])
            rng = np.random.default_rng(seed)
            result.append([[int(rng.choice(len(scene), p=shares[patch])) for patch in path] for path in own])
        return result

    def scene_of(self, scene: Scene) -> Scene:
        return patch_scene(scene, self.rows, self.columns, self.network.model.config.crop)

    def trial_of(self, trial: Trial, scene: Scene, patches: Scene) -> Trial:
        return patch_trial(trial, scene, patches)


def patch_scene(scene: Scene, rows: int, columns: int, crop: tuple[int, int]) -> Scene:
    """The same display as equal patches."""
    grid = equal_grid(rows, columns, scene.size)
    names = [f"patch {i + 1}" for i in range(rows * columns)]
    crops = None
    if scene.picture is not None and scene.crops is not None:
        crops = _cut(scene.picture, rows, columns, scene.size, crop)
    return Scene(scene.name, scene.size, names, grid.boxes(), Layout.of_grid(grid), crops, scene.picture)


@lru_cache(256)
def _cut(picture, rows: int, columns: int, size: tuple[int, int], crop: tuple[int, int]):
    return cut_crops(picture, equal_grid(rows, columns, size).boxes(), crop, size)


def patch_trial(trial: Trial, scene: Scene, patches: Scene) -> Trial:
    """The same path as patches: where the fixations are, not where the objects' middles are."""
    points = trial.scanpath.points
    distance = np.linalg.norm(points[:, None] - patches.centres, axis=-1)
    target = None
    if trial.target is not None:
        target = nearest(patches.centres, scene.centres[trial.target])
    return replace(trial, objects=distance.argmin(1).tolist(), target=target)


def nearest(points: NDArray[np.float64], point: NDArray[np.float64]) -> int:
    """Index of the point that is nearest."""
    return int(np.linalg.norm(points - point, axis=1).argmin())


def patch_shares(scene: Scene, patches: Scene) -> NDArray[np.float64]:
    """(patches, objects): how a patch's probability is shared among objects; rows sum to 1."""
    distance = np.linalg.norm(patches.centres[:, None] - scene.centres, axis=-1)
    shares = np.zeros(distance.shape)
    shares[np.arange(len(distance)), distance.argmin(1)] = 1
    for lonely in np.flatnonzero(shares.sum(0) == 0):
        shares[distance[:, lonely].argmin(), lonely] = 1
    return shares / shares.sum(1, keepdims=True)
