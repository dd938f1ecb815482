"""``medical-segmentation similar models``."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

from core_runtime.errors import UserError, named
from core_runtime.models import Described, Published
from core_runtime.models import models as models_group
from core_runtime.options import AtLeast, Integers

PUBLISHED = (
    Published(
        name="dynsubspace",
        holds="the dynamic subspace learners of the paper (ISIC 2019, MURA, HyperKvasir)",
        licence="MIT (code)",
        size="108 MB",
        source="the authors released no weights",
        needs="an own checkpoint of their training script, for 'models convert'",
        use="medical-segmentation similar models convert '{file}' --borders 40,80 --out model",
    ),
    Published(
        name="resnet50-imagenet",
        holds="ResNet-50 of ImageNet, the start of the published training",
        licence="BSD-3-Clause",
        size="103 MB",
        source="timm/resnet50.tv_in1k",
        files=("model.safetensors",),
        needs="network for 'train --pretrained', which fetches it by itself",
        use="medical-segmentation similar train IMAGES --pretrained",
    ),
)
NOTICE = "No subspace learners are published: train one, or convert a checkpoint of the authors' script."


def convert(
    checkpoint: Path,
    /,
    *,
    out: Path = Path("model"),
    borders: Integers | None = None,
    image_size: Annotated[int, AtLeast(16)] = 224,
) -> Described:
    """Makes a model folder from an official checkpoint; it does not say which learner owns which coordinates, so you do.

    Example: medical-segmentation similar models convert ISIC_K4.pt --borders 40,80,104 --out model

    Args:
        checkpoint: a .pt or .safetensors file.
        out: the model folder.
        borders: first coordinate of the second, third … learner; default: one learner.
        image_size: pixels of a side.
    """
    from core_attention.checkpoints.folders import read_official
    from medical_segmentation.similar.model.declaration import system
    from medical_segmentation.similar.model.folder import save_model

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = read_official(checkpoint)
        size = len(state["embedding.bias"])
        edges = [0, *(borders or ()), size]
        config = {"sz_embedding": size, "learners": [list(each) for each in pairwise(edges)]}
        network = system.components["embedding_model"].load(config, state)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error), "expected a state dict of the published embedding") from None
    provenance = {"converted_from": checkpoint.name}
    save_model(network, out, image_size=image_size, classes=["unknown"], provenance=provenance)  # pyright: ignore[reportArgumentType]
    return Described({"model": str(out), **config})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: medical-segmentation similar models check run/model

    Args:
        folder: the model folder.
    """
    import numpy as np

    from medical_segmentation.similar.model.folder import load_model

    model = load_model(folder)
    side = model.image_size
    result = model([np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)])
    if not bool(result.embedding.isfinite().all()):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "backbone": model.network.config.backbone,
            "coordinates": model.network.config.size,
            "learners": [list(each) for each in model.network.learners],
            "image_size": side,
            "classes": list(model.classes),
            "loss": model.provenance.get("loss"),
        }
    )


models = models_group(PUBLISHED, convert, check, command="medical-segmentation similar", notice=NOTICE)
