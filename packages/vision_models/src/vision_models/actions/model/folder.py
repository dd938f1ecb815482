"""Model folders of action detectors: saving, strict loading, choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, clean, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from vision_models.actions.model.detector import ActionDetector
from vision_models.actions.model.inference import FeatureSource, ReadyDetector
from vision_models.actions.model.published import ADVICE

_MADE_BY = "'vision-models actions train' makes a model folder"


def save_model(
    network: ActionDetector,
    folder: Path,
    *,
    labels: Sequence[str],
    source: FeatureSource,
    threshold: float,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder that records its features, its labels and what it was made from."""
    described = {"features": asdict(source), "labels": list(labels), "threshold": threshold}
    return seal(save_folder(network, folder, preprocessing=described, provenance=provenance))


def load_model(model: str | Path | None, *, device: str = "cpu") -> ReadyDetector:
    """The model of ``--model``.

    Raises:
        UserError: none was given, or it does not hold an action detector; a field of its config.json is missing or of another type.
    """
    if model is not None:
        model = str(model)
    folder = choose_model(model, advice=ADVICE)
    try:
        described = read_config(folder)
        network = load_strictly(folder, ActionDetector)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(shorten(clean(str(error))), _MADE_BY) from None
    settings: dict[str, Any] = {"where": f"{folder}/config.json", "hint": _MADE_BY}
    check_names(described, "preprocessing", ("features", "labels", "threshold"), **settings)
    check_names(described, "preprocessing.features", ("backbone", "channels", "step"), **settings)
    source = FeatureSource(
        read_field(described, "preprocessing.features.backbone", str, **settings),
        read_field(described, "preprocessing.features.channels", int, low=1, **settings),
        read_field(described, "preprocessing.features.step", float, low=0, **settings),
    )
    config = network.config
    if source.channels != config.bmn.channels:
        raise UserError(
            f"{folder}/config.json: its features have {source.channels} channels, its network {config.bmn.channels}",
            _MADE_BY,
        )
    if config.fit == "windows" and not source.step:
        raise UserError(f"{folder}/config.json: preprocessing.features.step is 0, windows need a length", _MADE_BY)
    labels: tuple[str, ...] = ()
    if config.labels:
        labels = tuple(read_names(described, "preprocessing.labels", **settings))
    if len(labels) != config.labels:
        raise UserError(
            f"{folder}/config.json: {len(labels)} labels are named, the network has {config.labels}", _MADE_BY
        )
    threshold = read_field(described, "preprocessing.threshold", float, low=0, high=1, **settings)
    provenance = read_field(described, "provenance", dict, **settings)
    warn_if_changed(described, Path(folder))
    return ReadyDetector(network.to(device).eval(), labels, source, threshold, provenance, Path(folder))
