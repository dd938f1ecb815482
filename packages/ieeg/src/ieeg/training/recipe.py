"""How MVPFormer is trained: the published recipes as data. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core_runtime.errors import UserError

Task = Literal["pretrain", "detect"]
Tune = Literal["lora", "all", "head"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the defaults are the published ones, but for the length.

    Attributes:
        task: "pretrain": the generative objective; "detect": the seizure head.
        tune: of detect: LoRA and head, everything, or the head alone.
        epochs, batches: an epoch is so many batches (published: 1000); the model is judged after each.
        batch: windows, all of one patient.
        accumulate: batches an optimiser step.
        lr, weight_decay, clip: AdamW, and the greatest norm of a gradient; 0: none.
        warmup: share of the steps in which the rate rises from 0; then a cosine to 0.
        dropout: of embeddings, attention and residuals alike.
        structured_dropout: attention drops whole key segments and channels, as the published kernel does.
        negatives, temperature, law: of the generative objective (`ieeg.model.objective`).
        class_weights: of (other, seizure) in the cross-entropy.
        balanced, slow_down: half of the windows positive; finer steps around seizures.
        max_channels: windows are cut to so many channels.
        lora_rank, lora_alpha: of tune = "lora".
        selection: keep the epoch that does best on the patients held out (detect: kappa; pretrain: loss), or the last.
    """

    task: Task = "detect"
    tune: Tune = "lora"
    epochs: int = 20
    batches: int = 1000
    batch: int = 32
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: float = 0.1
    dropout: float = 0.1
    structured_dropout: bool = False
    negatives: int = 30
    temperature: float = 0.1
    law: Literal["uniform", "official"] = "uniform"
    class_weights: tuple[float, float] | None = None
    balanced: bool = True
    slow_down: bool = True
    max_channels: int = 32
    lora_rank: int = 8
    lora_alpha: float = 16.0
    selection: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        counts = (self.epochs, self.batches, self.batch, self.accumulate, self.negatives, self.max_channels)
        if min(counts) < 1:
            raise ValueError(
                f"epochs, batches, batch, accumulate, negatives and max_channels are at least 1; got {counts}"
            )
        if self.lr <= 0 or self.temperature <= 0 or min(self.weight_decay, self.clip) < 0:
            raise ValueError("lr and temperature are positive, weight_decay and clip not negative")
        if not (0 <= self.warmup < 1 and 0 <= self.dropout < 1):
            raise ValueError(f"warmup and dropout are shares from 0 to below 1; got {self.warmup} and {self.dropout}")
        if self.tune == "lora" and self.lora_rank < 1:
            raise ValueError(f"lora_rank is at least 1; got {self.lora_rank}")


# Entries of the published YAML files → our options; None: known, and nothing to us.
PUBLISHED_CONFIG: Mapping[str, str | None] = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "batch_size": "batch",
    "num_negatives": "negatives",
    "temp": "temperature",
    "lora_rank": "lora_rank",
    "lora_alpha": "lora_alpha",
    "n_segments": "window",
    "patients_per_batch": None,
}

# What a small model on a laptop wants: higher rates, fewer steps, no LoRA.
TINY: Mapping[str, Any] = {"tune": "all", "lr": 2e-3, "epochs": 6, "batches": 100, "batch": 16, "dropout": 0.0}


def recipe_for(model: str, **options: Any) -> Recipe:
    """A recipe: what was asked for, else what suits the model, else the published values.

    Args:
        model: a size, or a model folder.
        options: fields of `Recipe`; None means not asked for.

    Raises:
        UserError: values that do not fit.
    """
    asked = {k: v for k, v in options.items() if v is not None}
    suits: Mapping[str, Any] = TINY if model == "tiny" else {}
    if not suits and model in ("s", "m"):
        suits = {"tune": "all"}  # nothing is there that LoRA could add to
    if asked.get("selection", "best") not in ("best", "last"):
        raise UserError(f"--selection is best or last, got {asked['selection']!r}")
    try:
        return Recipe(**{**suits, **asked})
    except ValueError as error:
        raise UserError(str(error)) from None
