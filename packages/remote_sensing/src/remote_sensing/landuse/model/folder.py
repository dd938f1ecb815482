"""Model folders of land-use networks: saving, strict loading, choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from remote_sensing.landuse.model.eurosat import Attention7LayerCNN, Balanced12LayerCNN, Baseline3LayerCNN, folded
from remote_sensing.landuse.model.inference import LandUseModel
from remote_sensing.landuse.model.networks import ResNetPeer
from remote_sensing.landuse.model.published import NO_CLASSIFIERS
from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, Preprocessing

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
    pixel_size: float | None,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder that records its bands, its classes, its tiles and what it was made from.

    Args:
        tile_size: pixels of a tile's side.
        pixel_size: metres of a pixel's side; None if the tiles do not state it.
        provenance: how the weights were made; its ``tiles`` are digests of the tiles of each part (`scenes.store.digests`).
    """
    described = {
        "input": preprocessing.plain(),
        "classes": list(classes),
        "tile_size": tile_size,
        "pixel_size": pixel_size,
    }
    return seal(save_folder(network, folder, preprocessing=described, provenance=provenance))


def load_model(model: str | Path | None, *, device: str = "cpu", fold: bool = True) -> LandUseModel:
    """The model of ``--model``, batch norms folded into the convolutions for inference unless `fold` is off.

    Raises:
        UserError: none was given, or it does not hold a model of this group; a field of its config.json is missing or of another type.
    """
    if model is not None:
        model = str(model)
    folder = choose_model(model, advice=NO_CLASSIFIERS)
    try:
        described = read_config(folder)
        name = read_field(described, "class", str, where=f"{folder}/config.json", hint=_MADE_BY)
        if name not in CLASSES_OF_NETWORKS:
            raise UserError(f"{folder} holds {name}, which is not a land-use network", _MADE_BY)
        network = load_strictly(folder, CLASSES_OF_NETWORKS[name])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(shorten(str(error)), _MADE_BY) from None
    if fold:
        network = folded(network)
    return _ready(network.to(device).eval(), described, folder)


def _ready(network: nn.Module, described: Mapping[str, Any], folder: str) -> LandUseModel:
    """The network with the preprocessing that its config.json describes, checked field by field."""
    where = f"{folder}/config.json"
    settings: dict[str, Any] = {"where": where, "hint": _MADE_BY}
    check_names(described, "preprocessing", ("input", "classes", "tile_size", "pixel_size"), **settings)
    check_names(described, "preprocessing.input", ("bands", "scale", "mean", "std"), **settings)
    bands = tuple(read_names(described, "preprocessing.input.bands", **settings))
    unknown = [band for band in bands if band not in (*RGB, *FILE_ORDER)]
    if unknown or not bands:
        raise UserError(f"{where}: preprocessing.input.bands names {unknown or 'nothing'}, not bands", _MADE_BY)
    preprocessing = Preprocessing(
        bands,
        read_field(described, "preprocessing.input.scale", float, low=1e-9, **settings),
        _numbers(described, "mean", len(bands), settings),
        _numbers(described, "std", len(bands), settings),
    )
    scale = 1 / 255 if preprocessing.is_rgb else 1.0
    if abs(preprocessing.scale / scale - 1) > 1e-6:
        raise UserError(
            f"{where}: preprocessing.input.scale is {preprocessing.scale}, of these bands it is {scale:g}", _MADE_BY
        )
    if any(value <= 0 for value in preprocessing.std):
        raise UserError(f"{where}: preprocessing.input.std holds values that are not greater than 0", _MADE_BY)
    classes = tuple(read_names(described, "preprocessing.classes", **settings))
    config = getattr(network, "config", None)
    for field, count in (("num_classes", len(classes)), ("in_chans", len(bands))):
        if getattr(config, field, count) != count:
            raise UserError(f"{where}: config.{field} is {getattr(config, field)}, but {count} are named", _MADE_BY)
    loaded = LandUseModel(
        network,
        preprocessing,
        classes,
        read_field(described, "preprocessing.tile_size", int, low=8, high=4096, **settings),
        read_field(described, "preprocessing.pixel_size", float, default=None, low=1e-3, **settings),
        read_field(described, "provenance", dict, **settings),
        Path(folder),
    )
    warn_if_changed(described, Path(folder))
    return loaded


def _numbers(described: Mapping[str, Any], field: str, count: int, settings: Mapping[str, Any]) -> tuple[float, ...]:
    """A list of finite numbers, one for each band."""
    name = f"preprocessing.input.{field}"
    entries = read_field(described, name, list, **settings)
    if len(entries) != count:
        raise UserError(f"{settings['where']}: {name} has {len(entries)} values for {count} bands", _MADE_BY)
    # read_field takes names apart at dots; positions become fields of their own, so that a message names the position
    by_position = {f"{name} [{i}]".replace(".", " "): entry for i, entry in enumerate(entries)}
    return tuple(read_field(by_position, position, float, **settings) for position in by_position)
