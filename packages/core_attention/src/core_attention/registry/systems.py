"""The registry of published systems: which package implements which published component, and how it is replayed.

One `System` declares all that a paper brings: its facts, components, examples to price and time, names in transformers, converters of
pretrained models. This package finds its own by folder (``mechanisms/SLUG/declaration.py`` and ``published/SLUG/declaration.py``);
another registers under the entry-point group ``core_attention.systems``, where the entry's name is the paper's slug
(``acmil = "pathology_mil.model.declaration:system"``). Several packages may hold parts of one slug; `system` merges them.

A declaration names what it declares and imports none of it: ``core-attention list`` reads all of them, without torch.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module, resources
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    import torch

GROUP = "core_attention.systems"
DISTRIBUTION = "attention-suite-core-attention"

StateDict = dict[str, "torch.Tensor"]
Config = Mapping[str, Any]


def same(official: StateDict, config: Config) -> StateDict:
    """The `convert` of a component whose keys are the official ones."""
    ours = dict(official)
    official.clear()
    return ours


class StateError(ValueError):
    """A state dict whose keys or shapes do not fit the module they are meant for."""


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
    build: Callable[[Config], "torch.nn.Module"] | None = None
    convert: Callable[[StateDict, Config], StateDict] = same
    ignore: Sequence[str] = ()
    unused: Sequence[str] = ()
    batch: Mapping[str, int] | None = None

    def converted(self, config: Config, official_state: Mapping[str, "torch.Tensor"]) -> StateDict:
        """Our state dict from an official one.

        Raises:
            StateError: `convert` misses an official key, or one was neither used by it nor is listed in `ignore`.
        """
        # the default `convert` passes every key on, so ignored ones must not reach it
        rest = dict(official_state)
        if self.convert is same:
            rest = {key: tensor for key, tensor in rest.items() if not self._ignores(key)}
        try:
            ours = self.convert(rest, config)
        except KeyError as error:
            missing = error.args[0] if error.args else ""
            if missing in official_state:
                raise
            raise StateError(f"the official state dict has no key {missing!r}") from error
        left = [key for key in rest if not self._ignores(key)]
        if left:
            raise StateError(f"official keys without a place in this component: {', '.join(sorted(left))}")
        return ours

    def _ignores(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.ignore)

    def load(self, config: Config, official_state: Mapping[str, "torch.Tensor"]) -> "torch.nn.Module":
        """Builds the module and loads an official state dict strictly, in the dtype of that state dict.

        Args:
            config: the official constructor arguments.
            official_state: tensors under official keys (already in memory; see `core_attention.checkpoints.folders` for files).

        Raises:
            TypeError: the component is a function and has nothing to load.
            StateError: official keys that have no place here, or parameters of ours that get no value or one of another
                shape, each named.
        """
        if self.build is None:
            raise TypeError("this component is a function: there is nothing to load")
        module = self.build(config)
        ours = self.converted(config, official_state)
        dtype = floating_dtype(ours.values())
        if dtype is not None:
            module = module.to(dtype)
        load_strictly(module, ours)
        return module


class Components(Mapping):
    """The components of a system by their key; one that a module holds is imported when it is looked up.

    Args:
        holders: key → the component, or the name of the module whose dictionary ``components`` holds it under this key.
    """

    # not Mapping[str, Component]: a checker of types at run time would look a component up, and import it

    def __init__(self, holders: Mapping[str, Component | str]) -> None:
        self.holders = dict(holders)

    def __getitem__(self, key: str) -> Component:
        holder = self.holders[key]
        if isinstance(holder, Component):
            return holder
        components = import_module(holder).components
        if key not in components:
            # not a KeyError, which would say that nobody declares it
            raise ImportError(f"{holder} holds no component {key!r}, which its declaration names")
        return components[key]

    def __contains__(self, key: object) -> bool:
        return key in self.holders

    def __iter__(self) -> Iterator[str]:
        return iter(self.holders)

    def __len__(self) -> int:
        return len(self.holders)


def components_of(module: str, *keys: str) -> Components:
    """Components that stand under these keys in the dictionary ``components`` of a module, which is imported when one is used."""
    return Components(dict.fromkeys(keys, module))


@dataclass(frozen=True)
class Paper:
    """What was published.

    Args:
        title: of the paper.
        year: of its publication.
        repository: the authors' code, as ``owner/name``; None where there is none.
        licence: of that repository; "none" means that it has none, so nothing of it may be reused.
        also: other code that the recorded results come from.
        components: all keys that golden cases use, also those that no package holds yet.
    """

    title: str
    year: int
    repository: str | None = None
    licence: str | None = None
    also: str | None = None
    components: Sequence[str] = ()


@dataclass(frozen=True)
class System:
    """One published system, or the part of it that a package holds.

    What is named by ``"module:name"`` is imported when it is used, so that a listing stays quick.

    Args:
        slug: of the paper.
        components: its components, by their short stable key; `components_of` names them without importing them.
        failures: entry points of this slug that could not be imported, with the reason (set by `system`).
        paper: facts of the paper; one of the packages that hold parts of it declares them.
        examples: name → a function ``example(tokens) -> core_attention.measuring.example.Example``, which ``core-attention show`` and
            ``bench`` price and time.
        limits: example → what torch asks of a module and this one cannot do → why, in words (see ``docs/conformance.md``); a declared
            limit that does not hold fails the tests.
        page: the page under ``docs/mechanisms`` that describes it; of another package ``module:path``, a file beside that module.
        pages: the pages of single examples, where they differ from `page`.
        attentions: name in transformers → attention function (see `core_attention.pretrained.transformers`).
        converters: name → maker of what `core_attention.pretrained.convert.convert_model` puts into a layer.
        aliases: another spelling → the name that it stands for: the paper's abbreviation, the published class. Capitals, ``-`` and ``_``
            make no difference anyway.
        inserts: name → constructor, called with the channels of a feature map (see `core_attention.insert`).
    """

    slug: str
    components: Components | Mapping[str, Component] = field(default_factory=lambda: Components({}))
    failures: Mapping[str, str] = field(default_factory=dict)
    paper: Paper | None = None
    examples: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    page: str | None = None
    pages: Mapping[str, str] = field(default_factory=dict)
    attentions: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    converters: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    inserts: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


def floating_dtype(tensors: Iterable["torch.Tensor"]) -> Optional["torch.dtype"]:
    """The floating dtype that most elements of `tensors` have; None if there is none."""
    elements: Counter["torch.dtype"] = Counter()
    for tensor in tensors:
        if tensor.is_floating_point():
            elements[tensor.dtype] += max(tensor.numel(), 1)
    return elements.most_common(1)[0][0] if elements else None


def same_values(a: "torch.Tensor", b: "torch.Tensor") -> bool:
    """Whether two tensors hold the same, as those of tied keys do."""
    import torch

    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _fits(given: "torch.Tensor", expected: "torch.Tensor") -> bool:
    """Equal shapes; a single value fits whether or not it has an axis."""
    return given.shape == expected.shape or (
        given.numel() == expected.numel() == 1 and min(given.ndim, expected.ndim) == 0
    )


def check_shapes(module: "torch.nn.Module", state: Mapping[str, "torch.Tensor"]) -> None:
    """Compares shapes alone; `module` may stand on the meta device.

    Raises:
        StateError: other shapes, each named.
    """
    import torch

    problems = []
    for key, tensor in module.state_dict(keep_vars=True).items():
        if key in state and isinstance(tensor, torch.Tensor) and not _fits(state[key], tensor):
            problems.append(f"{key} has shape {list(state[key].shape)}, expected {list(tensor.shape)}")
    if problems:
        raise StateError(f"the state dict does not fit: {'; '.join(problems)}")


def load_strictly(module: "torch.nn.Module", state: Mapping[str, "torch.Tensor"]) -> None:
    """Loads a state dict in our keys; a tied parameter needs only one of its names.

    Raises:
        StateError: missing or unexpected keys, or other shapes, each named.
    """
    check_shapes(module, state)
    tensors = module.state_dict(keep_vars=True)
    given = {id(tensor) for key, tensor in tensors.items() if key in state}
    versioned = OrderedDict(state)
    # as a state dict of today: batch normalisation tolerates the lack of its counter in one without versions
    versioned._metadata = module.state_dict()._metadata  # pyright: ignore[reportAttributeAccessIssue]
    try:
        missing, unexpected = module.load_state_dict(versioned, strict=False)
    except RuntimeError as error:  # shapes of a module that joins or renames keys while it loads
        raise StateError(f"the state dict does not fit: {' '.join(str(error).split())}") from error
    missing = [key for key in missing if key not in tensors or id(tensors[key]) not in given]
    if missing or unexpected:
        named = [(what, ", ".join(keys)) for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise StateError(f"the state dict does not fit: {'; '.join(f'{what}: {keys}' for what, keys in named)}")


def own_entries() -> list[EntryPoint]:
    """This package's own declarations, found by folder."""
    package = "core_attention"
    own = []
    for room in ("mechanisms", "published"):
        for folder in resources.files(package).joinpath(room).iterdir():
            if folder.joinpath("declaration.py").is_file():
                own.append(EntryPoint(folder.name, f"{package}.{room}.{folder.name}.declaration:system", GROUP))
    return own


def entries(slug: str | None = None) -> list[EntryPoint]:
    """The registered entry points, of one slug or of all; this package's own first."""
    registered = sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value))
    own = sorted(own_entries(), key=lambda e: (e.name, e.value))
    return [e for e in (*own, *registered) if slug is None or e.name == slug]


def entries_by_slug() -> dict[str, list[EntryPoint]]:
    """All registered entry points, by their slug."""
    by_slug: dict[str, list[EntryPoint]] = {}
    for entry in entries():
        by_slug.setdefault(entry.name, []).append(entry)
    return by_slug


def holders(parts: Iterable[EntryPoint]) -> dict[str, str]:
    """The distribution that holds each component of a system, from its entry points; those that cannot be imported are left out."""
    by_component: dict[str, str] = {}
    for entry in parts:
        part, _ = load_entry(entry)
        if part is not None:
            by_component |= dict.fromkeys(part.components, distribution_of(entry))
    return by_component


def distribution_of(entry: EntryPoint) -> str:
    """The installed distribution that an entry point belongs to."""
    if entry.value.startswith("core_attention."):
        return DISTRIBUTION
    return entry.dist.name if entry.dist else "unknown"


def slugs() -> list[str]:
    """The slugs that some installed package registers components for."""
    return sorted({e.name for e in entries()})


def load_entry(entry: EntryPoint) -> tuple[System | None, str]:
    """The system that an entry point names, or None and why it could not be imported."""
    try:
        part = entry.load()
    except (Exception, SystemExit) as error:  # whatever an import does, the other packages stay usable
        return None, f"{type(error).__name__}: {error}"
    return (part, "") if isinstance(part, System) else (None, f"is a {type(part).__name__}, expected a System")


def system(slug: str) -> System:
    """The merged system of all packages that register parts of `slug`; only their modules are imported.

    A part that cannot be imported is recorded in `System.failures` and leaves the others usable.

    Raises:
        ValueError: two packages register the same component, or both declare the paper.
    """
    return merged(slug, entries(slug))


def merged(slug: str, parts: Iterable[EntryPoint]) -> System:
    """`system`, from entry points that are at hand."""
    holders: dict[str, Component | str] = {}
    failures: dict[str, str] = {}
    whole = System(slug)
    for entry in parts:
        part, failure = load_entry(entry)
        if part is None:
            failures[entry.value] = failure
            continue
        for key, holder in _holders(part.components).items():
            if key in holders:
                raise ValueError(f"{slug}: component {key!r} is registered twice, the second time by {entry.value}")
            holders[key] = holder
        if part.paper is not None and whole.paper is not None:
            raise ValueError(f"{slug}: its paper is declared twice, the second time by {entry.value}")
        whole = replace(
            whole,
            paper=whole.paper or part.paper,
            page=whole.page or part.page,
            examples={**whole.examples, **part.examples},
            limits={**whole.limits, **part.limits},
            pages={**whole.pages, **part.pages},
            attentions={**whole.attentions, **part.attentions},
            converters={**whole.converters, **part.converters},
            inserts={**whole.inserts, **part.inserts},
            aliases={**whole.aliases, **part.aliases},
        )
    return replace(whole, components=Components(holders), failures=failures)


def _holders(components: Components | Mapping[str, Component]) -> Mapping[str, Component | str]:
    """Where components stand, without importing any."""
    if isinstance(components, Components):
        return components.holders
    return components
