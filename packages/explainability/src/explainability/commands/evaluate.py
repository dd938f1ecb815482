"""``explainability evaluate``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.cli import Outcome, plain
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Model, Out, Overwrite, Seed, resolve_device
from core_runtime.terminal import warn
from explainability.commands.explain import MapOptions

if TYPE_CHECKING:
    from torch import Tensor

    from explainability.attribution.explaining import Explanation

MEASURES = ("insertion", "deletion", "energy_in_mask", "pointing_game", "random_weights_correlation")


@dataclass(frozen=True)
class Evaluation(Outcome):
    """A model and its maps on labelled pictures.

    Attributes:
        accuracy: share of the pictures, with the ends of its 95 % interval.
        methods: method → measure → (mean, low, high) over the explained pictures.
        refused: methods that cannot explain this model, and why.
        pictures: how many were classified.
        seen: how many more there are that the model was trained on or selected by; all of them, if there are no others to judge it by.
        explained: how many were explained.
        table: where all of it is.
    """

    accuracy: tuple[float, float, float]
    methods: Mapping[str, Mapping[str, tuple[float, float, float]]]
    refused: Mapping[str, str]
    pictures: int
    seen: int
    explained: int
    table: Path

    def facts(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy[0],
            "accuracy_interval": list(self.accuracy[1:]),
            "pictures": self.pictures,
            "seen_in_training": self.seen,
            "explained": self.explained,
            "methods": plain(self.methods),
            "refused": dict(self.refused),
        }

    def lines(self) -> Iterable[str]:
        mean, low, high = self.accuracy
        if self.seen and self.seen == self.pictures:
            warn(f"Not a test of the model: it was trained on, or selected by, all of these {self.seen} pictures")
        elif self.seen:
            yield f"left out: {self.seen} pictures that the model was trained on, or selected by"
        yield f"accuracy {mean:.3f} (95 % interval {low:.3f} to {high:.3f}, {self.pictures} pictures)"
        for method, measures in self.methods.items():
            parts = [f"{name} {mean:.3f} [{low:.3f}, {high:.3f}]" for name, (mean, low, high) in measures.items()]
            yield f"{method:10} {', '.join(parts)}"
        for method, why in self.refused.items():
            yield f"{method:10} not for this model: {why}"
        yield f"Table: {self.table}"


def evaluate(
    folder: Path,
    /,
    *,
    model: Model = None,
    masks: Path | None = None,
    maps: MapOptions = MapOptions(),
    pictures: Annotated[int, AtLeast(1)] = 60,
    out: Out = Path("explainability-evaluation"),
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Evaluation:
    """Judges a model on labelled pictures, and its maps by their curves and, with masks, by what they point at; random maps stand beside.

    Explained is the true class of each picture unless --target says another.

    Example: explainability evaluate shapes/test --model run/model --masks shapes/masks

    Args:
        folder: a folder of pictures per class.
        masks: folders and names as those of the pictures; what is not black is the object.
        pictures: at most so many are explained, spread over the folder; all are classified.
    """
    from core_runtime.folders import write_text
    from core_runtime.statistics import wilson
    from explainability.models.loading import load_classifier

    table = out / "metrics.json"
    if table.exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    classifier = load_classifier(model, resolve_device(device))
    labelled, images, right, seen = classify(folder, classifier)
    accuracy = sum(right) / len(right)
    judged = _spread(len(images), pictures)
    drawn = None if masks is None else read_masks(masks, folder, [labelled.files[i] for i in judged], classifier.size)
    methods, refused = judge_maps(classifier, images[judged], [labelled.labels[i] for i in judged], drawn, maps, seed)
    result = Evaluation(
        (accuracy, *wilson(accuracy, len(right))), methods, refused, len(right), seen, len(judged), table
    )
    write_text(table, json.dumps(plain(result.facts()), indent=1) + "\n")
    return result


def classify(folder: Path, classifier: Any) -> tuple[Any, "Tensor", Sequence[bool], int]:
    """The labelled pictures of a folder that the model has not seen (or all, if it has seen them all), prepared; whether each is classified
    rightly; and how many it has seen."""
    import torch

    from core_runtime.terminal import track
    from explainability.attribution.targets import logits_of
    from explainability.images.formats import find_classes
    from explainability.training.data import PictureSet, read_folder

    names = classifier.names or tuple(find_classes(folder))
    everything = read_folder(folder, names)
    unseen = everything.without(classifier.known)
    seen = len(everything.files) - len(unseen.files)
    labelled = unseen if unseen.files else everything
    prepared = PictureSet(labelled, classifier)
    images = torch.stack([prepared[number][0] for number in track(range(len(prepared)), "Reading")]).to(
        classifier.device
    )
    right: list[bool] = []
    with torch.inference_mode():
        for first in range(0, len(images), 32):
            answers = logits_of(classifier.model(images[first : first + 32])).argmax(-1).tolist()
            right += [answer == label for answer, label in zip(answers, labelled.labels[first:], strict=False)]
    return labelled, images, right, seen


def _spread(total: int, most: int) -> list[int]:
    """Evenly spread numbers below `total`, at most so many."""
    count = min(total, most)
    return [number * total // count for number in range(count)]


def read_masks(masks: Path, folder: Path, files: Sequence[Path], size: tuple[int, int]) -> "Tensor":
    """True where the mask of a picture is not black, at the model's size.

    Raises:
        UserError: a picture has no mask; the first is named, with how many lack one.
    """
    import numpy as np
    import torch
    from PIL import Image

    from core_runtime.pictures import open_picture

    places = []
    for file in files:
        name = file.relative_to(folder)
        candidates = [masks / name, *(masks / name.with_suffix(suffix) for suffix in (".png", ".tif", ".bmp"))]
        places.append(next((place for place in candidates if place.is_file()), None))
    lacking = [file for file, place in zip(files, places, strict=True) if place is None]
    if lacking:
        name = lacking[0].relative_to(folder)
        raise UserError(
            f"{len(lacking)} pictures have no mask in {masks}, the first is {name}",
            "masks have the names of the pictures",
        )
    rows = []
    for place in places:
        image = open_picture(place).image.convert("L").resize((size[1], size[0]), Image.Resampling.NEAREST)
        rows.append(torch.from_numpy(np.array(image) > 0))
    return torch.stack(rows)


def judge_maps(
    classifier: Any, images: "Tensor", labels: Sequence[int], masks: "Tensor | None", maps: MapOptions, seed: int
) -> tuple[dict[str, dict[str, tuple[float, float, float]]], dict[str, str]]:
    """Means of every measure with intervals over pictures, per method."""
    import numpy as np
    import torch

    from core_runtime.statistics import intervals
    from explainability.attribution.explaining import Checks, explain_batch

    with torch.no_grad():
        classes = classifier.model(images[:1])
    number = classifier.number(maps.target, getattr(classes, "logits", classes).shape[-1])
    target = torch.tensor(labels) if number is None else torch.full((len(labels),), number)
    checks = Checks(maps.steps, maps.randomisation, seed)
    explanations, refused = explain_batch(
        classifier.model, images, maps.method, target.to(images.device), checks, grid=maps.grid, layer=maps.layer
    )
    result: dict[str, dict[str, tuple[float, float, float]]] = {}
    for method, explanation in explanations.items():
        values = {name: np.asarray(column, float) for name, column in _columns(explanation, masks).items()}

        def means(indices: Any, values: dict[str, Any] = values) -> dict[str, float]:
            return {name: _mean(column[indices]) for name, column in values.items()}

        every = np.arange(len(labels))
        estimates = means(every)
        ends = intervals(means, every.tolist(), bounded=False, resamples=500, seed=seed)
        result[method] = {name: (estimates[name], ends[name].low, ends[name].high) for name in values}
    return result, refused


def _mean(values: Any) -> float:
    """The mean of what is defined; NaN where nothing is."""
    import numpy as np

    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _columns(explanation: "Explanation", masks: "Tensor | None") -> dict[str, Any]:
    """Each measure of each picture."""
    from explainability.attribution.metrics import energy_in_mask, pointing_game

    columns: dict[str, Any] = {
        "insertion": explanation.insertion.area.cpu(),
        "deletion": explanation.deletion.area.cpu(),
    }
    if masks is not None:
        columns["energy_in_mask"] = energy_in_mask(explanation.maps.cpu(), masks)
        columns["pointing_game"] = pointing_game(explanation.maps.cpu(), masks).double()
    if explanation.unchanged is not None:
        columns["random_weights_correlation"] = explanation.unchanged
    return columns
