"""How a model is trained: on a base the published warm-up, without one what a small model learns by."""

from dataclasses import replace
from typing import Annotated, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, options

Learns = Literal["head", "lora", "language", "all"]


@options
class Recipe:
    """How the model learns (AdamW, cosine with warm-up).

    Attributes:
        epochs: passes over the screenshots; default: 1 with --base, 20 without.
        lr: learning rate; default: 1e-4 with --base, 6e-3 without.
        batch: screenshots per step; default: 1 with --base, 6 without.
        questions: about one screenshot per step, at most; they share its encoding.
        learns: head (and the new tokens; the published warm-up), lora (and low-rank updates), language (all but the vision tower), or all (the second stage);
            default: head with --base, all without.
        labels: gauss (V2P), all (GUI-Actor) or center.
        sigma_factor: box size over the standard deviation of the Gaussian labels.
        loss: v2p (suppresses attention outside the target) or guiactor.
        lm_weight: of the language model's own loss; below 0: left out, as in the published warm-up.
        warm_up: share of the steps in which the learning rate rises.
        rank: of low-rank updates.
        share: of the screenshots that are held out to choose the epoch and to calibrate.
        patience: epochs without a better validation that end the training; 0: never.
    """

    # left open here, since what suits depends on what training starts from: see `filled`
    epochs: Annotated[int, AtLeast(1)] = None  # pyright: ignore[reportAssignmentType]
    lr: Annotated[float, Above(0)] = None  # pyright: ignore[reportAssignmentType]
    batch: Annotated[int, AtLeast(1)] = None  # pyright: ignore[reportAssignmentType]
    questions: Annotated[int, AtLeast(1)] = 8
    learns: Learns = None  # pyright: ignore[reportAssignmentType]
    labels: Literal["gauss", "all", "center"] = "gauss"
    sigma_factor: Annotated[float, Above(0)] = 1.0
    loss: Literal["v2p", "guiactor"] = "v2p"
    lm_weight: float = -1.0
    warm_up: Annotated[float, Between(0, 0.9)] = 0.03
    rank: Annotated[int, AtLeast(1)] = 16
    share: Annotated[float, Between(0, 0.5)] = 0.1
    patience: Annotated[int, AtLeast(0)] = 0

    def filled(self, *, on_base: bool) -> "Recipe":
        """With what was left open: on a base the published warm-up, else what lets random weights learn small pages in a minute."""
        defaults = FROM_NOTHING
        if on_base:
            defaults = WARM_UP
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


WARM_UP = {"epochs": 1, "lr": 1e-4, "batch": 1, "learns": "head"}
FROM_NOTHING = {"epochs": 20, "lr": 6e-3, "batch": 6, "learns": "all"}


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
    layers: Annotated[int, AtLeast(1)] = 1
    vision_layers: Annotated[int, AtLeast(1)] = 1
    system_message: str | None = None
    min_pixels: Annotated[int | None, AtLeast(784)] = None
    max_pixels: Annotated[int | None, AtLeast(784)] = None

    def __post_init__(self) -> None:
        if self.width % 8:
            raise UserError(f"--width {self.width} is not a multiple of 8")
