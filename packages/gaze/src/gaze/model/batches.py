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
    """Scenes, padded to the largest; the arguments of `OAT.embed`. N is the number of objects of the largest.

    Attributes:
        crops: (different scenes, N, 3, height, width); None: looks are not known.
        crops_of: (scenes,), which of them each row shows: what looks alike is looked at once.
        places, specials, valid, target: a row per scene.
    """

    crops: Tensor | None
    crops_of: Tensor
    places: Tensor
    specials: Tensor
    valid: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> "SceneBatch":
        moved = {name: None if value is None else value.to(device) for name, value in self.__dict__.items()}
        return SceneBatch(**moved)  # pyright: ignore[reportArgumentType]

    def embed(self, model: OAT) -> Tokens:
        return model.embed(
            self.crops, self.places, self.target, crops_of=self.crops_of, valid=self.valid, specials=self.specials
        )


def batch_scenes(scenes: Sequence[Scene], targets: Sequence[int | None]) -> SceneBatch:
    """One row per scene and target; a scene may be there several times.

    Args:
        scenes: all with looks, or all without.
        targets: index of the searched object; None: nothing of the scene is searched.
    """
    count = max(map(len, scenes))
    different = list({id(scene): scene for scene in scenes}.values())
    row_of = {id(scene): row for row, scene in enumerate(different)}
    crops_of = torch.tensor([row_of[id(scene)] for scene in scenes])
    places = torch.zeros(len(different), count, 2)
    specials = torch.zeros(len(different), 4, 2)
    valid = torch.zeros(len(different), count, dtype=torch.bool)
    for row, scene in enumerate(different):
        places[row, : len(scene)] = torch.from_numpy(scene.places.astype(np.float32))
        specials[row] = torch.from_numpy(scene.layout.specials(count).astype(np.float32))
        valid[row, : len(scene)] = True
    crops = None
    first = different[0].crops
    if first is not None:
        crops = torch.zeros(len(different), count, *first.shape[1:])
        for row, scene in enumerate(different):
            assert scene.crops is not None
            crops[row, : len(scene)] = torch.from_numpy(scene.crops)
    target = torch.tensor([-1 if index is None else index for index in targets])
    return SceneBatch(crops, crops_of, places[crops_of], specials[crops_of], valid[crops_of], target)


def batch_trials(trials: Sequence[Trial], scenes: dict[str, Scene]) -> tuple[SceneBatch, Tensor, Tensor]:
    """Scenes of the trials, what the decoder reads, and what follows (padding: N + 1)."""
    batch = batch_scenes([scenes[trial.scene] for trial in trials], [trial.target for trial in trials])
    steps, following = pad_steps([trial.objects for trial in trials], batch.valid.shape[1])
    return batch, steps, following
