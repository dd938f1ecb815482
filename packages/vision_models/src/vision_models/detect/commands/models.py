"""``vision-models detect models``."""

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from vision_models.detect.model.published import ADVICE, PUBLISHED


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: vision-models detect models check run/model

    Args:
        folder: the model folder.
    """
    import math

    import torch

    from vision_models.detect.model.folder import load_model

    model = load_model(folder)
    (boxes,) = model([torch.rand(3, 96, 128)])
    if not all(math.isfinite(value) for each in boxes for value in (*each.box, each.score)):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    config = model.network.config
    return Described(
        {
            "model": folder,
            "detector": config.detector,
            "backbone": config.backbone or None,
            "enhancer": config.enhancer,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "classes": list(model.classes),
            "trained_on": model.provenance.get("trained_on"),
            "test_ap50": model.provenance.get("test_ap50"),
        }
    )


models = models_group(PUBLISHED, check, command="vision-models detect", notice=ADVICE)
