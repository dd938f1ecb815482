"""What a training step does, which parameters learn, and what validation measures."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from core_runtime.training import Training
from gui_grounding.model.head import scores_of
from gui_grounding.model.pointer import PointerModel, PointerOutput
from gui_grounding.model.regions import entropy_of, find_regions
from gui_grounding.model.tokens import ADDED_TOKENS, Tokens
from gui_grounding.training.recipe import Learns, Recipe


class PointerTraining(Training):
    """V2P's loss with AdamW; only what the recipe names learns."""

    def __init__(self, model: PointerModel, tokens: Tokens, recipe: Recipe, *, steps: int, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe, self.steps = recipe, max(1, steps)
        choose_parameters(model, recipe.learns)
        embeddings = model.backbone.get_input_embeddings().weight
        if recipe.learns in ("head", "lora"):
            # of the embeddings only the rows of the five new tokens learn
            rows = torch.zeros(len(embeddings), 1)
            rows[[tokens.id(token) for token in ADDED_TOKENS]] = 1
            embeddings.register_hook(lambda gradient: gradient * rows.to(gradient))

    def training_step(self, batch: Any, index: int) -> Tensor:
        assert isinstance(self.model, PointerModel)
        output = self.model(
            batch.input_ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.grids,
            labels=batch.labels if self.recipe.lm_weight >= 0 else None,
            targets=batch.targets,
            image_of=batch.image_of,
        )
        self.count(
            train_loss=output.loss.item(), kl=_mean(output.parts, "kl"), suppression=_mean(output.parts, "suppression")
        )
        if output.lm_loss is not None:
            self.count(lm_loss=output.lm_loss.item())
        return self.finite(output.loss)

    def validation_step(self, batch: Any, index: int) -> None:
        assert isinstance(self.model, PointerModel)
        output = self.model(
            batch.input_ids,
            batch.attention_mask,
            batch.pixel_values,
            batch.grids,
            targets=batch.targets,
            image_of=batch.image_of,
        )
        self.count(val_loss=output.loss.item())
        for _, hit in answers_of(output, batch):
            self.count(val_hit=float(hit))

    def configure_optimizers(self) -> Any:
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learning, self.recipe.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.learning_rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate(self, step: int) -> float:
        """Share of the learning rate at a step: a rise, then a cosine to 0."""
        rise = self.recipe.warm_up * self.steps
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, self.steps - rise))))


def choose_parameters(model: PointerModel, learns: Learns) -> None:
    """Lets learn what a recipe names: the head always, and the embeddings, whose old rows stay where the rest is frozen."""
    for name, parameter in model.named_parameters():
        learning = (
            name.startswith("head.")
            or learns == "all"
            or "embed_tokens" in name
            or "parametrizations.weight.0." in name
        )
        if learns == "language":
            learning = not name.startswith("backbone.model.visual.")
        parameter.requires_grad_(learning)


def answers_of(output: PointerOutput, batch: Any) -> list[tuple[float, bool]]:
    """Of every pointer ``1 − entropy`` of its attention, and whether the best region's centre is in a target."""
    answers = []
    for logits, boxes, owner in zip(output.logits, batch.boxes, batch.image_of, strict=True):
        _, rows, columns = (batch.grids[owner] // 2).tolist()
        for row, valid in zip(scores_of(logits).cpu().numpy(), boxes, strict=True):
            region = find_regions(row, columns, rows)[0]
            hit = any(x1 <= region.x <= x2 and y1 <= region.y <= y2 for x1, y1, x2, y2 in valid)
            answers.append((1 - entropy_of(row), hit))
    return answers


@torch.inference_mode()
def held_out_answers(model: PointerModel, batches: Iterable[Any]) -> list[tuple[float, bool]]:
    """Certainty (``1 − entropy``) and hit of every held-out question, by the model as it is kept."""
    device = next(model.parameters()).device
    answers: list[tuple[float, bool]] = []
    for batch in batches:
        here = batch.to(device)
        output = model(here.input_ids, here.attention_mask, here.pixel_values, here.grids, image_of=here.image_of)
        answers += answers_of(output, here)
    return answers


def fit_calibration(pairs: list[tuple[float, bool]]) -> tuple[float, float] | None:
    """Slope and offset of ``p(hit) = σ(slope · certainty + offset)`` (Platt 1999), with his smoothed targets; None for fewer than 10 items.

    The slope is never negative: attention that is more certain is not less of a reason.
    """
    if len(pairs) < 10:
        return None
    certainty = torch.tensor([value for value, _ in pairs], dtype=torch.float64)
    hits = torch.tensor([float(hit) for _, hit in pairs], dtype=torch.float64)
    positive, negative = hits.sum(), (1 - hits).sum()
    target = torch.where(hits > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(line[0].clamp(min=0) * certainty + line[1], target)
        value = value + 1e-4 * line.square().sum()
        value.backward()
        return value

    with torch.no_grad():
        line[0] = 1.0
    optimiser.step(loss)
    slope, offset = line.detach().tolist()
    return max(0.0, slope), offset


def _mean(parts: Any, name: str) -> float:
    values = [getattr(part, name).item() for part in parts]
    if values:
        return sum(values) / len(values)
    return 0.0
