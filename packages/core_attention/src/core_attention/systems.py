"""The registry of published systems: which package implements which published component, and how it is replayed.

A package registers a `System` under the entry-point group ``core_attention.systems``; the entry's name is the paper's slug
(``biformer = "core_attention.official.biformer:system"``). Several packages may hold parts of one slug; `system` merges them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import Tensor, nn

GROUP = "core_attention.systems"

StateDict = dict[str, Tensor]
Config = Mapping[str, Any]


def same(official: StateDict, config: Config) -> StateDict:
    """The `convert` of a component whose keys are the official ones."""
    ours = dict(official)
    official.clear()
    return ours


@dataclass(frozen=True, kw_only=True)
class Component:
    """One published module or function, and how it is built, loaded from an official state dict, and run.

    Args:
        run: ``run(module, inputs, *, config, mode)`` → dict of tensors or JSON values under the official names.
        build: ``build(config)`` → module; None where the published thing is a function (``run`` then gets ``module=None``).
        convert: ``convert(official, config)`` → our state dict. Pops what it uses; differentiable, never detached.
        ignore: patterns of official keys that exist in checkpoints and carry nothing for us.
        unused: patterns of our parameters that the published forward never uses, or whose gradient is truly zero.
        batch: ``{input or output name: batch axis}`` where permuting a batch is meaningful.
    """

    run: Callable[..., dict[str, Any]]
    build: Callable[[Config], nn.Module] | None = None
    convert: Callable[[StateDict, Config], StateDict] = same
    ignore: Sequence[str] = ()
    unused: Sequence[str] = ()
    batch: Mapping[str, int] | None = None

    def converted(self, config: Config, official_state: Mapping[str, Tensor]) -> StateDict:
        """Our state dict from an official one.

        Raises:
            ValueError: an official key was neither used by `convert` nor is listed in `ignore`.
        """
        rest = dict(official_state)
        ours = self.convert(rest, config)
        left = [key for key in rest if not any(fnmatchcase(key, pattern) for pattern in self.ignore)]
        if left:
            raise ValueError(f"official keys without a place in this component: {', '.join(sorted(left))}")
        return ours

    def load(self, config: Config, official_state: Mapping[str, Tensor]) -> nn.Module:
        """Builds the module and loads an official state dict strictly, in the dtype of that state dict.

        Args:
            config: the official constructor arguments.
            official_state: tensors under official keys (already in memory; see `core_attention.checkpoints` for files).

        Raises:
            TypeError: the component is a function and has nothing to load.
            ValueError: official keys that have no place here, or parameters of ours that get no value, each named.
        """
        if self.build is None:
            raise TypeError("this component is a function: there is nothing to load")
        module = self.build(config)
        ours = self.converted(config, official_state)
        dtype = next((t.dtype for t in ours.values() if t.is_floating_point()), None)
        if dtype is not None:
            module = module.to(dtype)
        missing, unexpected = module.load_state_dict(ours, strict=False)
        if missing or unexpected:
            raise ValueError(
                "the converted state dict does not fit: "
                + "; ".join(
                    f"{what}: {', '.join(keys)}"
                    for what, keys in (("missing", missing), ("unexpected", unexpected))
                    if keys
                )
            )
        return module


@dataclass(frozen=True)
class System:
    """The components of one published system, by their short stable key."""

    slug: str
    components: Mapping[str, Component]
    failures: Mapping[str, str] = field(default_factory=dict)  # entry point → why it could not be imported


def entries(slug: str | None = None) -> list[EntryPoint]:
    """The registered entry points, of one slug or of all."""
    found = entry_points(group=GROUP)
    return sorted((e for e in found if slug is None or e.name == slug), key=lambda e: (e.name, e.value))


def slugs() -> list[str]:
    """The slugs that some installed package registers components for."""
    return sorted({e.name for e in entries()})


def system(slug: str) -> System:
    """The merged system of all packages that register parts of `slug`; only their modules are imported.

    A part that cannot be imported is recorded in `System.failures` and leaves the others usable.

    Raises:
        ValueError: two packages register the same component.
    """
    components: dict[str, Component] = {}
    failures: dict[str, str] = {}
    for entry in entries(slug):
        try:
            part: System = entry.load()
        except Exception as error:
            failures[entry.value] = f"{type(error).__name__}: {error}"
            continue
        for key, component in part.components.items():
            if key in components:
                raise ValueError(f"{slug}: component {key!r} is registered twice, the second time by {entry.value}")
            components[key] = component
    return System(slug, components, failures)
