"""Published checkpoints of our networks: read strictly, whatever layout they are in, and written in any of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core_attention.checkpoints.files import read_official
from core_attention.systems import StateDict, load_strictly
from vision_models.networks.catalogue import BY_NAME
from vision_models.networks.families import Family
from vision_models.networks.layouts import Layout, fitting_layout, read_checkpoint, write_layout
from vision_models.networks.registering import build, named


def load_checkpoint(name: str, path: Path | str, *, key: str | None = None, **options: Any) -> nn.Module:
    """A network with the weights of a published checkpoint, loaded strictly; as many classes and channels as the file has.

    Args:
        name: of the network, see `vision_models.networks.names`.
        path: of the file, safetensors or `torch.save`; nothing in it is executed.
        key: where in the file the weights are, such as "model_ema"; None: under the usual names.
        options: of the network, such as ``dense=True`` for the backbone of a detector.

    Raises:
        ValueError: no such network, or a file that is damaged, holds code or has no state dict.
        StateError: tensors that are missing, have no place or another shape, each named.
    """
    family = _family(name)
    theirs = read_official(path, key=key)
    with torch.device("meta"):
        skeleton = build(name, **options)
    layout = fitting_layout(theirs, skeleton.state_dict(), named(family.layouts))
    model = build(name, **_sizes(name, layout, theirs) | options)
    load_strictly(model, read_checkpoint(theirs, model, named(family.layouts)))
    return model


def layouts_of(name: str, model: nn.Module) -> Sequence[Layout]:
    """The published layouts of a network's checkpoints.

    Raises:
        ValueError: no such network.
    """
    return named(_family(name).layouts)(model.state_dict())


def published_state(name: str, model: nn.Module, layout: str) -> StateDict:
    """The weights of a network in a published layout: what `load_checkpoint` would read.

    Raises:
        ValueError: no such network or layout; names those that there are.
    """
    known = {each.name: each for each in layouts_of(name, model)}
    if layout not in known:
        raise ValueError(f"{name} has no layout {layout!r}: one of {', '.join(known)}")
    return write_layout(known[layout], model.state_dict())


def _family(name: str) -> Family:
    if name not in BY_NAME:
        raise ValueError(f"{name!r} is none of our networks: {', '.join(sorted(BY_NAME))}")
    return BY_NAME[name]


def _sizes(name: str, layout: Layout, theirs: StateDict) -> dict[str, int]:
    """Classes and channels, from the shapes of the last layer and the first; no entry where the file lacks them."""
    family = BY_NAME[name]
    sizes = {}
    classifier = theirs.get(layout.key(f"{family.classifier}.weight"))
    if classifier is not None:
        sizes["num_classes"] = classifier.shape[0]
    first_conv = family.variants[name].first_conv or family.first_conv
    first = theirs.get(layout.key(f"{first_conv}.weight"))
    if first is not None:
        sizes["in_chans"] = first.shape[1]
    return sizes
