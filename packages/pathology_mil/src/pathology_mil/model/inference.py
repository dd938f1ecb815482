"""Model + bag → label, probabilities and attention of every tile → files that open in CLAM's tools."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from pathology_mil.features.bags import Bag, read_features
from pathology_mil.model.folder import LoadedModel, load
from pathology_mil.model.losses import attention


@dataclass(frozen=True)
class SlidePrediction:
    """The prediction of a model for one slide.

    Attributes:
        label: name of the most probable class.
        probabilities: class name → probability.
        attention: (N,) mean over branches and heads, sums to 1; uniform would be 1/N.
        branch_attention: (M, N) of each branch (mean over its heads); each row sums to 1.
        top10: share of the attention on the ten tiles with the most.
        entropy: of the attention, divided by log N: 1 for uniform attention, 0 where one tile has it all.
        facts: encoder and number of tiles, for readers of the result.
    """

    slide_id: str
    label: str
    probabilities: Mapping[str, float]
    attention: NDArray[np.float32]
    branch_attention: NDArray[np.float32]
    coords: NDArray[np.int64] | None
    side: int | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def top10(self) -> float:
        return concentration(self.attention)[min(10, len(self.attention)) - 1].item()

    @property
    def entropy(self) -> float:
        return normalised_entropy(self.attention)

    def plain(self) -> dict[str, Any]:
        """For JSON and CSV: all but the arrays."""
        return {
            "slide_id": self.slide_id,
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "tiles": len(self.attention),
            "top10_attention": self.top10,
            "attention_entropy": self.entropy,
            **self.facts,
        }


def concentration(attention: NDArray) -> NDArray[np.float64]:
    """Cumulative attention of the top K tiles for K = 1, 2, …, N."""
    return np.cumsum(np.sort(np.asarray(attention, np.float64))[::-1])


def normalised_entropy(attention: NDArray) -> float:
    """``−Σ a log a / log N``; 0 for a single tile."""
    weights = np.asarray(attention, np.float64)
    if len(weights) < 2:
        return 0.0
    positive = weights[weights > 0]  # 0 log 0 = 0
    return float(-(positive * np.log(positive)).sum() / np.log(len(weights)))


class Predictor:
    """A model with its pre- and post-processing: bags in, `SlidePrediction` out."""

    def __init__(self, model: Path | str | LoadedModel, *, device: str = "cpu") -> None:
        if not isinstance(model, LoadedModel):
            model = load(model, device=device)
        self.model = model
        self.device = device

    @torch.inference_mode()
    def __call__(self, bag: Bag) -> SlidePrediction:
        """Predicts one slide.

        Raises:
            UserError: no tiles, features that are not of the model's kind, or not finite.
        """
        name = bag.slide_id
        if len(bag) == 0:
            raise UserError(f"{name}: the slide has no tiles, so there is nothing to predict from")
        self.model.check_bag(bag)
        facts: dict[str, Any] = {"encoder": bag.encoder or self.model.features.get("encoder") or "unknown"}
        output = self.model.network(read_features(bag.features, name).to(self.device))
        probabilities = output.slide_logits[0].double().softmax(0).tolist()
        branches = attention(output.scores).mean(0)  # over the heads: [M, N]
        probability_of = dict(zip(self.model.classes, probabilities, strict=True))
        return SlidePrediction(
            name,
            max(probability_of, key=probability_of.__getitem__),
            probability_of,
            branches.mean(0).float().cpu().numpy(),
            branches.float().cpu().numpy(),
            bag.coords,
            bag.side,
            facts,
        )


def write_prediction(prediction: SlidePrediction, out: Path) -> Path:
    """Writes ``SLIDE.h5`` (`attention_scores` (N, 1) and `coords`, as CLAM; `branch_attention` (M, N)), then ``SLIDE.json``.

    Returns:
        The JSON file; it exists only if the other does, since it is written last.
    """
    with writing(out / f"{prediction.slide_id}.h5") as temporary, h5py.File(temporary, "w") as file:
        file["attention_scores"] = prediction.attention[:, None]
        file["branch_attention"] = prediction.branch_attention
        if prediction.coords is not None:
            file["coords"] = prediction.coords
            if prediction.side is not None:
                file["coords"].attrs["patch_size_level0"] = prediction.side
    path = out / f"{prediction.slide_id}.json"
    write_text(path, json.dumps(prediction.plain(), ensure_ascii=False, indent=1))
    return path


def table(predictions: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """CSV: slide_id, label, the probability of every class, tiles, top10_attention, attention_entropy, encoder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    facts = ("tiles", "top10_attention", "attention_entropy", "encoder")
    columns = [f"p_{name}" for name in classes]
    writer.writerow(["slide_id", "label", *columns, *facts])
    for prediction in predictions:
        probabilities = [prediction["probabilities"][name] for name in classes]
        values = [prediction[name] for name in facts]
        writer.writerow([prediction["slide_id"], prediction["label"], *probabilities, *values])
    return text.getvalue()
