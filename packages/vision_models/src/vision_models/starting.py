"""Starting from published weights: what is taken, what is new, and what does not fit, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from core_attention.checkpoints.folders import read_official
from core_runtime.errors import UserError, few, named
from vision_models.networks.catalogue import BY_NAME
from vision_models.networks.layouts import AVERAGED, read_checkpoint
from vision_models.networks.registering import named as named_function

_HEADS = ("head", "fc", "classifier", "aux_head")  # timm's names of what ends in classes
_NEW = ("mask_predictor",)  # Sparsifiner adds it to DeiT's blocks


@dataclass(frozen=True)
class Start:
    """What was taken from a file of weights.

    Attributes:
        loaded: tensors taken.
        fresh: those of the network that keep their random values.
        unused: those of the file that the network has not.
    """

    loaded: Sequence[str]
    fresh: Sequence[str]
    unused: Sequence[str]

    def line(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.fresh:
            text += f"; new: {few(self.fresh)}"
        if self.unused:
            text += f"; not used: {few(self.unused)}"
        return text


def load_start(network: nn.Module, file: Path, name: str = "") -> Start:
    """Loads a network's weights; only the head, for other classes, and added predictors may be missing or differ.

    Args:
        network: the one that starts.
        file: a state dict (.safetensors, .pth), under the network's own names; of ours also in any published layout. Of a training
            checkpoint the averaged weights are taken.
        name: of the network.

    Raises:
        UserError: the file cannot be read, or does not fit; the keys are named.
    """
    try:
        state = read_official(file, prefer=AVERAGED)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(file, error), "--weights takes a state dict (.safetensors, .pth)") from None
    if name in BY_NAME:
        state = read_checkpoint(state, network, named_function(BY_NAME[name].layouts))
    own = network.state_dict()
    taken, unused, misfits = {}, [], []
    for key, value in state.items():
        if key not in own:
            unused.append(key)
        elif own[key].shape != value.shape:
            misfits.append(key)
        else:
            taken[key] = value
    fresh = [key for key in own if key not in taken]
    excused = (*_HEADS, *_NEW)
    wrong = [key for key in fresh if not any(part in excused for part in key.split("."))]
    foreign = [key for key in unused if not any(part in excused for part in key.split("."))]
    if wrong or foreign:
        shapes = [f"{key} {tuple(state[key].shape)}, expected {tuple(own[key].shape)}" for key in misfits]
        detail = few(shapes or wrong or foreign)
        raise UserError(
            f"{file} does not fit the network: {len(wrong)} tensors missing or of another shape, {len(foreign)} unknown: {detail}",
            "--network and --size must be those of the weights",
        )
    network.load_state_dict(taken, strict=False)
    return Start(list(taken), fresh, unused)
