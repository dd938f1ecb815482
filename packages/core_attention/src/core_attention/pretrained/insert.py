"""Feature-map attention in any CNN: inserted after modules named by a pattern, listed, replaced for blocks, taken out again.

::

    model = core_attention.insert(torchvision.models.resnet18(), "ela", after="layer*.bn2")
    for attention in core_attention.inserted(model):
        print(attention)                 # layer1.0.bn2: ela, 64 channels, 448 parameters
    core_attention.remove(model)

The attention becomes a child of the module it follows (``layer1.0.bn2.ela``), and a forward hook passes that module's output through
it. So no existing parameter changes its name: checkpoints of the bare network still load (before inserting, or with
``strict=False``), and ``model.layer1[0].bn2`` is still the batch norm. What rebuilds modules and forgets their hooks
(``SyncBatchNorm.convert_sync_batchnorm``) comes before `insert`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from torch import Tensor, nn

from core_attention.registry import catalogue

Mechanism = str | Callable[..., nn.Module]
BLOCKS = ("BasicBlock", "Bottleneck", "InvertedResidual", "DepthwiseSeparableConv")  # of torchvision and timm


@dataclass(frozen=True)
class Inserted:
    """One attention module in a network.

    Args:
        place: the name of the module it follows.
        name: the child's name, as a rule the mechanism's.
        channels: channels of the map there.
        parameters: its parameters.
    """

    place: str
    name: str
    channels: int
    parameters: int

    def __str__(self) -> str:
        return f"{self.place}: {self.name}, {self.channels} channels, {self.parameters} parameters"


def insert(
    model: nn.Module,
    mechanism: Mechanism,
    *,
    after: str | Sequence[str],
    channels: int | None = None,
    name: str | None = None,
    **options: Any,
) -> nn.Module:
    """Inserts an attention after every module that `after` names, and returns the same model (see `inserted` for what it did).

    Args:
        model: any module; nothing of it is renamed or copied.
        mechanism: a name that a `System` declares under ``inserts`` (``"ela"``, ``"se"``, ``"cbam"`` …), or a class or function that
            is called with the channels and makes a module from map to map of one shape.
        after: names of modules, or patterns in which ``*`` also spans dots (``"layer*.bn2"``); or a place that `places` knows:
            ``"residual"`` (the last norm of each block, before the addition; in MobileNets after the projection) or ``"depthwise"``
            (after the activation of each depthwise convolution).
        channels: channels of the map there; None: read off the module at that place.
        name: the child's name; None: the mechanism's. Two attentions in one place need two names.
        options: handed to the constructor (``variant="S"``).

    Raises:
        ValueError: no module has such a name (the nearest are named), one has no channels to read off, already has a child of that
            name, or the mechanism refuses its channels; then nothing has been inserted.
    """
    make = _constructor(mechanism)
    if name:
        child = name
    elif isinstance(mechanism, str):
        child = mechanism.lower()
    else:
        child = getattr(mechanism, "__name__", "attention").lower()
    # all are made before the first is put in, so that an error leaves the model as it was
    attentions: list[tuple[nn.Module, nn.Module]] = []
    for place in _matching_modules(model, after):
        module = model.get_submodule(place)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            raise ValueError(f"{place} is a {type(module).__name__}, a container: name a module inside it")
        if hasattr(module, child):
            raise ValueError(f"{place} already has a {child!r}: remove it first, or give another name=")
        width = _output_channels(module, place) if channels is None else channels
        attentions.append((module, _make_attention(make, place, width, options)))
    for module, attention in attentions:
        # on the device and in the dtype of the module it follows, or of the model where that has no parameters
        like = next(chain(module.parameters(), model.parameters()), None)
        if like is not None:
            attention = attention.to(like.device, like.dtype)
        module.add_module(child, attention)
        attention.train(module.training)
        module.register_forward_hook(_Pass(child))
    return model


def replace(model: nn.Module, mechanism: Mechanism, *, at: str | Sequence[str], **options: Any) -> nn.Module:
    """Puts an attention in place of whole blocks, as ULSAM does to slim MobileNets, and returns the same model.

    Args:
        model: any module.
        mechanism: as for `insert`.
        at: names or patterns of the blocks, which must keep the map's size and channels (stride 1, as many channels out as in).
        options: handed to the constructor.

    Raises:
        ValueError: no block has such a name, or one changes the map's size or channels; then nothing has been replaced.
    """
    make = _constructor(mechanism)
    attentions: list[tuple[str, nn.Module]] = []
    for place in _matching_modules(model, at):
        block = model.get_submodule(place)
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise ValueError(f"{place} ({type(block).__name__}) has no convolution to replace")
        taken, given = convolutions[0].in_channels, _output_channels(block, place)
        strides = [convolution.stride for convolution in convolutions if tuple(convolution.stride) != (1, 1)]
        if taken != given or strides:
            stride = f", stride {strides[0]}" if strides else ""
            raise ValueError(
                f"only a block of stride 1 with as many channels out as in can be replaced: {place} takes {taken}, "
                f"gives {given}{stride}"
            )
        attentions.append((place, _make_attention(make, place, given, options)))
    for place, attention in attentions:
        parent, _, leaf = place.rpartition(".")
        block = model.get_submodule(place)
        like = next(block.parameters())
        setattr(model.get_submodule(parent), leaf, attention.to(like.device, like.dtype).train(block.training))
    return model


def inserted(model: nn.Module) -> list[Inserted]:
    """The attention modules that `insert` put into `model`, in the order of its modules."""
    attentions = []
    for place, module in model.named_modules():
        for name in _inserted_children(module):
            attention = module.get_submodule(name)
            channels = _declared_channels(attention) or _output_channels(module, place)
            parameters = sum(parameter.numel() for parameter in attention.parameters())
            attentions.append(Inserted(place, name, channels, parameters))
    return attentions


def remove(model: nn.Module, *, name: str | None = None) -> nn.Module:
    """Takes out what `insert` put in (only children called `name`, if given), and returns the same model, as it was before."""
    for module in list(model.modules()):
        for child in _inserted_children(module):
            if name not in (None, child):
                continue
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, _Pass) and hook.child == child:
                    del module._forward_hooks[key]
            delattr(module, child)
    return model


def places(model: nn.Module) -> dict[str, list[str]]:
    """The usual places of attention in the residual blocks of torchvision's and timm's ResNets and MobileNets.

    Returns:
        ``"residual"`` and ``"depthwise"`` → names of modules (see `insert`); a place that the network lacks is left out.
    """
    residual: list[str] = []
    after_depthwise: list[str] = []
    for start, block in model.named_modules():
        if not any(kind in type(block).__name__ for kind in BLOCKS):
            continue
        norms, depthwise = _norms_and_depthwise(block)
        prefix = f"{start}." if start else ""
        if norms:
            residual.append(prefix + norms[-1])
        if depthwise and norms:
            after_depthwise.append(prefix + _activated_place(block, depthwise[0], norms))
    usual = {"residual": residual, "depthwise": after_depthwise}
    return {place: names for place, names in usual.items() if names}


def _norms_and_depthwise(block: nn.Module) -> tuple[list[str], list[str]]:
    """The names of the norms and of the depthwise convolutions on a block's main path, in order."""
    norms, depthwise = [], []
    for name, module in _own_modules(block):
        if name.startswith(("downsample", "shortcut")):  # the other path
            continue
        if hasattr(module, "num_features"):
            norms.append(name)
        elif isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels:
            depthwise.append(name)
    return norms, depthwise


def _activated_place(block: nn.Module, convolution: str, norms: list[str]) -> str:
    """The module whose output is a convolution's after norm and activation: the small Sequential around all three, or a joint norm."""
    parent = convolution.rpartition(".")[0]
    around = block.get_submodule(parent)
    if parent and isinstance(around, nn.Sequential):
        convolutions = [module for module in around if isinstance(module, nn.Conv2d)]
        if len(convolutions) == 1:
            return parent
    names = [name for name, _ in block.named_modules()]
    return next(name for name in norms if names.index(name) > names.index(convolution))


class _Pass:
    """Forward hook: passes a module's output through one of its own children. Holds a name only, so that models copy and pickle."""

    def __init__(self, child: str):
        self.child = child

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":  # what torch.jit.script asks a hook for first
            raise AttributeError(
                f"torch.jit.script cannot read the hook that runs the inserted attention {self.__dict__.get('child')!r}: "
                "use torch.export or torch.compile, or core_attention.remove(model) first"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if type(module).forward is nn.Sequential.forward:  # it runs its children itself, this one last
            return output
        return module.get_submodule(self.child)(output)


def _inserted_children(module: nn.Module) -> list[str]:
    return [hook.child for hook in module._forward_hooks.values() if isinstance(hook, _Pass)]


def _own_modules(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The named modules in `module`, itself included, without what was inserted."""
    yield prefix, module
    skipped = _inserted_children(module)
    for name, child in module.named_children():
        if name not in skipped:
            full_name = f"{prefix}.{name}" if prefix else name
            yield from _own_modules(child, full_name)


def _constructor(mechanism: Mechanism) -> Callable[..., nn.Module]:
    if not isinstance(mechanism, str):
        return mechanism
    entry = catalogue.find("inserts", mechanism)
    if entry is None:
        known = list(catalogue.declared("inserts"))
        raise ValueError(f"{catalogue.not_among(mechanism, known, 'inserted by name')}, or give a class")
    return entry.load()


def _make_attention(make: Callable[..., nn.Module], place: str, channels: int, options: dict[str, Any]) -> nn.Module:
    try:
        return make(channels, **options)
    except ValueError as error:
        raise ValueError(f"at {place} ({channels} channels): {error}") from error


def _matching_modules(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """The names of the modules that the patterns or places name, in the order of the model."""
    if isinstance(patterns, str):
        patterns = [patterns]
    names = [name for name, _ in _own_modules(model) if name]
    matching: set[str] = set()
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)] or places(model).get(pattern, [])
        if not matches:
            near = ", ".join(get_close_matches(pattern, names, 4, 0.3))
            hint = f"; near: {near}" if near else ""
            raise ValueError(f"no module of {type(model).__name__} is called {pattern!r}{hint}")
        matching.update(matches)
    return [name for name in names if name in matching]


def _declared_channels(module: nn.Module) -> int | None:
    """The channels that a module says its output has."""
    for attribute in ("out_channels", "num_features", "num_channels", "channels"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    return None


def _output_channels(module: nn.Module, place: str) -> int:
    """The channels of a module's output: its own, or those of the last convolution or norm inside."""
    inner = [part for _, part in _own_modules(module)]
    for part in [module, *reversed(inner)]:
        if isinstance(part, nn.Conv1d | nn.Conv3d):  # their channels are not those of a map
            continue
        channels = _declared_channels(part)
        if channels is not None:
            return channels
    raise ValueError(f"{place} ({type(module).__name__}) does not say how many channels it gives: pass channels=")
