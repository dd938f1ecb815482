"""What a training step does."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.errors import UserError
from core_runtime.training import Training
from language_models.model.causal import SuiteForCausalLM
from language_models.texts.windows import Windows
from language_models.training.recipe import Recipe

HELD_OUT = 32  # windows that are judged after every round


class TextTraining(Training):
    """Next-token cross-entropy; AdamW with warm-up and cosine."""

    model: SuiteForCausalLM

    def __init__(self, model: SuiteForCausalLM, recipe: Recipe, windows: Windows, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe, self.windows = recipe, windows

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        ids, labels, documents = batch
        try:
            loss = self.model(ids, labels=labels, document_ids=documents).loss
        except FloatingPointError as error:  # a memory that diverged names itself
            raise UserError(f"step {self.global_step}: {error}", "try a lower --lr") from None
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the loss at step {self.global_step} is {loss.item()}: {first_not_finite(self.model, ids)}",
                f"try a lower --lr than {self.recipe.lr:g} or a lower --clip than {self.recipe.clip:g}; --resume goes on from the last checkpoint",
            )
        self.count(train_loss=loss.item())
        return loss

    def close_epoch(self) -> dict[str, float]:
        row = super().close_epoch()
        was_training = self.model.training
        self.model.eval()
        total, count = 0.0, 0
        with torch.no_grad():
            for ids, documents in self.windows.held_out_windows(self.windows.context, HELD_OUT):
                ids, documents = ids.to(self.device), documents.to(self.device)
                # the mean over a window's targets, without auxiliary losses
                total += float(text_loss(self.model, ids, documents))
                count += 1
        self.model.train(was_training)
        return {**row, "held_out_loss": total / count}

    def configure_optimizers(self) -> Any:
        matrices, vectors = [], []
        for parameter in self.model.parameters():
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.recipe.lr, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, Cosine(self.recipe.steps(self.windows.count), self.recipe.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Cosine:
    """The share of the highest learning rate at a step: a line up, then a cosine down to a tenth."""

    def __init__(self, steps: int, warmup: float) -> None:
        self.steps, self.rising = steps, max(1, round(steps * warmup))

    def __call__(self, step: int) -> float:
        if step < self.rising:
            return (step + 1) / self.rising
        done = (step - self.rising) / max(1, self.steps - self.rising)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def text_loss(model: SuiteForCausalLM, ids: Tensor, documents: Tensor | None = None) -> Tensor:
    """Mean next-token cross-entropy of windows, in nats."""
    from language_models.model.causal import next_token_loss

    several = documents is not None and bool((documents != documents[:, :1]).any())
    documents = documents if several else None
    return next_token_loss(model(ids, document_ids=documents).logits, ids, None, documents)


def first_not_finite(model: nn.Module, ids: Tensor) -> str:
    """The first module whose output is not finite, or the first weight that is not."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"the weights {name} are not finite any more"
    broken: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and not bool(first.isfinite().all()):
                broken.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name.count(".") >= 2]
    try:
        with torch.no_grad():
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return (
        f"the first output that is not finite is that of {broken[0]}"
        if broken
        else "every layer's output is finite, the loss alone is not"
    )
