"""How models are trained."""

from dataclasses import replace
from typing import Annotated, Literal

from core_runtime.options import Above, AtLeast, Between, options


@options
class Recipe:
    """How a model learns (AdamW, cosine with warm-up).

    Attributes:
        epochs: passes over the data; default: 30 of grounding, 60 of focallens.
        lr: learning rate; default: 3e-3 of a small network from nothing; a pretrained backbone takes a tenth.
        batch: items per step; default: 16 of grounding, 64 of focallens.
        weight_decay: of AdamW.
        share: of the pictures (grounding) that are held out to choose the epoch.
        dice: weight of the Dice loss beside cross-entropy (grounding).
        mask_duplicates: leave identical answers out of the denominators (focallens).
        blind: learn without instructions, as a control (focallens).
    """

    epochs: Annotated[int, AtLeast(1)] = None  # pyright: ignore[reportAssignmentType]
    lr: Annotated[float, Above(0)] = 3e-3
    batch: Annotated[int, AtLeast(1)] = None  # pyright: ignore[reportAssignmentType]
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    share: Annotated[float, Between(0, 0.5)] = 0.1
    dice: Annotated[float, AtLeast(0)] = 1.0
    mask_duplicates: bool = True
    blind: bool = False

    def filled(self, kind: Literal["grounding", "focallens"]) -> "Recipe":
        """With what was left open."""
        defaults = {"grounding": {"epochs": 30, "batch": 16}, "focallens": {"epochs": 60, "batch": 64}}[kind]
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


@options
class Network:
    """What is trained.

    Attributes:
        backbone: of grounding: small (from nothing), or b0 … b7 of timm's EfficientNets.
        pretrained: weights file of the backbone (safetensors or pth under timm's names); default: random.
        side: pixels of the square that pictures are resized to; default: 96 of grounding, 32 of focallens.
        encoder: of sentences: hashed-words, or a folder with a sentence encoder of transformers.
        dim: size of hashed sentences.
    """

    backbone: Literal["small", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = "small"
    pretrained: str | None = None
    side: Annotated[int | None, AtLeast(16)] = None
    encoder: str = "hashed-words"
    dim: Annotated[int, AtLeast(8)] = 64
