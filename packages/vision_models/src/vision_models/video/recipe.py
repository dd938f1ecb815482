"""How a small Wan is trained, as data. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, options


@options
class NetworkOptions:
    """The sizes of the transformer, and of the clips that it is trained on.

    Attributes:
        attention: vmoba, or full: the two are compared under one budget.
        layers, heads, head_dim, ffn: of the transformer.
        frames, height, width: of a clip in pixels; the model sees the frames themselves, in patches of 2 × 2.
    """

    attention: Literal["vmoba", "full"] = "vmoba"
    layers: Annotated[int, AtLeast(1)] = 3
    heads: Annotated[int, AtLeast(1)] = 2
    head_dim: Annotated[int, AtLeast(12)] = 24
    ffn: Annotated[int, AtLeast(8)] = 96
    frames: Annotated[int, AtLeast(2)] = 12
    height: Annotated[int, AtLeast(8)] = 24
    width: Annotated[int, AtLeast(8)] = 32

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width), ("head-dim", self.head_dim)):
            if side % 2:
                raise UserError(
                    f"--{name} {side} is odd", f"--{name} {side + 1}: patches and turned pairs take two at once"
                )


@options
class Recipe:
    """How it is trained: flow matching, AdamW.

    Attributes:
        epochs: passes over the training clips.
        batch: clips per step.
        lr: learning rate.
        weight_decay: of AdamW.
    """

    epochs: Annotated[int, AtLeast(1)] = 20
    batch: Annotated[int, AtLeast(1)] = 2
    lr: Annotated[float, Above(0)] = 2e-3
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
