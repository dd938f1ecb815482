"""The files of an evaluation: a table with a row per image, pictures, and one page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from core_runtime.errors import counted
from core_runtime.folders import write_text
from core_runtime.image_sets import ImageSet
from core_runtime.report import Report
from vision_models.classify.metrics import Metrics
from vision_models.classify.model.inference import ImageClassifier
from vision_models.classify.reports.figures import draw_confusion, image_sheet
from vision_models.classify.reports.looking import look

WORST = 16  # images on the sheet of mistakes
COLUMNS = ("image", "digest", "label", "predicted", "confidence", "correct")


def write_predictions(
    path: Path, images: ImageSet, numbers: Sequence[int], probabilities: Tensor, classes: Sequence[str]
) -> None:
    """CSV: a row per image with its label, prediction and the probability of every class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *classes])
    for number, row in zip(numbers, probabilities, strict=True):
        best, label = int(row.argmax()), images.labels[number]
        shares = [round(float(share), 5) for share in row]
        head = [images.names[number], images.digests[number], classes[label], classes[best], shares[best]]
        writer.writerow([*head, int(best == label), *shares])
    write_text(path, text.getvalue())


def write_evaluation(
    out: Path,
    model: ImageClassifier,
    images: ImageSet,
    numbers: Sequence[int],
    probabilities: Tensor,
    metrics: Metrics,
    origin: str,
) -> dict[str, Path]:
    """Writes ``predictions.csv``, ``confusion.png``, ``mistakes.png`` and ``report.html``; returns them by name."""
    classes = model.classes
    files = {"table": out / "predictions.csv", "confusion": out / "confusion.png"}
    write_predictions(files["table"], images, numbers, probabilities, classes)
    low, high = metrics.intervals["accuracy"]
    title = f"{counted(metrics.images, 'image')}, accuracy {metrics.accuracy:.1%} ({low:.1%} to {high:.1%})"
    draw_confusion(metrics.confusion, classes, title, files["confusion"])
    layer = draw_mistakes(out / "mistakes.png", model, images, numbers, probabilities)
    page = Report(f"{model.network.config.network} on {images.root.name}", lead=title).text(origin)
    page.table(
        ["measure", "value", "95 % interval"], _rows(metrics), caption="Intervals are over images, not over trainings."
    )
    page.picture(files["confusion"], "Confusion: rows are the true classes.")
    for true, predicted, count in metrics.confused(classes):
        page.text(f"{true} was taken for {predicted}: {count}")
    if (out / "mistakes.png").exists():
        files["mistakes"] = out / "mistakes.png"
        words = "The most wrong images: the probability of the wrong class is highest."
        if layer:
            words += f" Below each, where {layer} looked (bright: much)."
        page.picture(files["mistakes"], words)
    page.table(["class", "images recognised"], list(metrics.recall.items()), caption="Recall of each class.")
    files["report"] = page.write(out / "report.html")
    return files


def draw_mistakes(
    path: Path, model: ImageClassifier, images: ImageSet, numbers: Sequence[int], probabilities: Tensor
) -> str:
    """The most wrong images with the network's attention; returns the layer whose attention is shown, "" without any."""
    labels = torch.tensor([images.labels[number] for number in numbers])
    wrong = probabilities.argmax(1) != labels
    surest = probabilities.max(1).values.masked_fill(~wrong, -1)
    places = surest.argsort(descending=True)[: min(WORST, int(wrong.sum()))].tolist()
    path.unlink(missing_ok=True)
    if not places:
        return ""
    titles = []
    for place in places:
        true, predicted = model.classes[int(labels[place])], model.classes[int(probabilities[place].argmax())]
        titles.append(f"{true[:14]}\nas {predicted[:14]} {float(surest[place]):.2f}")
    shown = [numbers[place] for place in places]
    pictures, maps, layer = look(model, images, shown)
    image_sheet(pictures, titles, path, maps=maps)
    return layer


def _rows(metrics: Metrics) -> list[tuple[str, float | None, str]]:
    rows = []
    plain = metrics.plain()
    names = {
        "accuracy": "accuracy",
        "top5": "among the first five",
        "balanced": "balanced accuracy",
        "auc": "area under the ROC curve",
        "nll": "negative log likelihood",
        "ece": "expected calibration error",
    }
    for key, name in names.items():
        if plain[key] is None:
            continue
        interval = "–"
        if key in metrics.intervals:
            low, high = metrics.intervals[key]
            interval = f"{low:.3f} to {high:.3f}"
        rows.append((name, plain[key], interval))
    return rows
