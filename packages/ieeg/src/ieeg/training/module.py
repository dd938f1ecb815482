"""Training: both objectives, AdamW and its schedule, measures on the patients held out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core_runtime import training
from core_runtime.options import RunOptions
from ieeg.metrics.scores import cohen_kappa, pooled, score_events, score_samples, to_events
from ieeg.model.inference import probabilities
from ieeg.model.lora import freeze_base
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.objective import contrastive_logits, contrastive_loss, sample_negatives
from ieeg.training.data import Batch, FixedWindows, WindowData, WindowModule
from ieeg.training.recipe import Recipe
from ieeg.training.sources import Source


class MVPFormerTraining(training.Training):
    """Loss, AdamW, a cosine after a warm-up, updated every step."""

    def __init__(self, model: MVPFormer, recipe: Recipe, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        weights = None
        if recipe.class_weights:
            weights = torch.tensor(recipe.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.validated: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self.recipe.task == "pretrain":
            loss = contrastive_loss(self._generative(batch, self.recipe.law))
        else:
            loss = F.cross_entropy(self.model(batch.x), batch.y, weight=self.class_weights)  # pyright: ignore[reportArgumentType]
        self.count(train_loss=loss.item())
        return self.finite(loss, f"patient {batch.patient}")

    def _generative(self, batch: Batch, law: Any, generator: torch.Generator | None = None) -> Tensor:
        assert isinstance(self.model, MVPFormer)
        encoded = self.model.encode(batch.x)
        predicted = self.model.predict_next(encoded)
        windows, time, channels = encoded.shape[:3]
        negatives = sample_negatives(windows, time, channels, self.recipe.negatives, law=law, generator=generator)
        return contrastive_logits(predicted, encoded, negatives.to(encoded.device), temperature=self.recipe.temperature)

    def validation_step(self, batch: Batch, index: int) -> None:
        if self.recipe.task == "detect":
            self.validated.append((self.model(batch.x).float(), batch.y))
            return
        # seeded: every epoch, and every run, is evaluated with the same negatives
        logits = self._generative(batch, "uniform", torch.Generator().manual_seed(index)).float()
        self.validated.append((logits[:, 0] - logits.logsumexp(1), logits.argmax(1) == 0))

    def on_validation_epoch_end(self) -> None:
        # Every process evaluates all batches, so nothing is gathered. The meaning of the two parts depends on the task.
        first, second = (torch.cat(parts) for parts in zip(*self.validated, strict=True))
        self.validated.clear()
        if self.recipe.task == "pretrain":
            likelihood, is_nearest = first, second
            self.count(val_loss=-likelihood.mean().item(), val_accuracy=is_nearest.float().mean().item())
        else:
            logits, truth = first, second
            self.count(**judged(logits, truth))

    def configure_optimizers(self) -> Any:
        recipe, steps = self.recipe, int(self.trainer.estimated_stepping_batches)
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, recipe.lr, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps, recipe.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def judged(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """Window-level measures at the threshold 0.5: loss, kappa, F1, and the area under the ROC curve (NaN with one class)."""
    from torchmetrics.functional.classification import binary_auroc

    odds = logits[:, 1] - logits[:, 0]
    positive, true = odds > 0, truth.bool()
    tp, fp = int((positive & true).sum()), int((positive & ~true).sum())
    fn, tn = int((~positive & true).sum()), int((~positive & ~true).sum())
    f1, auroc = float("nan"), float("nan")
    if tp + fp + fn:
        f1 = 2 * tp / (2 * tp + fp + fn)
    if 0 < int(true.sum()) < len(true):
        auroc = float(binary_auroc(odds.sigmoid(), truth))
    return {
        "val_loss": F.cross_entropy(logits, truth).item(),
        "val_kappa": cohen_kappa(tp, fp, tn, fn),
        "val_f1": f1,
        "val_auroc": auroc,
    }


def rate(done: float, warmup: float) -> float:
    """The learning rate's factor after a share of all steps: linear from 0 over the warm-up, then half a cosine to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


def fit(
    model: MVPFormer,
    train: Sequence[Source],
    validation: Sequence[Source],
    run: RunOptions,
    recipe: Recipe,
    *,
    window: int,
    show: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> training.Left:
    """Trains `model` in place (it ends with the weights of the selected epoch), continuing from ``checkpoints/last.ckpt`` if there is one.

    Args:
        model: already with LoRA if the recipe tunes it (`ieeg.model.lora.with_lora`), and with the head that the task needs.
        train, validation: recordings of different patients; validation may be empty.
        run: as in `core_runtime.training.fit`.
        window: segments T.
        trainer: further arguments of Lightning's Trainer.

    Raises:
        UserError: no recording holds a window.
        ValueError: the model has the head of another task, or the recipe tunes LoRA and the model has none.
    """
    recipe = recipe.suited_to()
    if (recipe.task == "detect") != (model.config.classes > 0):
        task = "detection" if recipe.task == "detect" else "pre-training"
        raise ValueError(f"a model with {model.config.classes} classes cannot be used for {task}")
    if recipe.task == "detect" and recipe.tune != "all":
        if recipe.tune == "lora" and not model.config.lora_rank:
            raise ValueError("tune = 'lora' needs a model with LoRA: with_lora(model)")
        freeze_base(model)
    channels = min(recipe.batch_channels, model.config.channels)
    data = WindowData(
        train,
        window=window,
        batch=recipe.batch,
        balanced=recipe.balanced and recipe.task == "detect",
        slow_down=recipe.slow_down and recipe.task == "detect",
        max_channels=channels,
        seed=run.seed,
    )
    judge = None
    if validation:
        judge = FixedWindows(validation, window=window, batch=recipe.batch, max_channels=channels)
    score: training.Score = "epoch"
    if judge is not None and recipe.selection == "best":
        score = _likelihood
        if recipe.task == "detect":
            score = "val_kappa"
    return training.fit(
        MVPFormerTraining(model, recipe, run.seed),
        WindowModule(data, judge, batches=recipe.batches, workers=run.workers),
        run,
        epochs=recipe.epochs,
        score=score,
        show=show,
        trainer={
            "accumulate_grad_batches": recipe.accumulate,
            "gradient_clip_val": recipe.clip or None,
            "use_distributed_sampler": False,  # ours shares the batches out itself
            **(trainer or {}),
        },
    )


def _likelihood(row: training.Row) -> float:
    """The score of pre-training: the greatest is the best."""
    return -row["val_loss"]


def best_threshold(network: MVPFormer, judged: Sequence[Source], *, window: int) -> float:
    """The threshold that is best for events and samples of these recordings: the greatest sum of their F1, the middle of a plateau."""
    network.eval()
    traces = []
    for source in judged:
        answers = probabilities(network, source.signals, window=window, channels=False)
        traces.append(np.array([answer.probability for answer in answers]))
    grid = np.linspace(0.05, 0.95, 37)
    scores = np.zeros(len(grid))
    for i, threshold in enumerate(grid):
        event_scores, sample_scores = [], []
        for trace, source in zip(traces, judged, strict=True):
            seconds = len(trace) * source.seconds
            events = to_events(trace >= threshold, 1 / source.seconds)
            event_scores.append(score_events(source.seizures, events, seconds).score)
            sample_scores.append(score_samples(source.seizures, events, seconds))
        scores[i] = np.nan_to_num(pooled(event_scores).f1) + np.nan_to_num(pooled(sample_scores).f1)
    plateau = np.flatnonzero(scores >= scores.max() - 1e-9)
    return round(float(grid[plateau[len(plateau) // 2]]), 3)
