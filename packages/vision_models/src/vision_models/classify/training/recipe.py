"""DeiT's recipe, which the papers of this package train by, as data. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, Flag, options


@options
class Recipe:
    """How the network is trained: DeiT's recipe (AdamW, warm-up, cosine).

    Attributes:
        epochs: passes over the training images.
        batch: images per step.
        lr: learning rate for a batch of 512, to which it is scaled.
        min_lr: at the end of the cosine.
        warmup: epochs over which the learning rate rises from 1e-6.
        weight_decay: of matrices; biases, norms and tokens have none.
        smoothing: of labels.
        mixup, cutmix: their alpha; 0: off.
        erasing: probability that a rectangle of an image becomes noise.
        augment: deit (RandAugment m9, crops, flips), crop (crops and flips), none.
        flip: mirror images; not for digits and letters.
        repeats: augmented copies of an image in an epoch (repeated augmentation: 3 in DeiT).
        drop_path: stochastic depth, where the network has it.
        ema: decay of a running mean of the weights, evaluated beside them (0.99996 in DeiT); 0: off.
        frozen_norms: train with batch norms and drop path as in evaluation (DHVT's fine-tuning).
        predictor_epochs: first epochs that train a Sparsifiner's mask predictors alone, on the attention of the dense network.
        patience: epochs without a better validation accuracy that end the training; 0: never.
    """

    epochs: Annotated[int, AtLeast(1)] = 300
    batch: Annotated[int, AtLeast(2)] = 128
    lr: Annotated[float, Above(0)] = 5e-4
    min_lr: Annotated[float, AtLeast(0)] = 1e-5
    warmup: Annotated[int, AtLeast(0)] = 5
    weight_decay: Annotated[float, AtLeast(0)] = 0.05
    smoothing: Annotated[float, Between(0, 0.9)] = 0.1
    mixup: Annotated[float, AtLeast(0)] = 0.8
    cutmix: Annotated[float, AtLeast(0)] = 1.0
    erasing: Annotated[float, Between(0, 1)] = 0.25
    augment: Literal["deit", "crop", "none"] = "deit"
    flip: Annotated[bool, Flag("--no-flip")] = True
    repeats: Annotated[int, AtLeast(1)] = 1
    drop_path: Annotated[float, Between(0, 0.9)] = 0.1
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    frozen_norms: bool = False
    predictor_epochs: Annotated[int, AtLeast(0)] = 0
    patience: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        if self.predictor_epochs and self.predictor_epochs >= self.epochs:
            raise UserError(
                f"--predictor-epochs {self.predictor_epochs} leaves none of {self.epochs} epochs to the network itself"
            )


BASE_BATCH = 512  # the batch that `Recipe.lr` is meant for
FIRST_LR = 1e-6  # of the warm-up


def learning_rate(epoch: float, recipe: Recipe, peak: float) -> float:
    """The learning rate at a moment of the training, in epochs: a straight line from 1e-6 to the peak, then half a cosine to `min_lr`."""
    import math

    if epoch < recipe.warmup:
        return FIRST_LR + (peak - FIRST_LR) * epoch / recipe.warmup
    low = min(recipe.min_lr, peak)
    share = (epoch - recipe.warmup) / max(1e-9, recipe.epochs - recipe.warmup)
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
