"""Feature-map attention in any CNN: inserted after modules named by a pattern, listed, replaced for blocks, taken out again.

::

    model = core_attention.insert(torchvision.models.resnet18(), "ela", after="layer*.bn2")
    for one in core_attention.inserted(model):
        print(one)                       # layer1.0.bn2: ela, 64 channels, 448 parameters
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
    child = name or (mechanism if isinstance(mechanism, str) else getattr(mechanism, "__name__", "attention")).lower()
    made: list[tuple[nn.Module, nn.Module]] = []
    for place in _matches(model, after):
        module = model.get_submodule(place)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            raise ValueError(f"{place} is a {type(module).__name__}, a container: name a module inside it")
        if hasattr(module, child):
            raise ValueError(f"{place} already has a {child!r}: remove it first, or give another name=")
        made.append((module, _made(make, place, _channels(module, place) if channels is None else channels, options)))
    for module, attention in made:
        like = next((p for part in (module, model) for p in part.parameters()), None)
        module.add_module(child, attention if like is None else attention.to(like.device, like.dtype))
        attention.train(module.training)
        module.register_forward_hook(_Pass(child))
    return model


def replace(model: nn.Module, mechanism: Mechanism, *, at: str | Sequence[str], **options: Any) -> nn.Module:
    """Puts an attention in the place of whole blocks, as ULSAM does to slim MobileNets, and returns the same model.

    Args:
        model: any module.
        mechanism: as for `insert`.
        at: names or patterns of the blocks, which must keep the map's size and channels (stride 1, as many channels out as in).
        options: handed to the constructor.

    Raises:
        ValueError: no block has such a name, or one changes the map's size or channels; then nothing has been replaced.
    """
    make = _constructor(mechanism)
    made: list[tuple[str, nn.Module]] = []
    for place in _matches(model, at):
        block = model.get_submodule(place)
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise ValueError(f"{place} ({type(block).__name__}) has no convolution to replace")
        first, out = convolutions[0].in_channels, _channels(block, place)
        strided = [c.stride for c in convolutions if tuple(c.stride) != (1, 1)]
        if first != out or strided:
            raise ValueError(
                f"only a block of stride 1 with as many channels out as in can be replaced: {place} takes {first}, "
                f"gives {out}" + (f", stride {strided[0]}" if strided else "")
            )
        made.append((place, _made(make, place, out, options)))
    for place, attention in made:
        parent, _, leaf = place.rpartition(".")
        block = model.get_submodule(place)
        like = next(block.parameters())
        setattr(model.get_submodule(parent), leaf, attention.to(like.device, like.dtype).train(block.training))
    return model


def inserted(model: nn.Module) -> list[Inserted]:
    """The attention modules that `insert` put into `model`, in the order of its modules."""
    found = []
    for place, module in model.named_modules():
        for name in _children(module):
            attention = module.get_submodule(name)
            count = sum(p.numel() for p in attention.parameters())
            found.append(Inserted(place, name, _given(attention) or _channels(module, place), count))
    return found


def remove(model: nn.Module, *, name: str | None = None) -> nn.Module:
    """Takes out what `insert` put in (only children called `name`, if given), and returns the same model, as it was before."""
    for module in list(model.modules()):
        for child in _children(module):
            if name in (None, child):
                hooks = module._forward_hooks
                for key in [k for k, hook in hooks.items() if isinstance(hook, _Pass) and hook.child == child]:
                    del hooks[key]
                delattr(module, child)
    return model


def places(model: nn.Module) -> dict[str, list[str]]:
    """The usual places of attention in the residual blocks of torchvision's and timm's ResNets and MobileNets.

    Returns:
        ``"residual"`` and ``"depthwise"`` → names of modules (see `insert`); a place that the network lacks is left out.
    """
    found: dict[str, list[str]] = {"residual": [], "depthwise": []}
    for start, block in model.named_modules():
        if not any(kind in type(block).__name__ for kind in BLOCKS):
            continue
        inner = [(n, m) for n, m in _own(block) if not n.startswith(("downsample", "shortcut"))]
        norms = [name for name, m in inner if hasattr(m, "num_features")]
        depthwise = [name for name, m in inner if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels]
        prefix = f"{start}." if start else ""
        if norms:
            found["residual"].append(prefix + norms[-1])
        if depthwise and norms:
            found["depthwise"].append(prefix + _activated(block, depthwise[0], norms))
    return {place: names for place, names in found.items() if names}


def _activated(block: nn.Module, convolution: str, norms: list[str]) -> str:
    """The module whose output is a convolution's after norm and activation: the small Sequential around all three, or a joint norm."""
    parent = convolution.rpartition(".")[0]
    around = block.get_submodule(parent)
    if parent and isinstance(around, nn.Sequential) and sum(isinstance(m, nn.Conv2d) for m in around) == 1:
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


def _children(module: nn.Module) -> list[str]:
    return [hook.child for hook in module._forward_hooks.values() if isinstance(hook, _Pass)]


def _own(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The named modules in `module`, itself included, without what was inserted."""
    yield prefix, module
    skipped = _children(module)
    for name, child in module.named_children():
        if name not in skipped:
            yield from _own(child, f"{prefix}.{name}" if prefix else name)


def _constructor(mechanism: Mechanism) -> Callable[..., nn.Module]:
    if not isinstance(mechanism, str):
        return mechanism
    entry = catalogue.find("inserts", mechanism)
    if entry is None:
        known = list(catalogue.declared("inserts"))
        raise ValueError(
            f"unknown mechanism {mechanism!r}{catalogue.nearest(mechanism, known)}: one of {', '.join(known)}, or a class"
        )
    return entry.load()


def _made(make: Callable[..., nn.Module], place: str, channels: int, options: dict[str, Any]) -> nn.Module:
    try:
        return make(channels, **options)
    except ValueError as error:
        raise ValueError(f"at {place} ({channels} channels): {error}") from error


def _matches(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """The names of the modules that the patterns or places name, in the order of the model."""
    names = [name for name, _ in _own(model) if name]
    wanted: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [name for name in names if fnmatchcase(name, pattern)] or places(model).get(pattern, [])
        if not found:
            near = get_close_matches(pattern, names, 4, 0.3)
            raise ValueError(
                f"no module of {type(model).__name__} is called {pattern!r}"
                + (f"; near: {', '.join(near)}" if near else "")
            )
        wanted.update(found)
    return [name for name in names if name in wanted]


def _given(module: nn.Module) -> int | None:
    """The channels that a module says its output has."""
    for attribute in ("out_channels", "num_features", "num_channels", "channels"):
        if isinstance(value := getattr(module, attribute, None), int):
            return value
    return None


def _channels(module: nn.Module, place: str) -> int:
    """The channels of a module's output: its own, or those of the last convolution or norm inside."""
    for one in [module, *reversed([m for _, m in _own(module)])]:
        if not isinstance(one, nn.Conv1d | nn.Conv3d) and (channels := _given(one)) is not None:
            return channels
    raise ValueError(f"{place} ({type(module).__name__}) does not say how many channels it gives: pass channels=")
