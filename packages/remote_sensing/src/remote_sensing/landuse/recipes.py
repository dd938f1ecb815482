"""Published training settings, as data. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core_runtime.errors import UserError

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
# Colours of the classes on maps and pictures.
COLOURS = ("#d9b44a", "#1b6e2f", "#9bbf5a", "#5a5a5a", "#b04ab0", "#c8e48a", "#c97a2b", "#d9433b", "#3a8fd9", "#14408c")
PUBLISHED_WEIGHTS = (1.0, 0.8, 1.3, 1.0, 1.3, 1.0, 1.3, 0.8, 1.0, 0.8)

NetworkName = Literal["balanced", "cbam", "baseline", "resnet18", "resnet50"]
NETWORKS: tuple[str, ...] = get_args(NetworkName)
Schedule = Literal["warm-restarts", "cosine", "plateau"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained (AdamW).

    Attributes:
        schedule: "warm-restarts" (cosine, first period 15 epochs, each twice the last), "cosine" over all epochs, or "plateau" (halved after
            three epochs without a lower validation loss).
        patience: epochs without a better validation accuracy after which training ends; 0: never.
        class_weights: "paper" (the published ones, of EuroSAT's ten classes), "effective" (effective number of samples) or "none".
        augment: flips, turns, colour jitter and blur on the training tiles.
    """

    epochs: int = 80
    lr: float = 1e-3
    weight_decay: float = 0.05
    batch: int = 64
    schedule: Schedule = "warm-restarts"
    patience: int = 15
    class_weights: Literal["paper", "effective", "none"] = "paper"
    augment: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.lr > 0:
            raise UserError(
                f"epochs {self.epochs}, batch {self.batch} and lr {self.lr} must be above 0", "mend the options"
            )


PRESETS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "cbam": {"epochs": 40, "weight_decay": 1e-4, "schedule": "cosine", "patience": 12},
    "baseline": {"epochs": 30, "weight_decay": 1e-4, "schedule": "plateau", "patience": 10},
    "resnet18": {"epochs": 30, "lr": 1e-4, "weight_decay": 1e-4, "schedule": "cosine", "patience": 10},
    "resnet50": {"epochs": 30, "lr": 1e-4, "weight_decay": 1e-4, "schedule": "cosine", "patience": 10},
}


def recipe_of(network: str, **changed: Any) -> Recipe:
    """The published recipe of a network (of fine-tuning, for the ResNets); entries of `changed` that are not None win."""
    return Recipe(**(PRESETS[network] | {k: v for k, v in changed.items() if v is not None}))


def effective_weights(counts: Sequence[int], beta: float = 0.999) -> list[float]:
    """``(1 − β) / (1 − βⁿ)`` of each class, scaled to mean 1 (Cui et al. 2019); a class without tiles weighs 0."""
    raw = [(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts]
    mean = sum(raw) / max(1, sum(w > 0 for w in raw))
    return [w / mean for w in raw]
