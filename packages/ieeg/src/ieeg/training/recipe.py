"""How MVPFormer is trained: the published recipe as options, and other values for a small model. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, Flag, Pair, options

Task = Literal["pretrain", "detect"]
Tune = Literal["lora", "all", "head"]

SUITED: Any = None  # the default of an option whose value depends on the model: `Recipe.suited_to` fills it in


@options
class Recipe:
    """How the model is trained; the defaults are the published ones, except for the length and for tiny models.

    Attributes:
        task: pretrain: predict the next segment; detect: detect seizures.
        tune: with detect: LoRA and head (default for a model folder), everything (default for a fresh model), or the head alone.
        epochs: number of epochs; the model is evaluated after each (20; tiny: 6).
        batches: batches per epoch (published: 1000; tiny: 100).
        batch: windows per batch, all of one patient (published: 32; tiny: 16).
        accumulate: batches per optimiser step.
        lr: AdamW's highest learning rate (published: 1e-4; tiny: 2e-3).
        weight_decay: of AdamW.
        clip: greatest norm of a gradient; 0: none.
        warmup: share of the steps in which the rate rises from 0; then it falls as a cosine to 0.
        dropout: rate for embeddings, attention and residuals alike (published: 0.1; tiny: 0).
        structured_dropout: attention drops whole key segments and channels, as the published kernel does.
        negatives: number per segment, in the generative objective.
        temperature: of the generative objective.
        law: how negatives are drawn.
        class_weights: of (other, seizure) in the loss.
        balanced: half of the windows with seizures.
        slow_down: finer steps around seizures.
        batch_channels: windows are cut to at most this many channels.
        lora_rank: rank of the low-rank updates.
        lora_alpha: scale of the low-rank updates.
        selection: the epoch to keep: the best on the patients held out (detect: kappa; pretrain: loss), or the last.
    """

    task: Task = "detect"
    tune: Tune = SUITED
    epochs: Annotated[int, AtLeast(1)] = SUITED
    batches: Annotated[int, AtLeast(1)] = SUITED
    batch: Annotated[int, AtLeast(1)] = SUITED
    accumulate: Annotated[int, AtLeast(1)] = 1
    lr: Annotated[float, Above(0)] = SUITED
    weight_decay: Annotated[float, AtLeast(0)] = 0.01
    clip: Annotated[float, AtLeast(0)] = 1.0
    warmup: Annotated[float, Between(0, 0.99)] = 0.1
    dropout: Annotated[float, Between(0, 0.99)] = SUITED
    structured_dropout: bool = False
    negatives: Annotated[int, AtLeast(1)] = 30
    temperature: Annotated[float, Above(0)] = 0.1
    law: Literal["uniform", "official"] = "uniform"
    class_weights: Pair | None = None
    balanced: Annotated[bool, Flag("--as-they-come")] = True
    slow_down: Annotated[bool, Flag("--even")] = True
    batch_channels: Annotated[int, AtLeast(1)] = 32
    lora_rank: Annotated[int, AtLeast(1)] = 8
    lora_alpha: Annotated[float, AtLeast(0)] = 16.0
    selection: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if self.class_weights is not None and not min(self.class_weights) > 0:
            raise UserError(f"--class-weights {self.class_weights}: both must be greater than 0")

    def suited_to(self, model: str = "") -> "Recipe":
        """This recipe with open options filled in.

        Args:
            model: a size, or a model folder ("": the published values).
        """
        defaults = {**PUBLISHED, **SUITED_TO.get(model, {})}
        values = {}
        for field in fields(self):
            if field.name in defaults and getattr(self, field.name) is None:
                values[field.name] = defaults[field.name]
        return replace(self, **values)


PUBLISHED: Mapping[str, Any] = {
    "tune": "lora",
    "epochs": 20,
    "batches": 1000,
    "batch": 32,
    "lr": 1e-4,
    "dropout": 0.1,
}
# LoRA has nothing to add to in a fresh model; a small one on a laptop needs higher rates and fewer steps.
SUITED_TO: Mapping[str, Mapping[str, Any]] = {
    "s": {"tune": "all"},
    "m": {"tune": "all"},
    "tiny": {"tune": "all", "epochs": 6, "batches": 100, "batch": 16, "lr": 2e-3, "dropout": 0.0},
}

# Names in the published YAML files → our options; None: known, but without meaning here.
PUBLISHED_NAMES: Mapping[str, str | None] = {
    "batch_size": "batch",
    "num_negatives": "negatives",
    "temp": "temperature",
    "n_segments": "window",
    "patients_per_batch": None,
}


@options
class FreshOptions:
    """The build of a fresh model; a model folder has its own.

    Attributes:
        window: segments per window (25; tiny: 12).
        rate: Hz, of a fresh model (512; tiny: 128).
        relative_index: of a fresh model: rows of the position tables are counted from the end or by distance.
    """

    window: Annotated[int | None, AtLeast(1)] = None
    rate: Annotated[float | None, AtLeast(1)] = None
    relative_index: Literal["official", "distance"] | None = None


@options
class CohortOptions:
    """The recordings to train on.

    Attributes:
        validation: patients held out: a share (0.2, 0), or names 'sub-01,sub-07'.
        drop_copies: of recordings that are the same, keep the first; default: refuse.
        store_limit: GB that prepared recordings may take on disk during training.
    """

    validation: str = "0.2"
    drop_copies: bool = False
    store_limit: Annotated[float, AtLeast(0)] = 20.0
