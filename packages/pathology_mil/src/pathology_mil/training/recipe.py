"""The models by name, and how they are trained: published recipes as data. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, options

ModelName = Literal["acmil", "acmil-mha", "abmil", "mean"]
Selection = Literal["val_f1+val_auc", "last"]


@options
class NetworkOptions:
    """The model to train.

    Attributes:
        model: acmil (gated), acmil-mha, abmil (one branch, no masking), mean.
        branches: branches M.
        width: inner width L; default: by the features.
    """

    model: ModelName = "acmil"
    branches: Annotated[int, AtLeast(1)] = 5
    width: Annotated[int | None, AtLeast(1)] = None


# "paper": arXiv 2311.07125. "no-masking": the authors' later advice (README, October 2024, and issue 12): with strong encoders the
# gain comes from the branches, and training without masking is as good or better.
MASKING: Mapping[str, tuple[int, float]] = {"paper": (10, 0.6), "no-masking": (0, 0.0)}


@options
class MaskingOptions:
    """How instances are masked in training.

    Attributes:
        preset: published settings; --top-k and --mask-drop override them.
        top_k: K, number of instances that masking draws from; 0: none. Default: the preset's.
        mask_drop: p, share of those that is masked. Default: the preset's.
    """

    preset: Literal["paper", "no-masking"] = "paper"
    top_k: Annotated[int | None, AtLeast(0)] = None
    mask_drop: Annotated[float | None, Between(0, 1)] = None

    @property
    def rates(self) -> tuple[int, float]:
        """K and p."""
        top_k, mask_drop = MASKING[self.preset]
        if self.top_k is not None:
            top_k = self.top_k
        if self.mask_drop is not None:
            mask_drop = self.mask_drop
        return top_k, mask_drop


@options
class Recipe:
    """How the model is trained; the defaults are the paper's.

    Attributes:
        epochs: passes over the training slides.
        lr: AdamW's learning rate at the start of the cosine, which is updated every step.
        min_lr: rate at the end of the cosine.
        warmup_epochs: epochs over which the rate rises from 0.
        weight_decay: of AdamW.
        batch: slides per step.
        slide_weight: weight of the slide loss.
        branch_weight: weight of the branch losses.
        diversity_weight: weight of the branch diversity.
        aem_weight: weight of attention entropy (AEM; about 0.1).
        selection: the epoch to keep: the one with the highest macro F1 + AUROC on the validation slides, or the last. Without
            validation slides it is the last. (The published script adds micro F1, which it calls F1.)
    """

    epochs: Annotated[int, AtLeast(1)] = 50
    lr: Annotated[float, Above(0)] = 1e-4
    min_lr: Annotated[float, AtLeast(0)] = 0.0
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    weight_decay: Annotated[float, AtLeast(0)] = 1e-5
    batch: Annotated[int, AtLeast(1)] = 1
    slide_weight: Annotated[float, AtLeast(0)] = 1.0
    branch_weight: Annotated[float, AtLeast(0)] = 1.0
    diversity_weight: Annotated[float, AtLeast(0)] = 1.0
    aem_weight: Annotated[float, AtLeast(0)] = 0.0
    selection: Selection = "val_f1+val_auc"


# Entries of the published YAML files → our options; None: known, but without meaning here.
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
    # as the config.yaml of runs before December 2026 has them
    "slide": "slide_weight",
    "branch": "branch_weight",
    "diversity": "diversity_weight",
    "aem": "aem_weight",
}
