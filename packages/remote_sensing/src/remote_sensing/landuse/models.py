"""The verb `models`: list what is published, get it, convert a state dict under the published keys, check a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core_attention.checkpoints.folders import read_official, save_model
from core_runtime.errors import UserError, named
from core_runtime.hub import hub_errors
from remote_sensing.landuse.bands import FILE_ORDER, RGB, preprocessing
from remote_sensing.landuse.networks import load
from remote_sensing.landuse.official import system
from remote_sensing.landuse.published import NO_CLASSIFIERS, PUBLISHED
from remote_sensing.landuse.recipes import CLASSES


def listed() -> dict[str, Any]:
    """For ``models --json``."""
    rows = [
        {
            "name": p.name,
            "network": p.network,
            "licence": p.licence,
            "size": p.size,
            "source": p.source,
            "needs": p.needs,
        }
        for p in PUBLISHED
    ]
    return {"models": rows, "classifiers": NO_CLASSIFIERS}


def get(name: str, out: Path) -> dict[str, Any]:
    """Downloads published weights into `out`.

    Raises:
        UserError: an unknown name, or a hub that cannot be reached.
    """
    found = next((p for p in PUBLISHED if p.name == name), None)
    if found is None:
        raise UserError(f"no published model is called {name!r}", f"known: {', '.join(p.name for p in PUBLISHED)}")
    from huggingface_hub import hf_hub_download

    by_hand = f"copy {found.file} and use 'train --network {found.network} --weights FILE'"
    with hub_errors(name, found.source, by_hand):
        path = hf_hub_download(found.source, found.file, local_dir=out / name)
    use = f"remote-sensing landuse train FOLDER --network {found.network} --weights '{path}'"
    return {"name": name, "file": path, "licence": found.licence, "use": use}


def convert(checkpoint: Path, out: Path, *, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Makes a model folder of a state dict under the published keys; widths and bands are read off its shapes.

    Raises:
        UserError: not such a file.
    """
    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        component, config = _inferred(state)
        model = system.components[component].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            named(checkpoint, error), "expected a state dict of one of the three EuroSAT networks"
        ) from None
    names = tuple(classes or (CLASSES if config["num_classes"] == 10 else map(str, range(config["num_classes"]))))
    if len(names) != config["num_classes"]:
        raise UserError(f"{len(names)} class names were given, the checkpoint has {config['num_classes']} classes")
    bands = {3: RGB, len(FILE_ORDER): FILE_ORDER}.get(config["in_chans"])
    if bands is None:
        raise UserError(f"{checkpoint} takes {config['in_chans']} bands", "3 (RGB) and 13 can be converted")
    side = config.get("tile_size", 64)
    save_model(
        model,
        out,
        preprocessing={"input": preprocessing(bands).plain(), "classes": list(names), "tile_size": side},
        provenance={"converted_from": checkpoint.name, "component": component},
    )
    return {"model": str(out), "component": component, **config, "classes": list(names)}


def _inferred(state: dict[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    """The component and its config, from keys and shapes."""
    if "stem.0.weight" in state:
        width, bands = state["stem.0.weight"].shape[:2]
        depths = [
            len({k.split(".")[1] for k in state if k.startswith(f"stage{i}.")})
            for i in range(1, 9)
            if any(k.startswith(f"stage{i}.") for k in state)
        ]
        drops = [0.05 * (i + 1) for i in range(len(depths))]
        sizes = {"num_classes": len(state["fc.bias"]), "in_chans": bands, "width": width}
        return "Balanced12LayerCNN", sizes | {"depths": depths, "drop_probs": drops}
    if "block1.conv1.weight" in state:
        width, bands = state["block1.conv1.weight"].shape[:2]
        return "Attention7LayerCNN", {"num_classes": len(state["fc2.bias"]), "in_chans": bands, "width": width}
    width, bands = state["conv1.weight"].shape[:2]
    side = 8 * round((state["fc1.weight"].shape[1] / (4 * width)) ** 0.5)
    return "Baseline3LayerCNN", {
        "num_classes": len(state["fc2.bias"]),
        "in_chans": bands,
        "width": width,
        "tile_size": side,
    }


def check(folder: Path | str) -> dict[str, Any]:
    """Loads a model folder strictly and runs it once.

    Raises:
        UserError: it cannot be used.
    """
    model = load(folder, fold=False)
    side, bands = model.tile_size, model.preprocessing.bands
    probabilities = model(torch.rand(2, len(bands), side, side) / model.preprocessing.scale)
    if not bool(torch.isfinite(probabilities).all()):
        raise UserError(
            f"{folder}: the model's answers are not finite", "its weights are damaged: train or convert again"
        )
    return {
        "model": str(folder),
        "class": type(model.network).__name__,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "classes": list(model.classes),
        "bands": list(bands),
        "tile_size": side,
        "trained_on": model.provenance.get("trained_on"),
        "test_accuracy": model.provenance.get("test_accuracy"),
    }
