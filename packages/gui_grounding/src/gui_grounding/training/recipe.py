"""How a model is trained: the published two stages as defaults of `stage`."""

from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, options

Learns = Literal["head", "lora", "language", "all"]


@options
class Recipe:
    """How the model learns (AdamW, cosine with warm-up).

    Attributes:
        epochs: passes over the screenshots.
        lr: learning rate.
        batch: screenshots per step.
        questions: about one screenshot per step, at most; they share its encoding.
        learns: head (and the new tokens; the published warm-up), lora (and low-rank updates), language (all but the vision tower), or all (the second stage).
        labels: gauss (V2P), all (GUI-Actor) or center.
        sigma_factor: box size over the standard deviation of the Gaussian labels.
        loss: v2p (suppresses attention outside the target) or guiactor.
        lm_weight: of the language model's own loss; below 0: left out, as in the published warm-up.
        warm_up: share of the steps in which the learning rate rises.
        rank: of low-rank updates.
        share: of the screenshots that are held out to choose the epoch and to calibrate.
        patience: epochs without a better validation that end the training; 0: never.
    """

    epochs: Annotated[int, AtLeast(1)] = 1
    lr: Annotated[float, Above(0)] = 1e-4
    batch: Annotated[int, AtLeast(1)] = 1
    questions: Annotated[int, AtLeast(1)] = 8
    learns: Learns = "head"
    labels: Literal["gauss", "all", "center"] = "gauss"
    sigma_factor: Annotated[float, Above(0)] = 1.0
    loss: Literal["v2p", "guiactor"] = "v2p"
    lm_weight: float = -1.0
    warm_up: Annotated[float, Between(0, 0.9)] = 0.03
    rank: Annotated[int, AtLeast(1)] = 16
    share: Annotated[float, Between(0, 0.5)] = 0.1
    patience: Annotated[int, AtLeast(0)] = 0


@options
class Start:
    """What training starts from.

    Attributes:
        base: a Qwen2.5-VL or Qwen2-VL folder, a V2P or GUI-Actor folder, or a model folder of ours; without it a small model begins with random weights.
        width: of the small model: channels, a multiple of 8.
        layers: of its language model.
        vision_layers: of its vision tower.
        system_message: text file with the system message; default: the base's, else our own.
        min_pixels: of a resized screenshot; default: the base's.
        max_pixels: of a resized screenshot; default: the base's.
    """

    base: str | None = None
    width: Annotated[int, AtLeast(16)] = 64
    layers: Annotated[int, AtLeast(1)] = 2
    vision_layers: Annotated[int, AtLeast(1)] = 2
    system_message: str | None = None
    min_pixels: Annotated[int, AtLeast(784)] | None = None
    max_pixels: Annotated[int, AtLeast(784)] | None = None

    def __post_init__(self) -> None:
        if self.width % 8:
            raise UserError(f"--width {self.width} is not a multiple of 8")
