"""What a training step does, and what validation measures."""

from typing import Any

import torch
from torch import Tensor

from core_runtime.training import Training
from gaze.cohort.study import Trial
from gaze.metrics.behaviour import behaviour_of, delta
from gaze.model.decoding import sample_paths
from gaze.model.oat import OAT, sequence_loss

_SAMPLES = 10  # paths per validation trial


class ScanpathTraining(Training):
    """Cross-entropy of the next object under teacher forcing, Adam."""

    def __init__(self, model: OAT, lr: float, seed: int, *, longest: int, behaviour: bool) -> None:
        super().__init__(model, seed)
        self.lr, self.longest, self.behaviour = lr, longest, behaviour
        self._judged: list[tuple[Trial, list[list[int]]]] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        scenes, steps, following, _ = batch
        loss = self._loss(scenes, steps, following)
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def on_validation_epoch_start(self) -> None:
        self._judged = []

    def validation_step(self, batch: Any, index: int) -> None:
        scenes, steps, following, trials = batch
        self.count(val_loss=self._loss(scenes, steps, following).item())
        if not self.behaviour:
            return
        assert isinstance(self.model, OAT)
        tokens = scenes.to(self.device).embed(self.model)
        seeds = [index * 1_000_003 + row for row in range(len(trials))]
        paths = sample_paths(self.model, tokens, samples=_SAMPLES, steps=self.longest, seeds=seeds)
        self._judged += [(trial, [path.objects for path in drawn]) for trial, drawn in zip(trials, paths, strict=True)]

    def on_validation_epoch_end(self) -> None:
        if not self._judged:
            return
        people = [behaviour_of(trial.objects, trial.target) for trial, _ in self._judged]
        model = [behaviour_of(path, trial.target) for trial, paths in self._judged for path in paths]
        self.count(val_delta=delta(model, people).value)

    def _loss(self, scenes: Any, steps: Tensor, following: Tensor) -> Tensor:
        tokens = scenes.to(self.device).embed(self.model)
        logits = self.model(tokens, steps.to(self.device))
        return sequence_loss(logits, following.to(self.device), padding=logits.shape[-1] - 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)
