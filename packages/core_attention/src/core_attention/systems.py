"""What a package needs to register what it holds of a published system, and to look up what is registered."""

from core_attention.registry.systems import (
    Component,
    Config,
    Paper,
    StateDict,
    StateError,
    System,
    components_of,
    entries,
    load_entry,
    load_strictly,
    same,
    same_values,
    slugs,
    system,
)

__all__ = [
    "Component",
    "Config",
    "Paper",
    "StateDict",
    "StateError",
    "System",
    "components_of",
    "entries",
    "load_entry",
    "load_strictly",
    "same",
    "same_values",
    "slugs",
    "system",
]
