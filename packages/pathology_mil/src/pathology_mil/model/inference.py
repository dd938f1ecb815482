"""Model + bag → label, probabilities and attention of every tile → files that people and CLAM's tools open."""

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

from core_runtime.bulk import Item, Outcome, Skipped, bulk
from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, write_text, writing
from pathology_mil.training.data import read_features
from pathology_mil.features.bags import Bag, BagFile, find_bags
from pathology_mil.model.losses import attention
from pathology_mil.model.folder import LoadedModel, load


@dataclass(frozen=True)
class SlidePrediction:
    """What a model says of one slide.

    Attributes:
        label: name of the most probable class.
        probabilities: class name → probability.
        attention: (N,) mean over branches and heads, sums to 1; uniform would be 1/N.
        branch_attention: (M, N) of each branch (mean over its heads); each row sums to 1.
        top10: share of the attention on the ten tiles with the most.
        entropy: of the attention over log N: 1 for uniform attention, 0 where one tile has it all.
        facts: encoder and number of tiles, to be read with the result.
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
    a = np.asarray(attention, np.float64)
    if len(a) < 2:
        return 0.0
    a = a[a > 0]
    return float(-(a * np.log(a)).sum() / np.log(len(attention)))


class Predictor:
    """A model with its pre- and post-processing: bags in, `SlidePrediction` out."""

    def __init__(self, model: Path | str | LoadedModel, *, device: str = "cpu") -> None:
        self.model = model if isinstance(model, LoadedModel) else load(model, device=device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, bag: Bag) -> SlidePrediction:
        """Predicts one slide.

        Raises:
            UserError: no tiles, features of another width than the model's, or not finite.
        """
        name = bag.slide_id
        if len(bag) == 0:
            raise UserError(f"{name}: the slide has no tiles, so there is nothing to predict from")
        self.model.check_width(bag.features.shape[1], name)
        encoder = self.model.features.get("encoder")
        facts: dict[str, Any] = {"encoder": bag.encoder or encoder or "unknown"}
        if encoder and bag.encoder and bag.encoder != encoder:
            facts["warning"] = f"the model was trained on features of {encoder}, these are of {bag.encoder}"
        output = self.model.network(read_features(bag.features, name).to(self.device))
        probabilities = output.slide_logits[0].double().softmax(0).tolist()
        branches = attention(output.scores).mean(0)
        named = dict(zip(self.model.classes, probabilities, strict=True))
        return SlidePrediction(
            name,
            max(named, key=named.__getitem__),
            named,
            branches.mean(0).float().cpu().numpy(),
            branches.float().cpu().numpy(),
            bag.coords,
            bag.side,
            facts,
        )


def write_prediction(prediction: SlidePrediction, out: Path) -> Path:
    """Writes ``SLIDE.h5`` (`attention_scores` (N, 1) and `coords`, as CLAM; `branch_attention` (M, N)), then ``SLIDE.json``.

    Returns:
        The JSON file; it exists only if the other does.
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


def predict(
    model: Path | str | LoadedModel,
    features: Path | str,
    out: Path | str,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """Predicts one feature file, or all of a folder; writes a ``SLIDE.json`` and ``SLIDE.h5`` each and ``predictions.csv``.

    A rerun goes on where an interrupted one stopped. Within a folder a slide that cannot be used gets a recorded status and the rest
    goes on; a single file raises.

    Returns:
        The predictions (without arrays), and one outcome a slide.

    Raises:
        UserError: no model or features there, earlier predictions by another model, or the only slide cannot be used.
    """
    out = Path(out)
    bags = list(find_bags(features).values())
    predictor = Predictor(model, device=device)
    identity = _identity(predictor.model)
    mark = out / "predictions.json"
    if mark.exists() and not overwrite and json.loads(mark.read_text(encoding="utf-8")).get("model") != identity:
        raise UserError(
            f"{out} holds predictions of another model", "--overwrite replaces them, --out names another folder"
        )
    items = [Item(b.slide_id, b, out / f"{b.slide_id}.json") for b in bags]

    def work(item: Item) -> dict[str, Any]:
        source: BagFile = item.source
        bag = source.open()
        if len(bag) == 0 and len(items) > 1:
            raise Skipped("no tiles")
        prediction = predictor(bag)
        write_prediction(prediction, out)
        return prediction.plain()

    if len(items) == 1:
        if overwrite or not items[0].output.exists():
            work(items[0])
        outcomes = [Outcome(items[0].name, "done")]
    else:
        again = (lambda item: False) if overwrite else None
        outcomes = bulk(work, items, log=out / "predict.jsonl", description="Predicting", already=again)
    made = [json.loads(i.output.read_text(encoding="utf-8")) for i, o in zip(items, outcomes, strict=True) if o.ok]
    write_text(mark, json.dumps({"model": identity, "classes": predictor.model.classes}))
    write_text(out / "predictions.csv", table(made, predictor.model.classes))
    return made, outcomes


def _identity(model: LoadedModel) -> str:
    weights = {k: float(v.double().sum()) for k, v in model.network.state_dict().items()}
    return fingerprint({"classes": model.classes, "weights": weights})


def table(predictions: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """CSV: slide_id, label, the probability of every class, tiles, top10_attention, attention_entropy, encoder."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    facts = ("tiles", "top10_attention", "attention_entropy", "encoder")
    writer.writerow(["slide_id", "label", *(f"p_{c}" for c in classes), *facts])
    for p in predictions:
        writer.writerow([p["slide_id"], p["label"], *(p["probabilities"][c] for c in classes), *(p[f] for f in facts)])
    return out.getvalue()
