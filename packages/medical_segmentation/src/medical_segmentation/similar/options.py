"""Options of the verbs of similar. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, Flag, options


@options
class SampleOptions:
    """How much is drawn.

    Attributes:
        images: of each class.
        size: pixels of a side.
    """

    images: Annotated[int, AtLeast(8)] = 60
    size: Annotated[int, AtLeast(24)] = 32


@options
class EmbeddingOptions:
    """The network.

    Attributes:
        backbone: name in timm; its map at a sixteenth of the image is used.
        pretrained: start from timm's ImageNet weights (from the hub).
        size: coordinates of the embedding.
        image_size: pixels of a side that the network sees.
        attention: pool under a learnt map.
        normalise: weigh by the map's shares instead of by its values.
        train_norms: train the batch norms of the backbone, which are frozen as published; needed without --pretrained.
        learners: number of learners to begin with; more than one without --dynamic is the published predecessor (DCML).
    """

    backbone: str = "resnet50"
    pretrained: bool = False
    size: Annotated[int, AtLeast(2)] = 128
    image_size: Annotated[int, AtLeast(16)] = 224
    attention: Annotated[bool, Flag("--no-attention")] = True
    normalise: bool = False
    train_norms: bool = False
    learners: Annotated[int, AtLeast(1)] = 1


@options
class Recipe:
    """How the embedding is trained (Adam).

    Attributes:
        epochs: passes over the longest cluster.
        finetune: share of the epochs after which all learners train together on everything.
        lr: learning rate.
        weight_decay: of Adam.
        batch: images per step.
        per_class: images of each class in a batch.
        recluster: epochs between clusterings.
        dynamic: add learners while they help.
        patience: epochs without a better validation NMI before a learner is added.
        loss: margin loss, or cross entropy of a classifier on the pooled features (the plain peer).
        pair_count: divide the loss by triplets that contribute, or by their two terms.
        published: match clusters and move rows as the published code does, mistakes included.
        official_protocol: select the epoch and add learners by the test images, as published.
    """

    epochs: Annotated[int, AtLeast(1)] = 300
    finetune: Annotated[float, Between(0, 1)] = 0.834
    lr: Annotated[float, Above(0)] = 1e-5
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    batch: Annotated[int, AtLeast(4)] = 32
    per_class: Annotated[int, AtLeast(2)] = 8
    recluster: Annotated[int, AtLeast(1)] = 2
    dynamic: Annotated[bool, Flag("--no-dynamic")] = True
    patience: Annotated[int, AtLeast(1)] = 10
    loss: Literal["margin", "cross-entropy"] = "margin"
    pair_count: Literal["or", "both"] = "or"
    published: bool = False
    official_protocol: bool = False
