"""Scenes and trials as the tensors that OAT takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaze.cohort.study import Trial
from gaze.model.decoding import pad_steps
from gaze.model.oat import OAT, Tokens
from gaze.scenes.scene import Scene


@dataclass(frozen=True)
class SceneBatch:
    """Scenes, padded to the largest; the arguments of `OAT.embed`. N is the number of objects of the largest."""

    crops: Tensor | None
    places: Tensor
    specials: Tensor
    valid: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> "SceneBatch":
        crops = None if self.crops is None else self.crops.to(device)
        places, specials = self.places.to(device), self.specials.to(device)
        return SceneBatch(crops, places, specials, self.valid.to(device), self.target.to(device))

    def embed(self, model: OAT) -> Tokens:
        return model.embed(self.crops, self.places, self.target, valid=self.valid, specials=self.specials)


def batch_scenes(scenes: Sequence[Scene], targets: Sequence[int | None]) -> SceneBatch:
    """One row per scene and target.

    Args:
        scenes: all with looks, or all without.
        targets: index of the searched object; None: nothing of the scene is searched.
    """
    count = max(map(len, scenes))
    places = torch.zeros(len(scenes), count, 2)
    specials = torch.zeros(len(scenes), 4, 2)
    valid = torch.zeros(len(scenes), count, dtype=torch.bool)
    for row, scene in enumerate(scenes):
        places[row, : len(scene)] = torch.from_numpy(scene.places.astype(np.float32))
        specials[row] = torch.from_numpy(scene.layout.specials(count).astype(np.float32))
        valid[row, : len(scene)] = True
    crops = None
    first = scenes[0].crops
    if first is not None:
        crops = torch.zeros(len(scenes), count, *first.shape[1:])
        for row, scene in enumerate(scenes):
            assert scene.crops is not None
            crops[row, : len(scene)] = torch.from_numpy(scene.crops)
    target = torch.tensor([-1 if index is None else index for index in targets])
    return SceneBatch(crops, places, specials, valid, target)


def batch_trials(trials: Sequence[Trial], scenes: dict[str, Scene]) -> tuple[SceneBatch, Tensor, Tensor]:
    """Scenes of the trials, what the decoder reads, and what follows (padding: N + 1)."""
    batch = batch_scenes([scenes[trial.scene] for trial in trials], [trial.target for trial in trials])
    steps, following = pad_steps([trial.objects for trial in trials], batch.valid.shape[1])
    return batch, steps, following
