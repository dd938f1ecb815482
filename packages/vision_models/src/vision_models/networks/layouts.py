"""How checkpoints name the tensors of a network: each published layout is a renaming of ours, exact in both directions."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from core_attention.systems import Config, StateDict

# where training scripts put the weights that were averaged over training, and the others
AVERAGED = ("ema", "model_ema", "state_dict_ema")
_WRAPPERS = (*AVERAGED, "model", "state_dict")


def _never(key: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One naming of a network's tensors.

    Args:
        name: of the code that uses it.
        rename: our key → theirs.
        convolved: whether one of our keys is a linear layer that stands there as a 1×1 convolution.
        prefix: what stands before each key.
        lacks: whether one of our tensors is not in such files; a model keeps its own.
    """

    name: str
    rename: Callable[[str], str]
    convolved: Callable[[str], bool] = _never
    prefix: str = ""
    lacks: Callable[[str], bool] = _never

    def key(self, ours: str) -> str:
        """Their name of one of our tensors."""
        return self.prefix + self.rename(ours)


Layouts = Callable[[Collection[str]], Sequence[Layout]]  # the layouts of a network with these keys of ours


def read_layout(layout: Layout, theirs: StateDict, ours: Mapping[str, Tensor]) -> StateDict:
    """Our state dict from theirs, with the keys and shapes of `ours`; pops what it uses.

    Raises:
        KeyError: a tensor is missing; names it.
    """
    return {key: _shaped(theirs.pop(layout.key(key)), tensor) for key, tensor in ours.items()}


def write_layout(layout: Layout, ours: Mapping[str, Tensor]) -> StateDict:
    """Our state dict under their names and shapes: the exact inverse of `read_layout`."""
    state = {}
    for key, tensor in ours.items():
        if not layout.lacks(key):
            state[layout.key(key)] = tensor[:, :, None, None] if layout.convolved(key) else tensor
    return state


def unwrap(checkpoint: Mapping) -> StateDict:
    """The state dict inside a training checkpoint; the averaged weights where there are two."""
    for name in _WRAPPERS:
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            return unwrap(inner)
    return {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}


def read_checkpoint(checkpoint: Mapping, model: nn.Module, layouts: Layouts) -> StateDict:
    """Our state dict from a checkpoint in our layout or any of `layouts`, for timm and for `converting.load_checkpoint`.

    What has no place is passed on under its own name and what is missing stays missing, so that a strict load names both.
    """
    theirs = unwrap(checkpoint)
    ours = model.state_dict()
    layout = fitting_layout(theirs, ours, layouts)
    if layout.prefix:  # of a detector or a language model: the rest is not this network's
        theirs = {key: value for key, value in theirs.items() if key.startswith(layout.prefix)}
    state = {}
    for key, tensor in ours.items():
        if layout.key(key) in theirs:
            state[key] = _shaped(theirs.pop(layout.key(key)), tensor)
        elif layout.lacks(key):
            state[key] = tensor
    return state | theirs


def fitting_layout(theirs: Collection[str], ours: Collection[str], layouts: Layouts) -> Layout:
    """The layout, ours or one of `layouts`, that names most of a file's tensors and misses fewest; ours where it is as good."""

    def fit(layout: Layout) -> int:
        count = 0
        for key in ours:
            if layout.key(key) in theirs:
                count += 1
            elif not layout.lacks(key):
                count -= 1
        return count

    return max((Layout(name="ours", rename=str), *layouts(ours)), key=fit)


def converted_by(
    build: Callable[[Config], nn.Module], layouts: Layouts, name: str
) -> Callable[[StateDict, Config], StateDict]:
    """The `convert` of a component with checkpoints of the layout `name`; what `build` makes says which keys there are."""

    @lru_cache(maxsize=8)  # a case is converted again and again while its keys are checked one by one
    def skeleton(config: str) -> StateDict:
        with torch.device("meta"):
            return build(json.loads(config)).state_dict()

    def convert(official: StateDict, config: Config) -> StateDict:
        ours = skeleton(json.dumps(dict(config)))
        (layout,) = (layout for layout in layouts(ours) if layout.name == name)
        return read_layout(layout, official, ours)

    return convert


def _shaped(value: Tensor, ours: Tensor) -> Tensor:
    """1×1 convolutions are linear layers."""
    return value.flatten(1) if value.ndim == 4 and ours.ndim == 2 else value
