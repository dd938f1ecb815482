"""How a model is trained."""

from typing import Annotated

from core_runtime.options import AtLeast, options


@options
class Recipe:
    """How the model learns.

    Attributes:
        epochs: passes over the training signals.
        lr: learning rate of AdamW.
    """

    epochs: Annotated[int, AtLeast(1)] = 60
    lr: Annotated[float, AtLeast(0)] = 3e-3
