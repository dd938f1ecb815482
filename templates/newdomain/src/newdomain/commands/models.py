"""``newdomain models``."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from newdomain.model.published import NOTICE, PUBLISHED


def convert(checkpoint: Path, /, *, out: Path = Path("model")) -> Described:
    """Makes a model folder of a state dict under the official keys.

    Example: newdomain models convert checkpoint.pth --out model

    Args:
        checkpoint: a .pth or .safetensors file.
        out: the model folder.
    """
    from core_attention.checkpoints.files import read_official
    from core_runtime.errors import named
    from newdomain.model.burst import BurstClassifier
    from newdomain.model.declaration import system
    from newdomain.model.folder import save_model

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        model = system.components["BurstClassifier"].load({}, read_official(checkpoint))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error), "expected a state dict of BurstClassifier") from None
    assert isinstance(model, BurstClassifier)
    return Described({"model": str(save_model(model, out, provenance={"converted_from": checkpoint.name}))})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: newdomain models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from newdomain.model.folder import load_model

    model = load_model(folder)
    with torch.inference_mode():
        logits = model(torch.randn(1, 4, model.config.window))
    if not bool(logits.isfinite().all()):
        raise UserError(f"{folder}: the model's answers are not finite", "its weights are damaged: train again")
    return Described({"model": folder, "parameters": sum(p.numel() for p in model.parameters())})


models = models_group(PUBLISHED, convert, check, command="newdomain", notice=NOTICE)
