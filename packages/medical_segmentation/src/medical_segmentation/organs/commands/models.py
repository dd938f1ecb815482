"""``medical-segmentation organs models``."""

from pathlib import Path
from typing import Any, Literal

from core_runtime.errors import UserError, named
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import Names
from medical_segmentation.organs.model.published import ADVICE, PUBLISHED


def convert(checkpoint: Path, /, *, out: Path = Path("model"), classes: Names | None = None) -> Described:
    """Makes a model folder from a state dict of the published code; sizes are inferred from its shapes.

    Example: medical-segmentation organs models convert Best_model.pth --out msdual-model

    Args:
        checkpoint: a .pth or .safetensors file.
        out: the model folder.
        classes: names in order, background first; default: CHAOS' if there are five.
    """
    from core_attention.checkpoints.folders import read_official
    from medical_segmentation.organs.cohort.layouts import CHAOS_CLASSES
    from medical_segmentation.organs.model.declaration import system
    from medical_segmentation.organs.model.folder import save_model
    from medical_segmentation.organs.model.preparation import Preparation

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        config: dict[str, Any] = {
            "n_classes": len(state["predict1.bias"]),
            "in_channels": state["resnext.layer0.0.weight"].shape[1],
            "width": len(state["down1.0.bias"]),
        }
        model = system.components["DAF_stack"].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error), "expected a state dict of the published DAF_stack") from None
    count = config["n_classes"]
    names = classes or (
        tuple(CHAOS_CLASSES.values()) if count == 5 else tuple(f"label {number}" for number in range(count))
    )
    if len(names) != count:
        raise UserError(f"{len(names)} class names were given, the checkpoint has {count} classes")
    channels = [f"channel {number}" for number in range(config["in_channels"])]
    save_model(
        model,
        out,
        preparation=Preparation(scheme="range"),
        classes=names,
        channels=channels,
        provenance={"converted_from": checkpoint.name, "component": "DAF_stack"},
    )
    return Described({"model": str(out), **config, "classes": list(names)})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: medical-segmentation organs models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from medical_segmentation.organs.model.folder import load_model

    model = load_model(folder)
    preparation = model.preparation
    sides = preparation.window
    probabilities = model.probabilities(torch.rand(1, len(model.channels) * preparation.slices, *sides))
    if not bool(torch.isfinite(probabilities).all()):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "class": type(model.networks[0]).__name__,
            "parameters": sum(parameter.numel() for parameter in model.networks[0].parameters()),
            "classes": list(model.classes),
            "channels": list(model.channels),
            **preparation.plain(),
            "temperature": model.temperature,
            "threshold": model.threshold,
            "trained_on": model.provenance.get("trained_on"),
            "val_dice": model.provenance.get("val_dice"),
        }
    )


def export(
    folder: str, /, *, out: Path = Path("exported"), form: Literal["bundle", "onnx", "torch"] = "bundle"
) -> Described:
    """Exports a model as MONAI bundle, ONNX or torch.export program, and checks that it gives the same outputs.

    Example: medical-segmentation organs models export run/model --form bundle --out organs-bundle

    Args:
        folder: the model folder.
        out: folder (bundle) or file.
        form: MONAI bundle, ONNX (needs the extra [onnx]), or a torch.export program (.pt2).
    """
    from medical_segmentation.organs.model.exporting import export_model

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another place")
    return Described(export_model(folder, out, form))


models = models_group(PUBLISHED, convert, check, export, command="medical-segmentation organs", notice=ADVICE)
