"""Model folders of classifiers: saving, strict loading, choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, clean, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from vision_models.classify.model.classifier import Classifier
from vision_models.classify.model.inference import ImageClassifier
from vision_models.classify.model.preparing import Preprocessing
from vision_models.classify.model.published import ADVICE

_MADE_BY = "'vision-models classify train' makes a model folder"


def save_model(
    network: Classifier,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder that records its preprocessing, its classes and what it was made from."""
    described = {"input": preprocessing.plain(), "classes": list(classes)}
    return seal(save_folder(network, folder, preprocessing=described, provenance=provenance))


def load_model(model: str | Path | None, *, device: str = "cpu") -> ImageClassifier:
    """The model of ``--model``.

    Raises:
        UserError: none was given, or it does not hold a classifier; a field of its config.json is missing or of another type.
    """
    if model is not None:
        model = str(model)
    folder = choose_model(model, advice=ADVICE)
    try:
        described = read_config(folder)
        network = load_strictly(folder, Classifier)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(shorten(clean(str(error))), _MADE_BY) from None
    where = f"{folder}/config.json"
    settings: dict[str, Any] = {"where": where, "hint": _MADE_BY}
    check_names(described, "preprocessing", ("input", "classes"), **settings)
    check_names(described, "preprocessing.input", ("size", "mean", "std"), **settings)
    size = read_field(described, "preprocessing.input.size", int, low=8, high=4096, **settings)
    config = network.config
    if size != config.size:
        raise UserError(f"{where}: preprocessing.input.size is {size}, the network's is {config.size}", _MADE_BY)
    numbers = []
    for name, low in (("mean", 0.0), ("std", 1e-6)):
        entries = read_field(described, f"preprocessing.input.{name}", list, **settings)
        if len(entries) != config.in_chans:
            raise UserError(
                f"{where}: preprocessing.input.{name} has {len(entries)} values for {config.in_chans} channels",
                _MADE_BY,
            )
        # positions become fields of their own, so that a message names the position
        by_position = {f"preprocessing input {name} [{i}]": entry for i, entry in enumerate(entries)}
        numbers.append(tuple(read_field(by_position, key, float, low=low, **settings) for key in by_position))
    classes = tuple(read_names(described, "preprocessing.classes", **settings))
    if len(classes) != config.num_classes:
        raise UserError(f"{where}: {len(classes)} classes are named, the network has {config.num_classes}", _MADE_BY)
    provenance = read_field(described, "provenance", dict, **settings)
    warn_if_changed(described, Path(folder))
    ready = network.to(device).eval()
    return ImageClassifier(ready, Preprocessing(size, *numbers), classes, provenance, Path(folder))
