"""How a detector is trained, as data. Imports nothing heavy."""

from typing import Annotated

from core_runtime.options import Above, AtLeast, Flag, options


@options
class Recipe:
    """How the detector is trained: AdamW, warm-up, steps, clipped gradients, as published for FeatEnHancer.

    Attributes:
        epochs: passes over the training pictures.
        batch: pictures per step.
        lr: learning rate (2.5e-6 for ExDark and 2.5e-5 for DARK FACE as published, from a detector trained on COCO; from random weights 1e-3).
        weight_decay: of AdamW.
        warmup: share of the steps over which the learning rate rises.
        clip: largest norm of the gradient.
        flip: mirror half of the pictures.
        patience: epochs without a better validation AP50 that end the training; 0: never.
    """

    epochs: Annotated[int, AtLeast(1)] = 12
    batch: Annotated[int, AtLeast(1)] = 4
    lr: Annotated[float, Above(0)] = 1e-4
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    warmup: Annotated[float, AtLeast(0)] = 0.02
    clip: Annotated[float, Above(0)] = 1.0
    flip: Annotated[bool, Flag("--no-flip")] = True
    patience: Annotated[int, AtLeast(0)] = 0


STEPS = (
    0.84,
    0.94,
)  # shares of the training after which the learning rate falls to a tenth (42,000 and 47,000 of 50,000)


def learning_rate_factor(share: float, warmup: float) -> float:
    """Factor on the learning rate after this share of all steps."""
    factor = 1.0
    if share < warmup:
        factor = max(1e-3, share / warmup)
    for step in STEPS:
        if share >= step:
            factor *= 0.1
    return factor
