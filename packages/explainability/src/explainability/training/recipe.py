"""How a model is trained."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, options


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
        lr: learning rate.
        weight_decay: of the optimiser.
        prompts: prompts in each pool, of CLS and of the patches (tcpa).
        taken: of them, how many a token takes; as many as there are: roles alone tell tokens apart (tcpa).
        random_epochs: first epochs in which prompts are drawn instead of matched (tcpa).
        optimiser: adamw, or sgd with momentum 0.9.
        schedule: constant, or cosine down to --lr-min.
        warmup: epochs of linear warm-up.
        lr_min: where the cosine ends.
        drop_path: stochastic depth in the last block; linearly less before.
        dropout: of prompts (prompt-cam, tcpa).
        select: kept epoch: the best on validation pictures, or, as the papers have it, on the test pictures (folder test, or val).
        adapter: also write RUN/adapter, what was trained without the frozen backbone (prompt-cam, tcpa).
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
    prompts: Annotated[int, AtLeast(1)] = 8
    taken: Annotated[int, AtLeast(1)] = 4
    random_epochs: Annotated[int, AtLeast(0)] = 0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Annotated[int, AtLeast(0)] = 0
    lr_min: Annotated[float, AtLeast(0)] = 1e-6
    drop_path: Annotated[float, Between(0, 1)] = 0.0
    dropout: Annotated[float, Between(0, 1)] = 0.1
    select: Literal["validation", "test"] = "validation"
    adapter: bool = False
    area: Annotated[float, Above(0)] = 0.25
    pool_weight: Annotated[float, AtLeast(0)] = 0.01
