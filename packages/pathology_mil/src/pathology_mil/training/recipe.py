"""The models by name, and how they are trained: published recipes as data. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ModelName = Literal["acmil", "acmil-mha", "abmil", "mean"]
Selection = Literal["val_f1+val_auc", "last"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the defaults are the paper's.

    Args:
        epochs: passes over the training slides.
        lr, min_lr, warmup_epochs: AdamW's rate: linear from 0 over the warm-up, then a cosine from `lr` to `min_lr`, set every step.
        weight_decay: of AdamW.
        batch: slides a step.
        slide, branch, diversity, aem: weights of the loss terms (`losses.LossWeights`).
        selection: which epoch is kept: the one with the highest macro F1 + AUROC on the validation slides, or the last. Without
            validation slides it is the last. (The published script adds micro F1, which it calls F1.)
    """

    epochs: int = 50
    lr: float = 1e-4
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    weight_decay: float = 1e-5
    batch: int = 1
    slide: float = 1.0
    branch: float = 1.0
    diversity: float = 1.0
    aem: float = 0.0
    selection: Selection = "val_f1+val_auc"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs and batch must be at least 1, got {self.epochs} and {self.batch}")
        if self.lr <= 0 or self.min_lr < 0 or self.weight_decay < 0 or self.warmup_epochs < 0:
            raise ValueError("lr must be positive, min_lr, weight_decay and warmup_epochs not negative")


# Preset → defaults of the options of `train`. "paper": arXiv 2311.07125. "no-masking": the authors' later advice (README, October 2024, and
# issue 12): with strong encoders the branches carry the gain, and masking nothing is as good or better.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"branches": 5, "top_k": 10, "mask_drop": 0.6, "epochs": 50, "lr": 1e-4, "weight_decay": 1e-5},
    "no-masking": {"branches": 5, "top_k": 0, "mask_drop": 0.0, "epochs": 50, "lr": 1e-4, "weight_decay": 1e-5},
}

# Entries of the published YAML files → our options; None: known, and nothing to us.
PUBLISHED_CONFIG: Mapping[str, str | None] = {
    "train_epoch": "epochs",
    "warmup_epoch": "warmup_epochs",
    "wd": "weight_decay",
    "lr": "lr",
    "min_lr": "min_lr",
    "dataset": "dataset",
    "B": "batch",
    "n_class": "n_class",
    "data_dir": "features",
    "n_worker": "workers",
    "pin_memory": None,
    "n_shot": "n_shot",
    "backbone": None,
    "pretrain": "pretrain",
    "D_feat": "feature_width",
    "D_inner": "width",
    "n_token": "branches",
    "n_masked_patch": "top_k",
    "mask_drop": "mask_drop",
}
