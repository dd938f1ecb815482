"""Published checkpoints of our networks: read strictly, whatever layout they are in, and written in any of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core_attention.checkpoints.files import read_official
from core_attention.systems import StateDict, load_strictly
from vision_models.networks.catalogue import BY_NAME
from vision_models.networks.featenhancer import FeatEnHancer
from vision_models.networks.layouts import AVERAGED, Layout, Layouts, fitting_layout, read_checkpoint, write_layout
from vision_models.networks.moh import dit
from vision_models.networks.moh.variants import DITS
from vision_models.networks.registering import build, named

ENHANCER = "featenhancer"


def load_checkpoint(name: str, path: Path | str, *, key: str | None = None, **options: Any) -> nn.Module:
    """A network with the weights of a published checkpoint, loaded strictly; as many classes and channels as the file has.

    Args:
        name: of the network, see `vision_models.networks.names`; "moh_dit_…" or "featenhancer" for those that are no backbones.
        path: of the file, safetensors or `torch.save`; nothing in it is executed.
        key: where in the file the weights are, such as "model_ema"; None: under the usual names, those of averaged weights first.
        options: of the network, such as ``dense=True`` for the backbone of a detector.

    Raises:
        ValueError: no such network, or a file that is damaged, holds code or has no state dict.
        StateError: tensors that are missing, have no place or another shape, each named.
    """
    layouts = _layouts(name)
    theirs = read_official(path, key=key, prefer=AVERAGED)
    with torch.device("meta"):
        skeleton = _build(name, **options)
    layout = fitting_layout(theirs, skeleton.state_dict(), layouts)
    model = _build(name, **_sizes(name, layout, theirs) | options)
    load_strictly(model, read_checkpoint(theirs, model, layouts))
    return model


def layouts_of(name: str, model: nn.Module) -> Sequence[Layout]:
    """The published layouts of a network's checkpoints.

    Raises:
        ValueError: no such network.
    """
    return _layouts(name)(model.state_dict())


def published_state(name: str, model: nn.Module, layout: str) -> StateDict:
    """The weights of a network in a published layout: what `load_checkpoint` would read.

    Raises:
        ValueError: no such network or layout; names those that there are.
    """
    known = {each.name: each for each in layouts_of(name, model)}
    if layout not in known:
        raise ValueError(f"{name} has no layout {layout!r}: one of {', '.join(known)}")
    return write_layout(known[layout], model.state_dict())


def _layouts(name: str) -> Layouts:
    if name in BY_NAME:
        return named(BY_NAME[name].layouts)
    if name in DITS:
        return named("vision_models.networks.moh.official:layouts")
    if name == ENHANCER:
        return named("vision_models.networks.featenhancer.official:layouts")
    ours = sorted([*BY_NAME, *DITS, ENHANCER])
    raise ValueError(f"{name!r} is none of our networks: {', '.join(ours)}")


def _build(name: str, **options: Any) -> nn.Module:
    if name in DITS:
        return dit.create(name, **options)
    if name == ENHANCER:
        return FeatEnHancer(**options)
    return build(name, **options)


def _sizes(name: str, layout: Layout, theirs: StateDict) -> dict[str, int]:
    """Classes and channels, from the shapes of the last layer and the first; no entry where the file lacks them."""
    sizes: dict[str, int] = {}
    if name not in BY_NAME:
        return sizes
    family = BY_NAME[name]
    classifier = theirs.get(layout.key(f"{family.classifier}.weight"))
    if classifier is not None:
        sizes["num_classes"] = classifier.shape[0]
    first_conv = family.variants[name].first_conv or family.first_conv
    first = theirs.get(layout.key(f"{first_conv}.weight"))
    if first is not None:
        sizes["in_chans"] = first.shape[1]
    return sizes
