"""Model folders of detectors: saving, strict loading, choosing."""

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
from vision_models.detect.model.detectors import Detector
from vision_models.detect.model.inference import ReadyDetector
from vision_models.detect.model.published import ADVICE

_MADE_BY = "'vision-models detect train' makes a model folder"


def save_model(network: Detector, folder: Path, *, classes: Sequence[str], provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder that records its classes and what it was made from."""
    return seal(save_folder(network, folder, preprocessing={"classes": list(classes)}, provenance=provenance))


def load_model(model: str | Path | None, *, device: str = "cpu") -> ReadyDetector:
    """The model of ``--model``.

    Raises:
        UserError: none was given, or it does not hold a detector; a field of its config.json is missing or of another type.
    """
    if model is not None:
        model = str(model)
    folder = choose_model(model, advice=ADVICE)
    try:
        described = read_config(folder)
        network = load_strictly(folder, Detector)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(shorten(clean(str(error))), _MADE_BY) from None
    where = f"{folder}/config.json"
    check_names(described, "preprocessing", ("classes",), where=where, hint=_MADE_BY)
    classes = tuple(read_names(described, "preprocessing.classes", where=where, hint=_MADE_BY))
    if len(classes) != network.config.num_classes:
        raise UserError(
            f"{where}: {len(classes)} classes are named, the network has {network.config.num_classes}", _MADE_BY
        )
    provenance = read_field(described, "provenance", dict, where=where, hint=_MADE_BY)
    warn_if_changed(described, Path(folder))
    return ReadyDetector(network.to(device).eval(), classes, provenance, Path(folder))
