"""Model folders of organ networks: saving, strict loading, ensembles of folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from medical_segmentation.organs.model.guided import GuidedAttentionNet
from medical_segmentation.organs.model.inference import OrganModel
from medical_segmentation.organs.model.networks import PeerNet
from medical_segmentation.organs.model.preparation import Preparation
from medical_segmentation.organs.model.published import ADVICE

NETWORKS: dict[str, type[nn.Module]] = {form.__name__: form for form in (GuidedAttentionNet, PeerNet)}
_MADE_BY = "'medical-segmentation organs train' makes a model folder"


def save_model(
    network: nn.Module,
    folder: Path,
    *,
    preparation: Preparation,
    classes: Sequence[str],
    channels: Sequence[str],
    provenance: Mapping[str, Any],
    temperature: float = 1.0,
    threshold: float | None = None,
) -> Path:
    """Writes a model folder that records its input, its classes and how it was made."""
    described = {
        "input": preparation.plain(),
        "classes": list(classes),
        "channels": list(channels),
        "temperature": temperature,
        "threshold": threshold,
    }
    return seal(save_folder(network, folder, preprocessing=described, provenance=provenance))


def load_model(model: str | Path | None, *, device: str = "cpu") -> OrganModel:
    """The model of ``--model``: a folder, or several with commas between them, which are an ensemble.

    Raises:
        UserError: none was given, or it does not hold a model of this group; members of an ensemble that do not fit together.
    """
    if model is None:
        choose_model(None, advice=ADVICE)
    names = [name.strip() for name in str(model).split(",")]
    if len({Path(name).resolve() for name in names}) < len(names):
        raise UserError(f"--model {model}: a model is named twice", "members of an ensemble are different models")
    members = [_load(name, device) for name in names]
    first = members[0]
    for other in members[1:]:
        if (other.preparation, other.classes, other.channels) != (first.preparation, first.classes, first.channels):
            raise UserError(
                f"{first.path} and {other.path} do not take the same input, or have other classes",
                "ensembles are of one training set",
            )
    if len(members) == 1:
        return first
    networks = [network for member in members for network in member.networks]
    mean = sum(member.temperature for member in members) / len(members)
    return OrganModel(
        networks, first.preparation, first.classes, first.channels, first.provenance, mean, None, first.path
    )


def _check_input(preparation: Preparation, where: str) -> None:
    """Refuses what no input can be brought to.

    Raises:
        UserError: names the field.
    """
    numbers = all(isinstance(each, int | float) and each >= 0 for each in preparation.spacing)
    for field, fits, expected in (
        ("spacing", len(preparation.spacing) == 3 and numbers, "three numbers of 0 or more"),
        ("axis", preparation.axis in (0, 1, 2), "0, 1 or 2"),
        ("low", preparation.low < preparation.high, f"less than high, {preparation.high}"),
    ):
        if not fits:
            value = getattr(preparation, field)
            raise UserError(f"{where}: preprocessing.input.{field} is {value}, expected {expected}", _MADE_BY)


def _load(name: str, device: str) -> OrganModel:
    folder = choose_model(name, advice=ADVICE)
    where = f"{folder}/config.json"
    try:
        described = read_config(folder)
        kind = read_field(described, "class", str, where=where, hint=_MADE_BY)
        if kind not in NETWORKS:
            raise UserError(f"{folder} holds {kind}, which is no organ network", _MADE_BY)
        network: Any = load_strictly(folder, NETWORKS[kind])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(str(error), _MADE_BY) from None
    settings: dict[str, Any] = {"where": where, "hint": _MADE_BY}
    check_names(described, "preprocessing", ("input", "classes", "channels", "temperature", "threshold"), **settings)
    classes = tuple(read_names(described, "preprocessing.classes", **settings))
    channels = tuple(read_names(described, "preprocessing.channels", **settings))
    if len(classes) != network.config.n_classes or len(channels) != network.config.in_channels:
        raise UserError(
            f"{where}: {len(classes)} classes and {len(channels)} channels are named, the network has "
            f"{network.config.n_classes} and {network.config.in_channels}",
            _MADE_BY,
        )
    try:
        preparation = Preparation.of(read_field(described, "preprocessing.input", dict, **settings))
    except (TypeError, KeyError) as error:
        raise UserError(f"{where}: preprocessing.input is not understood ({error})", _MADE_BY) from None
    _check_input(preparation, where)
    loaded = OrganModel(
        [network.to(device).eval()],
        preparation,
        classes,
        channels,
        read_field(described, "provenance", dict, **settings),
        read_field(described, "preprocessing.temperature", float, low=1e-3, **settings),
        read_field(described, "preprocessing.threshold", float, default=None, **settings),
        Path(folder),
    )
    warn_if_changed(described, Path(folder))
    return loaded
