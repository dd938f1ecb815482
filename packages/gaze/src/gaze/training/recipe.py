"""How a model is trained: the published recipe as defaults."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, IntegerPair, options

SplitName = Literal["image", "target", "subject", "trial", "published"]


@options
class Recipe:
    """How the model learns (Adam, clipped gradients of norm 1).

    Attributes:
        epochs: passes over the training paths, at most.
        lr: learning rate.
        batch: paths per step.
        patience: epochs without a better validation that end the training; 0: never.
        score: what chooses the epoch: delta (behaviour on validation paths, as published) or likelihood (of validation paths).
        split: what training, validation and test never share: image, target or subject; trial, as published; or the parts a data set names.
        share: of validation, and of test.
        folds: cross-validation in this many parts, in place of `share`: one tests, the next validates, the others train; 0: none.
        fold: which of them tests, from 1.
    """

    epochs: Annotated[int, AtLeast(1)] = 500
    lr: Annotated[float, Above(0)] = 1e-4
    batch: Annotated[int, AtLeast(1)] = 20
    patience: Annotated[int, AtLeast(0)] = 30
    score: Literal["delta", "likelihood"] = "delta"
    split: SplitName = "image"
    share: Annotated[float, Between(0.01, 0.4)] = 0.1
    folds: Annotated[int, AtLeast(0)] = 0
    fold: Annotated[int, AtLeast(1)] = 1


@options
class Sizes:
    """How large the model is; the defaults are the published ones.

    Attributes:
        width: channels of a token.
        heads: of each attention layer.
        feedforward: width of the feed-forward branch.
        layers: of the encoder, and of the decoder.
        pointer_heads: of the object attention.
        pyramid: levels of the spatial pyramid over crops; 0: none.
        crop: height and width of the crops, in pixels.
        dropout: share of channels and attention weights dropped in training.
        sigma: how far positions are alike, in rows.
        target_position: whether the model is told where the target is (published: known).
        patches: rows and columns of equal parts of the picture in place of objects: the pixel baseline.
    """

    width: Annotated[int, AtLeast(8)] = 512
    heads: Annotated[int, AtLeast(1)] = 4
    feedforward: Annotated[int, AtLeast(1)] = 512
    layers: Annotated[int, AtLeast(1)] = 4
    pointer_heads: Annotated[int, AtLeast(1)] = 2
    pyramid: Annotated[int, Between(0, 4)] = 0
    crop: IntegerPair = (150, 93)
    dropout: Annotated[float, Between(0, 0.9)] = 0.1
    sigma: Annotated[float, Above(0)] = 2.0
    target_position: Literal["known", "unknown"] = "known"
    patches: IntegerPair | None = None
