"""Encoders: a batch of tiles in, a feature vector a tile out. Networks by name with weights from a local file; nothing is downloaded."""

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
        choice: what was asked for.
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

        return Encoder(choice, DIM, None, lambda tiles: np.stack([colour_texture(t) for t in tiles]))
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, size, mean, std = _network(choice.name)
    if choice.weights is not None:
        _load(model, choice.weights)
    model = model.eval().to(device)
    with torch.inference_mode():
        dim = int(model(torch.zeros(1, 3, size, size, device=device)).shape[-1])
    return Encoder(choice, dim, size, partial(_forward, model, device, precision, mean, std))


def _forward(
    model: Any, device: str, precision: str, mean: tuple[float, ...], std: tuple[float, ...], tiles: NDArray[np.uint8]
) -> NDArray[np.float32]:
    import torch

    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    with torch.inference_mode():
        x = torch.from_numpy(tiles).to(device).permute(0, 3, 1, 2).float().div_(255)
        x = (x - torch.tensor(mean, device=device)[:, None, None]) / torch.tensor(std, device=device)[:, None, None]
        with torch.autocast(torch.device(device).type, kind) if kind is not None else nullcontext():
            return model(x).float().cpu().numpy()


def _network(name: str) -> tuple[Any, int, tuple[float, ...], tuple[float, ...]]:
    """The network without classifier, its input size, and the mean and spread it expects."""
    from torch import nn

    if name == "resnet50_trunc":
        from torchvision.models import resnet50

        full = resnet50()
        body = [full.conv1, full.bn1, full.relu, full.maxpool, full.layer1, full.layer2, full.layer3]
        model = nn.Sequential()
        for key, part in zip(("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"), body, strict=True):
            model.add_module(key, part)
        model.add_module("pool", nn.AdaptiveAvgPool2d(1))
        model.add_module("flat", nn.Flatten(1))
        return model, 224, *_IMAGENET
    library, _, wanted = name.partition(":")
    wanted, _, arguments = wanted.partition("?")
    keywords = dict(_argument(a) for a in arguments.split("&") if a)
    try:
        if library == "timm":
            from timm import create_model
            from timm.data.config import resolve_model_data_config

            model = create_model(wanted, pretrained=False, num_classes=0, **keywords)
            data = resolve_model_data_config(model)
            return model, int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"])
        if library == "torchvision":
            from torchvision.models import get_model

            model = get_model(wanted, **keywords)
            for head in ("fc", "classifier", "heads", "head"):
                if hasattr(model, head):
                    setattr(model, head, nn.Identity())
                    return model, 224, *_IMAGENET
            raise UserError(f"torchvision:{wanted} is no image classifier")
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"{name}: {library} cannot build it ({str(error).splitlines()[0]})",
            f"the names that {library} lists are right",
        ) from error
    raise UserError(f"unknown library {library!r} in encoder {name!r}", "timm: or torchvision:")


def _argument(text: str) -> tuple[str, Any]:
    """One key=value of an encoder's name, as YAML reads the value (1e-5 is a number to everybody but YAML)."""
    import yaml

    key, _, value = text.partition("=")
    try:
        return key, float(value) if "e" in value.lower() and value[:1].isdigit() else yaml.safe_load(value)
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
    for wrapper in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path.name}: no state dict in this file")
    wanted = model.state_dict()
    for prefix in ("module.", "backbone.", "encoder."):
        if state and not set(wanted) & set(state) and all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    heads = (
        "head.",
        "fc.",
        "classifier.",
        "heads.",
        "fc_norm_head.",
        "layer4." if "layer4.0.conv1.weight" not in wanted else "head.",
    )
    extra = [k for k in state if k not in wanted and not k.startswith(heads)]
    missing = [k for k in wanted if k not in state]
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if extra or missing or shapes:
        named = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("not in the network", extra), ("of another shape", shapes))
            if keys
        )
        raise UserError(f"{path.name} does not fit the encoder: {named}", "check the architecture's name and arguments")
    model.load_state_dict({k: state[k] for k in wanted})


def pairing_warning(choice: EncoderOptions, dim: int, attributes: Mapping[str, Any]) -> str | None:
    """What is wrong with these tiles for this encoder, if it is a known one."""
    if choice.random_weights:
        return "random weights: these features carry no meaning and only test the pipeline"
    name = choice.known_as or ("resnet50" if choice.name.endswith(("resnet50", "resnet50_trunc")) else None)
    if name is None:
        return None
    size, mag, widths = PAIRINGS[name]
    has_size, has_mag = attributes.get("patch_size"), attributes.get("target_magnification")
    wrong = []
    if dim not in widths:
        wrong.append(f"a width of {dim} instead of {' or '.join(map(str, widths))}")
    if has_size is not None and has_size != size and "patch_level" not in attributes:
        wrong.append(f"tiles of {has_size} pixels instead of {size}")
    if has_mag is not None and float(has_mag) != mag:
        wrong.append(f"{has_mag:g}× instead of {mag:g}×")
    return f"{name} is meant for something else: {', '.join(wrong)}" if wrong else None
