"""``remote-sensing landuse models``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, named
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import Names
from remote_sensing.landuse.model.published import NO_CLASSIFIERS, PUBLISHED


def convert(checkpoint: Path, /, *, out: Path = Path("model"), classes: Names | None = None) -> Described:
    """Makes a model folder from a state dict under the published keys; widths and bands are inferred from its shapes.

    Example: remote-sensing landuse models convert balanced.pth --out balanced-model

    Args:
        checkpoint: a .pth or .safetensors file.
        out: the model folder.
        classes: class names in order; default: EuroSAT's if there are ten.
    """
    from core_attention.checkpoints.folders import read_official
    from remote_sensing.landuse.model.declaration import system
    from remote_sensing.landuse.model.folder import save_model
    from remote_sensing.landuse.scenes.bands import FILE_ORDER, RGB, preprocessing
    from remote_sensing.landuse.scenes.classes import CLASSES

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        component, config = infer_config(state)
        model = system.components[component].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        hint = "expected a state dict of one of the three EuroSAT networks"
        raise UserError(named(checkpoint, error), hint) from None
    count = config["num_classes"]
    if classes is None:
        classes = tuple(map(str, range(count)))
        if count == len(CLASSES):
            classes = CLASSES
    if len(classes) != count:
        raise UserError(f"{len(classes)} class names were given, the checkpoint has {count} classes")
    bands = {3: RGB, len(FILE_ORDER): FILE_ORDER}.get(config["in_chans"])
    if bands is None:
        raise UserError(f"{checkpoint} takes {config['in_chans']} bands", "only 3 (RGB) and 13 can be converted")
    save_model(
        model,
        out,
        preprocessing=preprocessing(bands),
        classes=classes,
        tile_size=config.get("tile_size", 64),
        pixel_size=10.0 if tuple(classes) == CLASSES else None,
        provenance={"converted_from": checkpoint.name, "component": component},
    )
    return Described({"model": str(out), "component": component, **config, "classes": list(classes)})


def infer_config(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The component that a state dict belongs to, and its sizes, from keys and shapes.

    Raises:
        KeyError: a key that every one of the three networks has is missing.
    """
    if "stem.0.weight" in state:
        width, bands = state["stem.0.weight"].shape[:2]
        # stage1.0.conv1.weight: the number of different blocks in each stage is its depth
        blocks: dict[str, set[str]] = {}
        for key in state:
            stage, block = [*key.split("."), ""][:2]
            if stage.startswith("stage"):
                blocks.setdefault(stage, set()).add(block)
        depths = [len(blocks[stage]) for stage in sorted(blocks)]
        drops = [0.05 * (number + 1) for number in range(len(depths))]  # as published; not in the state
        sizes = {"num_classes": len(state["fc.bias"]), "in_chans": bands, "width": width}
        return "Balanced12LayerCNN", sizes | {"depths": depths, "drop_probs": drops}
    if "block1.conv1.weight" in state:
        width, bands = state["block1.conv1.weight"].shape[:2]
        return "Attention7LayerCNN", {"num_classes": len(state["fc2.bias"]), "in_chans": bands, "width": width}
    width, bands = state["conv1.weight"].shape[:2]
    # fc1 takes 4 · width channels of (side / 8)² pixels
    side = 8 * round((state["fc1.weight"].shape[1] / (4 * width)) ** 0.5)
    sizes = {"num_classes": len(state["fc2.bias"]), "in_chans": bands, "width": width}
    return "Baseline3LayerCNN", sizes | {"tile_size": side}


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: remote-sensing landuse models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from remote_sensing.landuse.model.folder import load_model

    model = load_model(folder, fold=False)
    side, bands = model.tile_size, model.preprocessing.bands
    probabilities = model(torch.rand(2, len(bands), side, side) / model.preprocessing.scale)
    if not bool(torch.isfinite(probabilities).all()):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "class": type(model.network).__name__,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "classes": list(model.classes),
            "bands": list(bands),
            "tile_size": side,
            "pixel_size": model.pixel_size,
            "trained_on": model.provenance.get("trained_on"),
            "test_accuracy": model.provenance.get("test_accuracy"),
        }
    )


models = models_group(PUBLISHED, convert, check, command="remote-sensing landuse", notice=NO_CLASSIFIERS)
