"""How a network is trained: the published settings of each, as data. Imports nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from core_runtime.options import Above, AtLeast, Flag, options
from remote_sensing.landuse.scenes.classes import CLASSES

# Weights of EuroSAT's ten classes in the published loss.
PUBLISHED_WEIGHTS = (1.0, 0.8, 1.3, 1.0, 1.3, 1.0, 1.3, 0.8, 1.0, 0.8)
AS_PUBLISHED: Any = None  # a setting that `Recipe.complete` fills in for the network


@options
class Recipe:
    """How the network is trained (AdamW).

    Attributes:
        epochs: passes over the training tiles; default: as published for the network.
        lr: learning rate; default: as published for the network.
        weight_decay: of AdamW; default: as published for the network.
        batch: tiles per step.
        schedule: warm-restarts (cosine, first period 15 epochs, each twice the last), cosine over all epochs, or plateau (halved after three
            epochs without a lower validation loss); default: as published for the network.
        patience: epochs without a better validation accuracy that end the training; 0: never; default: as published.
        class_weights: of the loss: the paper's for EuroSAT's ten classes, by effective number of tiles, or none; default: the paper's if
            the classes are EuroSAT's, else effective.
        augment: flips, rotations, colour jitter and blur of the training tiles.
    """

    epochs: Annotated[int, AtLeast(1)] = AS_PUBLISHED
    lr: Annotated[float, Above(0)] = AS_PUBLISHED
    weight_decay: Annotated[float, AtLeast(0)] = AS_PUBLISHED
    batch: Annotated[int, AtLeast(2)] = 64
    schedule: Literal["warm-restarts", "cosine", "plateau"] = AS_PUBLISHED
    patience: Annotated[int, AtLeast(0)] = AS_PUBLISHED
    class_weights: Literal["paper", "effective", "none"] = AS_PUBLISHED
    augment: Annotated[bool, Flag("--no-augment")] = True

    def complete(self, network: str, classes: Sequence[str]) -> "Recipe":
        """This recipe with every open setting as published for the network."""
        published: dict[str, Any] = dict(PRESETS[network])
        published["class_weights"] = "effective"
        if tuple(classes) == CLASSES:
            published["class_weights"] = "paper"
        values = {}
        for field in fields(self):
            if getattr(self, field.name) is None:
                values[field.name] = published[field.name]
        return replace(self, **values)


_FINE_TUNING = {"epochs": 30, "lr": 1e-4, "weight_decay": 1e-4, "schedule": "cosine", "patience": 10}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "balanced": {"epochs": 80, "lr": 1e-3, "weight_decay": 0.05, "schedule": "warm-restarts", "patience": 15},
    "cbam": {"epochs": 40, "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine", "patience": 12},
    "baseline": {"epochs": 30, "lr": 1e-3, "weight_decay": 1e-4, "schedule": "plateau", "patience": 10},
    "resnet18": _FINE_TUNING,
    "resnet50": _FINE_TUNING,
}


def effective_weights(counts: Sequence[int], beta: float = 0.999) -> list[float]:
    """``(1 − β) / (1 − βⁿ)`` of each class, scaled to mean 1 (Cui et al. 2019); a class without tiles has weight 0."""
    raw = []
    for count in counts:
        raw.append((1 - beta) / (1 - beta**count) if count else 0.0)
    present = sum(weight > 0 for weight in raw)
    mean = sum(raw) / max(1, present)
    return [weight / mean for weight in raw]
