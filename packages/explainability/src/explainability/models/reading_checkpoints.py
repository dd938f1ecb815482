"""Sizes and tensors of published checkpoints of Prompt-CAM and SAT, as `Network` takes them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from explainability.models.network import NetworkConfig
from explainability.promptcam.official import convert as convert_promptcam
from explainability.sat_wsol.official import convert as convert_sat

HALF = (0.5, 0.5, 0.5)  # Prompt-CAM's checkpoints want it, whatever the backbone was trained with
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def config_of(official: Mapping[str, Tensor], method: str, heads: int, names: Sequence[str] | None) -> NetworkConfig:
    """How the network of a checkpoint is built, from the shapes of its tensors.

    Raises:
        ValueError: a tensor that tells a size is missing, sizes do not fit together, or there are not as many names as classes.
    """
    shapes = {name.removeprefix("module."): tuple(tensor.shape) for name, tensor in official.items()}
    key = "vpt.prompt_embeddings" if method == "prompt-cam" else "head.weight"
    for needed in ("patch_embed.proj.weight", "pos_embed", key):
        if needed not in shapes:
            raise ValueError(f"no tensor {needed}")
    if any(name.endswith("ls1.gamma") for name in shapes):
        raise ValueError("its backbone scales its layers (DINOv2), which model folders do not hold yet")
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    patches = shapes["pos_embed"][1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(f"pos_embed of {patches} patches is of no square grid")
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")
    count = shapes[key][1] if method == "prompt-cam" else shapes[key][0]
    if names is not None and len(names) != count:
        raise ValueError(f"{len(names)} names for {count} classes")
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    mean, std = (HALF, HALF) if method == "prompt-cam" else IMAGENET
    return NetworkConfig(
        classes=tuple(names or (str(number) for number in range(count))),
        kind="prompt-cam" if method == "prompt-cam" else "sat",
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        mean=mean,
        std=std,
    )


def state_of(official: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Its tensors under the names of `Network`."""
    convert = convert_promptcam if method == "prompt-cam" else convert_sat
    return {f"model.{name}": tensor for name, tensor in convert(dict(official), {}).items()}
