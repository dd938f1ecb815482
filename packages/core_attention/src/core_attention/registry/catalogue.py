"""What can be looked up by name: papers, examples to price and time, attention functions, converters, attention for feature maps.

Every name stands in the `System` that declares it, whichever package that is in. `find` imports only as many declarations as it needs;
`declared` imports all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal

from core_attention.registry import systems
from core_attention.registry.systems import Paper, System

Kind = Literal["examples", "attentions", "converters", "inserts"]


@dataclass(frozen=True)
class Entry:
    """A declared name.

    Attributes:
        slug: the system that declares it.
        target: the object, or its import path ``"module:name"``.
        page: the page that describes it, as `System` declares it.
    """

    slug: str
    target: Any
    page: str | None

    def load(self) -> Any:
        """The declared object; imports its module."""
        return load(self.target)


def load(target: Any) -> Any:
    """An object, or what its import path ``"module:name"`` names."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def declared(kind: Kind) -> dict[str, Entry]:
    """All names of a kind, sorted. Declarations that cannot be imported are left out; `core-attention list` names them.

    Raises:
        ValueError: two systems declare the same name.
    """
    by_name: dict[str, Entry] = {}
    for system in _systems(None):
        for name, entry in _entries(system, kind):
            if name in by_name:
                raise ValueError(f"{kind}: {name!r} is declared by {by_name[name].slug} and by {system.slug}")
            by_name[name] = entry
    return dict(sorted(by_name.items()))


def find(kind: Kind, name: str) -> Entry | None:
    """The entry of one name, of its alias, or of either in other capitals or with other dashes; None if no system declares it."""
    for system in _systems(name):
        for other, entry in _entries(system, kind):
            if other == name:
                return entry
    for system in _systems(name):
        for other, entry in _entries(system, kind):
            if _spelling(other, system) == _spelling(name, system):
                return entry
    return None


def _spelling(name: str, system: System) -> str:
    """What all spellings of one name in a system have in common."""
    plain = _plain(name)
    for alias, meaning in system.aliases.items():
        if plain == _plain(alias):
            return _plain(meaning)
    return plain


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def papers() -> dict[str, Paper]:
    """Every published system that is declared, by slug; imports all declarations."""
    by_slug: dict[str, Paper] = {}
    for slug, parts in systems.entries_by_slug().items():
        paper = systems.merged(slug, parts).paper
        if paper is not None:
            by_slug[slug] = paper
    return by_slug


def not_among(name: str, known: list[str], use: str) -> str:
    """What to say of a name that is not `known`: a mechanism that has no such `use`, or none at all."""
    if name not in known and find("examples", name) is not None:
        return f"{name!r} is a mechanism that cannot be {use}: one of {', '.join(known)} can"
    return f"unknown mechanism {name!r}{nearest(name, known)}: one of {', '.join(known)}"


def nearest(name: str, known: list[str]) -> str:
    """`` (did you mean 'ela'?)``, or nothing where no known name is near."""
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _systems(name: str | None) -> Iterator[System]:
    """The declarations, one after the other; those whose slug begins `name` first, since they are the likely ones."""
    entries = systems.entries()
    if name is not None:
        entries.sort(key=lambda entry: not name.startswith(entry.name))
    for entry in entries:
        part, _ = systems.load_entry(entry)
        if part is not None:
            yield part


def _entries(system: System, kind: Kind) -> Iterator[tuple[str, Entry]]:
    for name, target in getattr(system, kind).items():
        yield name, Entry(system.slug, target, system.pages.get(name, system.page))
