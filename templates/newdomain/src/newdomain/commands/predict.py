"""``newdomain predict``."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.identity import keep_latest
from core_runtime.models import no_model
from core_runtime.options import BulkOptions, Device, Model, Out, resolve_device
from newdomain.signals.formats import find_signals


@dataclass(frozen=True)
class Predictions(BulkOutcome):
    """What the model says of each signal.

    Attributes:
        predictions: `newdomain.results.Prediction` of each that succeeded, as plain values.
        attempts: what became of each signal.
    """

    out: Path
    predictions: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"predictions": self.predictions, "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for prediction in self.predictions:
            yield f"{prediction['signal']}: {prediction['probability']:.3f} (at {prediction['seconds']} s)"
        yield f"Pictures: {self.out}"


def predict(
    path: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("newdomain-predictions"),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Predictions:
    """Finds bursts in signals. A rerun goes on with the signals that are not done.

    Example: newdomain predict signal.csv --model run/model

    Args:
        path: a signal (CSV), or a folder of them.
    """
    from core_runtime.identity import identity, model_identity
    from newdomain.model.folder import ADVICE
    from newdomain.signals.reading import read_signal

    files = find_signals(path)
    if len(files) == 1:
        read_signal(files[0])  # a mistake in a single file is the user's first line
    if model is None:
        raise no_model(ADVICE)
    _load(model, resolve_device(device))
    made_by = model_identity(Path(model))
    items = []
    for file in files:
        # by its path below the folder: two recorders may write files of one name
        name = str(file.relative_to(path).with_suffix("")) if path.is_dir() else file.stem
        key = {"input": identity(file), "model": made_by}
        items.append(Item(name, (str(file), model, resolve_device(device)), out / name, key=key, inputs=[file]))
    attempts = bulk(predict_item, items, run, log=out / "log.jsonl", description="Predicting")
    return Predictions(out, read_results(items, attempts, "prediction.json"), attempts)


@keep_latest
def _load(model: str, device: str) -> Any:
    """The model, once in each process as long as its folder stays as it is."""
    from newdomain.model.folder import load_model

    return load_model(model, device)


def predict_item(item: Item) -> dict[str, Any]:
    """Writes ``prediction.json`` and ``signal.png`` of one signal, both or neither."""
    from core_runtime.folders import writing
    from newdomain.model.inference import predict_signal
    from newdomain.reports.figures import draw_signal
    from newdomain.signals.reading import read_signal

    path, model, device = item.source
    signal = read_signal(Path(path))
    prediction = predict_signal(_load(model, device), signal)
    with writing(item.output) as part:
        part.mkdir()
        draw_signal(signal, prediction.weights).savefig(part / "signal.png", dpi=110)
        (part / "prediction.json").write_text(json.dumps(asdict(prediction)), encoding="utf-8")
    return {"probability": prediction.probability}
