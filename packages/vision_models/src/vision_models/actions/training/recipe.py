"""How a detector is trained, as data. Imports nothing heavy."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, options


@options
class NetworkOptions:
    """Which network is trained; the defaults are those of ActivityNet.

    Attributes:
        steps: T of the network: snippets of a window, or points that a video is resized to (100 for ActivityNet, 128 for THUMOS).
        longest: the most steps of a segment; default: all (64 for THUMOS).
        fit: how a video meets the steps: overlapping windows of its snippets, or all of it resized (ActivityNet).
        csa: gating by class semantics: none, behind the encoder (base), or behind each of its convolutions (convs).
        csa_fuse: how CSA's two attended features are fused.
        csa_self_se: squeeze-and-excitation of the encoded features before CSA.
        hidden: channels of the encoder.
        pem_channels: channels that enter the boundary-matching layer; default: as many (the paper: 128).
        map_3d, map_2d: channels of the map's convolutions.
        bins: in which a segment is read.
        layout: rows and columns of the map: start and end (JJBOY's code), or duration and start (the paper).
        labels: train a classifier of segments; without it segments are class-agnostic.
    """

    steps: Annotated[int, AtLeast(4)] = 100
    longest: Annotated[int, AtLeast(1)] | None = None
    fit: Literal["windows", "resize"] = "windows"
    csa: Literal["none", "base", "convs"] = "base"
    csa_fuse: Literal["sum", "max", "product"] = "sum"
    csa_self_se: bool = False
    hidden: Annotated[int, AtLeast(4)] = 256
    pem_channels: Annotated[int, AtLeast(1)] | None = None
    map_3d: Annotated[int, AtLeast(1)] = 512
    map_2d: Annotated[int, AtLeast(1)] = 128
    bins: Annotated[int, AtLeast(2)] = 32
    layout: Literal["start_end", "duration_start"] = "start_end"
    labels: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        if self.longest is not None and self.longest > self.steps:
            raise UserError(f"--longest {self.longest} exceeds --steps {self.steps}")
        if self.hidden % 4:
            raise UserError(
                f"--hidden {self.hidden} is not a multiple of 4", "the encoder's convolutions have four groups"
            )


@options
class Recipe:
    """How the network is trained: Adam, and one drop of the learning rate.

    Attributes:
        epochs: passes over the training sequences.
        batch: sequences per step.
        lr: learning rate.
        drop: epochs after which it falls to a tenth; counted as in the published code, whose last epochs begin one earlier.
        weight_decay: L2 penalty.
        clip: greatest norm of the gradients; 0: none (OpenTAD's THUMOS: 1).
        reg: weight of the regression loss.
        classifier: weight of the loss of segment labels.
        inside: share of an action that must lie in a training window for it to count.
        patience: epochs without a lower validation loss that end the training; 0: never.
    """

    epochs: Annotated[int, AtLeast(1)] = 9
    batch: Annotated[int, AtLeast(1)] = 16
    lr: Annotated[float, Above(0)] = 1e-3
    drop: Annotated[int, AtLeast(1)] = 7
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    clip: Annotated[float, AtLeast(0)] = 0.0
    reg: Annotated[float, AtLeast(0)] = 10.0
    classifier: Annotated[float, AtLeast(0)] = 1.0
    inside: Annotated[float, Above(0)] = 0.9
    patience: Annotated[int, AtLeast(0)] = 0
