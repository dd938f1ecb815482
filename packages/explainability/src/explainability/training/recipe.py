"""How a model is trained."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, options


@options
class Recipe:
    """How the model learns.

    Attributes:
        method: plain trains all of a vision transformer; prompt-cam, tcpa and sat are the papers' (the first two freeze the backbone).
        backbone: vision transformer of timm with its published weights; default: a small one of its own from scratch.
        image_size: pixels a side.
        patch_size: pixels a side of a patch, without --backbone.
        width: channels of the tokens, without --backbone.
        depth: blocks, without --backbone.
        heads: attention heads, without --backbone.
        start: run or model folder whose backbone is taken over, without --backbone.
        epochs: passes over the training pictures.
        batch_size: pictures per step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        area: share of a picture that objects cover on average (sat).
        pool_weight: of the matching distance in the loss (tcpa).
    """

    method: Literal["plain", "prompt-cam", "tcpa", "sat"] = "plain"
    backbone: str = ""
    image_size: Annotated[int, AtLeast(8)] = 64
    patch_size: Annotated[int, AtLeast(1)] = 8
    width: Annotated[int, AtLeast(4)] = 48
    depth: Annotated[int, AtLeast(1)] = 3
    heads: Annotated[int, AtLeast(1)] = 4
    start: str = ""
    epochs: Annotated[int, AtLeast(1)] = 20
    batch_size: Annotated[int, AtLeast(1)] = 30
    lr: Annotated[float, Above(0)] = 2e-3
    weight_decay: Annotated[float, AtLeast(0)] = 0.01
    area: Annotated[float, Above(0)] = 0.25
    pool_weight: Annotated[float, AtLeast(0)] = 0.01
