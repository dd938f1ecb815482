"""``pathology-mil predict``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, Skipped, bulk, read_results, require_results
from core_runtime.identity import keep_latest
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from pathology_mil.features.options import EncoderOptions
from pathology_mil.model.published import NO_CLASSIFIERS
from pathology_mil.slides.options import ScanOptions

if TYPE_CHECKING:
    from pathology_mil.features.bags import BagFile
    from pathology_mil.model.inference import Predictor


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """Predicted labels of slides.

    Attributes:
        table: predictions.csv.
        predictions: for each slide its label, probabilities, tiles, top10_attention, attention_entropy and encoder; the attention
            itself is in SLIDE.h5 beside the table.
        attempts: the result of each slide.
    """

    table: Path
    predictions: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"predictions": self.predictions, "table": self.table, "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for slide in self.predictions:
            probabilities = ", ".join(f"{name} {value:.3f}" for name, value in slide["probabilities"].items())
            yield (
                f"{slide['slide_id']}: {slide['label']} ({probabilities}); {slide['tiles']:,} tiles, "
                f"top 10 hold {slide['top10_attention']:.0%} of the attention"
            )
        yield f"Table: {self.table}"


@dataclass(frozen=True)
class _Work:
    """What a process needs to predict one slide."""

    bag: "BagFile"
    model: str
    device: str


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("predictions"),
    encoder: EncoderOptions = EncoderOptions(),
    scan: ScanOptions = ScanOptions(),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Predicts slide labels with probabilities, and the attention of every tile.

    A rerun continues where an interrupted one stopped. Slides are first tiled and encoded in the way of the model's training slides
    (--encoder and --weights where its encoder is a network).

    Example: pathology-mil predict features/slide.h5 --model run/model

    Args:
        path: features or slides: a file, or a folder of them.
    """
    from core_runtime.folders import write_text
    from core_runtime.identity import identity, model_identity
    from core_runtime.models import choose_model
    from pathology_mil.features.bags import find_bags
    from pathology_mil.model.inference import table
    from pathology_mil.model.preparing import holds_slides, prepare

    model = choose_model(model, advice=NO_CLASSIFIERS)
    where = resolve_device(device)
    loaded = _predictor(model, where).model
    unprepared: list[Attempt] = []
    if holds_slides(path):
        how = {"encoder": encoder, "mpp": scan.mpp, "run": run}
        path, unprepared = prepare(path, loaded, out / "slides", device=where, **how)
    bags = list(find_bags(path).values())
    weights = model_identity(Path(model))
    items = []
    for bag in bags:
        key = {"features": identity(bag.path), "model": weights}
        output = out / f"{bag.slide_id}.json"
        items.append(Item(bag.slide_id, _Work(bag, model, where), output, key=key, inputs=[bag.path]))
    attempts = bulk(_predict, items, run.on(where), log=out / "predict.jsonl", description="Predicting")
    if len(attempts) == 1:
        require_results(attempts)
    # read back from the files, so that slides of an earlier run are in the table, too
    predictions = read_results(items, attempts)
    write_text(out / "predictions.csv", table(predictions, loaded.classes))
    return Predictions(out / "predictions.csv", predictions, [*attempts, *unprepared])


@keep_latest
def _predictor(model: str, device: str) -> "Predictor":
    """The model, once in each process as long as its folder stays as it is."""
    from pathology_mil.model.inference import Predictor

    return Predictor(model, device=device)


def _predict(item: Item) -> dict[str, Any]:
    """Writes SLIDE.h5, then SLIDE.json: the latter means that both are there."""
    from pathology_mil.model.inference import write_prediction

    work: _Work = item.source
    bag = work.bag.open()
    if len(bag) == 0:
        raise Skipped("no tiles", "the slide has no tiles, so there is nothing to predict from")
    prediction = _predictor(work.model, work.device)(bag)
    write_prediction(prediction, item.output.parent)
    return prediction.plain()
