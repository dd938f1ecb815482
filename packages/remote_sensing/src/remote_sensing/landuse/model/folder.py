"""Model folders of land-use networks: saving, strict loading, choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.models import choose_model
from remote_sensing.landuse.model.eurosat import Attention7LayerCNN, Balanced12LayerCNN, Baseline3LayerCNN, folded
from remote_sensing.landuse.model.inference import LandUseModel
from remote_sensing.landuse.model.networks import ResNetPeer
from remote_sensing.landuse.model.published import NO_CLASSIFIERS
from remote_sensing.landuse.scenes.bands import Preprocessing

CLASSES_OF_NETWORKS: dict[str, type[nn.Module]] = {
    form.__name__: form for form in (Balanced12LayerCNN, Attention7LayerCNN, Baseline3LayerCNN, ResNetPeer)
}
_MADE_BY = "'remote-sensing landuse train' makes a model folder"


def save_model(
    network: nn.Module,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    tile_size: int,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder that knows its bands, its classes, the size of its tiles and what it was made from."""
    described = {"input": preprocessing.plain(), "classes": list(classes), "tile_size": tile_size}
    return save_folder(network, folder, preprocessing=described, provenance=provenance)


def load_model(model: str | Path | None, *, device: str = "cpu", fold: bool = True) -> LandUseModel:
    """The model of ``--model``, batch norms folded into the convolutions for inference unless `fold` is off.

    Raises:
        UserError: none was given, or it is not one of this group's models.
    """
    folder = choose_model(None if model is None else str(model), advice=NO_CLASSIFIERS)
    try:
        described = read_config(folder)
        name = str(described.get("class"))
        if name not in CLASSES_OF_NETWORKS:
            raise UserError(f"{folder} holds a {name}, which is not a land-use network", _MADE_BY)
        network = load_strictly(folder, CLASSES_OF_NETWORKS[name])
        if fold:
            network = folded(network)
        entries = described["preprocessing"]
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries["input"].items()}
        return LandUseModel(
            network.to(device).eval(),
            Preprocessing(**settings),
            tuple(entries["classes"]),
            int(entries["tile_size"]),
            described.get("provenance", {}),
            Path(folder),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(str(error), _MADE_BY) from None
