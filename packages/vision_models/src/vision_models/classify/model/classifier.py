"""A named network with its settings and inserted attention, as what a model folder holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.errors import UserError
from vision_models import networks

_PLACES = "ResNets and MobileNets have the places residual and depthwise; of others --insert-at names modules"


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is built.

    Attributes:
        network: a name of ours or of timm.
        num_classes, in_chans: of its head and its input.
        size: side of its input in pixels.
        settings: its further keyword arguments, as JSON.
        insert: the inserted attention; "" for none.
        insert_at: where.
    """

    network: str
    num_classes: int
    in_chans: int = 3
    size: int = 224
    settings: str = "{}"
    insert: str = ""
    insert_at: str = "residual"


class Classifier(nn.Module):
    """Images to logits, by a named network.

    Raises:
        UserError: there is no such network, or it does not take its settings.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (images, classes) of normalised images (images, channels, size, size)."""
        return self.network(x)


def build_network(config: ClassifierConfig) -> nn.Module:
    """The network alone."""
    settings: dict[str, Any] = {}
    for name, value in json.loads(config.settings).items():
        settings[name] = tuple(value) if isinstance(value, list) else value
    if "img_size" not in settings and takes(config.network, "img_size"):
        settings["img_size"] = config.size
    described = f"--network {config.network}"
    try:
        network = networks.create(config.network, num_classes=config.num_classes, in_chans=config.in_chans, **settings)
    except (ValueError, TypeError, RuntimeError, AssertionError, KeyError, IndexError) as error:
        raise UserError(f"{described}: {error}", _advice(config.network)) from None
    if config.insert:
        from core_attention import insert

        try:
            insert(network, config.insert, after=config.insert_at)
        except ValueError as error:
            raise UserError(f"--insert {config.insert} into {config.network}: {error}", _PLACES) from None
    return network


def takes(name: str, setting: str) -> bool:
    """Whether a network has a setting, such as ``img_size`` or ``drop_path_rate``, by the constructor of its class."""
    import inspect

    try:
        with torch.device("meta"):  # the class alone is wanted, no weights
            kind = type(networks.create(name, num_classes=2, in_chans=3))
    except (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError):
        return False
    return setting in inspect.signature(kind.__init__).parameters


def _advice(name: str) -> str:

    import timm

    if timm.is_model(name) or name in networks.names():
        return "--settings takes the network's own arguments, as timm.create_model does"
    return "'vision-models classify models' lists ours; timm.list_models() lists timm's"


def check_network(network: nn.Module, config: ClassifierConfig) -> None:
    """Runs the network once, so that a size it cannot take is one line before hours of work, and leaves it in training mode.

    Raises:
        UserError: it cannot take images of this size, or does not return logits.
    """
    network.eval()  # put back below: a trainer keeps the mode that it finds
    x = torch.zeros(2, config.in_chans, config.size, config.size)
    try:
        with torch.inference_mode():
            logits = network(x)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(
            f"{config.network} cannot take {config.size} × {config.size} images: {str(error).splitlines()[0]}",
            "--size takes another one; small images need a network with a small stride, or --settings patch_size=4",
        ) from None
    finally:
        network.train()
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, config.num_classes):
        raise UserError(f"{config.network} does not return one logit for each of {config.num_classes} classes")
