"""Encoders: a batch of tiles in, a feature vector per tile out. Networks by name with weights from a local file; nothing is downloaded."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from pathology_mil.features.options import PAIRINGS, EncoderOptions

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Encoder:
    """A ready encoder.

    Attributes:
        choice: name and weights, as given.
        dim: width F of the features.
        size: side in pixels that tiles are resized to first; None takes them as they are.
        encode: (B, size, size, 3) uint8 → (B, F) float32.
    """

    choice: EncoderOptions
    dim: int
    size: int | None
    encode: Encode


def build(choice: EncoderOptions, *, device: str = "cpu", precision: str = "32-true") -> Encoder:
    """Builds an encoder.

    Args:
        choice: name and weights.
        device: a torch device.
        precision: 32-true, bf16-mixed or 16-mixed.

    Raises:
        UserError: unknown name, or weights that do not fit the network (each missing or unexpected key is counted and the first ones named).
    """
    if choice.computed:
        from pathology_mil.features.texture import DIM, colour_texture

        def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.stack([colour_texture(tile) for tile in tiles])

        return Encoder(choice, DIM, None, encode)
    import torch

    # Random weights are the same every time, and no random numbers of the caller are used up.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, size, mean, std = _network(choice.name)
    if choice.weights is not None:
        _load(model, choice.weights)
    model = model.eval().to(device)
    with torch.inference_mode():
        # not every architecture states its width: one run with zeros tells it
        dim = int(model(torch.zeros(1, 3, size, size, device=device)).shape[-1])
    return Encoder(choice, dim, size, partial(_forward, model, device, precision, mean, std))


def _forward(
    model: Any, device: str, precision: str, mean: tuple[float, ...], std: tuple[float, ...], tiles: NDArray[np.uint8]
) -> NDArray[np.float32]:
    import torch

    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    autocast = nullcontext()
    if dtype is not None:
        autocast = torch.autocast(torch.device(device).type, dtype)
    with torch.inference_mode():
        # (B, side, side, 3) bytes → (B, 3, side, side), scaled to 0..1 and standardised as in the network's training
        pictures = torch.from_numpy(tiles).to(device).permute(0, 3, 1, 2).float().div_(255)
        pictures = pictures - torch.tensor(mean, device=device)[:, None, None]
        pictures = pictures / torch.tensor(std, device=device)[:, None, None]
        with autocast:
            return model(pictures).float().cpu().numpy()


def _network(name: str) -> tuple[Any, int, tuple[float, ...], tuple[float, ...]]:
    """The network without classifier, its input size, and the mean and standard deviation that it expects."""
    from torch import nn

    if name == "resnet50_trunc":
        from torchvision.models import resnet50

        full = resnet50()
        model = nn.Sequential()
        # CLAM's cut: without the fourth stage. The names stay, so that ImageNet's weights load.
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            model.add_module(part, getattr(full, part))
        model.add_module("pool", nn.AdaptiveAvgPool2d(1))
        model.add_module("flat", nn.Flatten(1))
        return model, 224, *_IMAGENET
    # timm:vit_base_patch16_224?init_values=1e-5: library, architecture, arguments of its constructor
    library, _, rest = name.partition(":")
    architecture, _, arguments = rest.partition("?")
    keywords = dict(_argument(argument) for argument in arguments.split("&") if argument)
    try:
        if library == "timm":
            from timm import create_model
            from timm.data.config import resolve_model_data_config

            model = create_model(architecture, pretrained=False, num_classes=0, **keywords)
            data = resolve_model_data_config(model)
            return model, int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"])
        if library == "torchvision":
            from torchvision.models import get_model

            model = get_model(architecture, **keywords)
            for head in ("fc", "classifier", "heads", "head"):
                if hasattr(model, head):
                    setattr(model, head, nn.Identity())
                    return model, 224, *_IMAGENET
            raise UserError(f"torchvision:{architecture} is not an image classifier")
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"{name}: {library} cannot build it ({str(error).splitlines()[0]})",
            f"use a name that {library} lists",
        ) from error
    raise UserError(f"unknown library {library!r} in encoder {name!r}", "timm: or torchvision:")


def _argument(text: str) -> tuple[str, Any]:
    """One key=value of an encoder's name, with the value as YAML reads it; but 1e-5, which YAML takes for text, is a number."""
    import yaml

    key, _, value = text.partition("=")
    try:
        if "e" in value.lower() and value[:1].isdigit():
            return key, float(value)
        return key, yaml.safe_load(value)
    except ValueError:
        return key, value


def _load(model: Any, path: Path) -> None:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives and forbidden classes raise half a dozen kinds
        raise UserError(
            f"{path.name}: not a readable file of weights (files that would run code are refused)"
        ) from error
    # Training scripts wrap the weights, DINO's twice: {"teacher": {"backbone.…": …}}.
    for wrapper in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path.name}: no state dict in this file")
    expected = model.state_dict()
    # A prefix is removed only where every name has it, and no name fits without: otherwise it may belong to the network.
    for prefix in ("module.", "backbone.", "encoder."):
        if state and not set(expected) & set(state) and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    heads = ("head.", "fc.", "classifier.", "heads.", "fc_norm_head.")
    if "layer4.0.conv1.weight" not in expected:  # a ResNet cut after its third stage
        heads += ("layer4.",)
    faults: dict[str, list[str]] = {"missing": [], "not in the network": [], "of another shape": []}
    for key, tensor in expected.items():
        if key not in state:
            faults["missing"].append(key)
        elif state[key].shape != tensor.shape:
            faults["of another shape"].append(key)
    for key in state:
        # a classifier in the file is no fault: the network here ends before it
        if key not in expected and not key.startswith(heads):
            faults["not in the network"].append(key)
    words = []
    for fault, keys in faults.items():
        if keys:
            more = ""
            if len(keys) > 3:
                more = " …"
            words.append(f"{len(keys)} {fault} ({', '.join(keys[:3])}{more})")
    if words:
        raise UserError(
            f"{path.name} does not fit the encoder: {'; '.join(words)}", "check the architecture's name and arguments"
        )
    model.load_state_dict({key: state[key] for key in expected})


def pairing_warning(choice: EncoderOptions, dim: int, attributes: Mapping[str, Any]) -> str | None:
    """A warning if a known encoder was trained on other tiles than these."""
    if choice.random_weights:
        return "random weights: these features carry no meaning and only test the pipeline"
    name = choice.known_as
    if name is None and choice.name.endswith(("resnet50", "resnet50_trunc")):
        name = "resnet50"
    if name is None:
        return None
    trained_size, trained_mag, widths = PAIRINGS[name]
    size, mag = attributes.get("patch_size"), attributes.get("target_magnification")
    differences = []
    if dim not in widths:
        differences.append(f"a width of {dim} instead of {' or '.join(map(str, widths))}")
    # CLAM's patch_size is the size on a level of the pyramid, not that of the tile: it says nothing here.
    if size is not None and size != trained_size and "patch_level" not in attributes:
        differences.append(f"tiles of {size} pixels instead of {trained_size}")
    if mag is not None and float(mag) != trained_mag:
        differences.append(f"{mag:g}× instead of {trained_mag:g}×")
    if not differences:
        return None
    return f"{name} was trained on other tiles: {', '.join(differences)}"
