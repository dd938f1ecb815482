"""``vision-models video models``."""

from pathlib import Path
from typing import Any

from core_runtime.models import Described
from core_runtime.models import models as models_group
from vision_models.video.published import ADVICE, PUBLISHED


def check(folder: Path, /) -> Described:
    """Loads a folder strictly, applies VMoBA, and runs it once on noise.

    Example: vision-models video models check run/model

    Args:
        folder: of a model of this command, or of diffusers.
    """
    import torch

    from core_runtime.errors import UserError
    from vision_models.video.model import load_transformer
    from vision_models.video.wan import apply_vmoba, attention_report

    transformer = apply_vmoba(load_transformer(folder))
    config: Any = transformer.config
    noise = torch.randn(1, config.in_channels, 4, 16, 16)
    if config.image_dim:
        raise UserError(f"{folder} is an image-to-video model", "check runs on text-to-video models")
    layers = attention_report(transformer, noise, torch.tensor([500.0]), torch.zeros(1, 4, config.text_dim))
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    density = sum(row.density for row in layers) / len(layers)
    return Described(
        {"model": str(folder), "layers": len(layers), "parameters": parameters, "density": round(density, 4)}
    )


models = models_group(PUBLISHED, check, command="vision-models video", notice=ADVICE)
