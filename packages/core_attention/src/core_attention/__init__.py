"""Published attention mechanisms, verified against the published code: one call, typed masks, maps out of fused paths."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core_attention.attention import Explanation, attention, explain, explain_shapes
    from core_attention.capture.capture import capture
    from core_attention.masks import (
        Additive,
        Alibi,
        Blocks,
        Causal,
        Dense,
        Factorised,
        KeyLengths,
        Mask,
        Not,
        RelativePosition,
        Segments,
        Window,
    )
    from core_attention.pretrained.conversions import conversions
    from core_attention.pretrained.convert import convert_again, convert_model
    from core_attention.pretrained.insert import insert, inserted, remove
    from core_attention.pretrained.transformers import register_with_transformers
    from core_attention.routed.attention import merge_attention, routed_attention

__all__ = [
    "Additive",
    "Alibi",
    "Blocks",
    "Causal",
    "Dense",
    "Explanation",
    "Factorised",
    "KeyLengths",
    "Mask",
    "Not",
    "RelativePosition",
    "Segments",
    "Window",
    "attention",
    "capture",
    "conversions",
    "convert_again",
    "convert_model",
    "explain",
    "explain_shapes",
    "insert",
    "inserted",
    "merge_attention",
    "register_with_transformers",
    "remove",
    "routed_attention",
]
# where each name is, imported on first use: the command answers --help without torch
_MODULES = {
    "attention": "attention",
    "explain": "attention",
    "explain_shapes": "attention",
    "Explanation": "attention",
    "capture": "capture.capture",
    "conversions": "pretrained.conversions",
    "convert_again": "pretrained.convert",
    "convert_model": "pretrained.convert",
    "insert": "pretrained.insert",
    "inserted": "pretrained.insert",
    "remove": "pretrained.insert",
    "register_with_transformers": "pretrained.transformers",
    "merge_attention": "routed.attention",
    "routed_attention": "routed.attention",
}
_SUBMODULES = (
    "backends",
    "checkpoints",
    "factorised",
    "masks",
    "mechanisms",
    "pooling",
    "pretrained",
    "routed",
    "systems",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # not above: `--help` needs no reader of metadata

        try:
            return version("attention-suite-core-attention")
        except PackageNotFoundError:  # sources that nobody installed
            return "unknown"
    if name in _SUBMODULES:
        return import_module(f"core_attention.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'core_attention' has no attribute {name!r}")
    value = getattr(import_module(f"core_attention.{_MODULES.get(name, 'masks')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    dunders = [name for name in globals() if name.startswith("__")]
    return sorted({*dunders, *__all__, *_SUBMODULES, "__version__"})


class _Package(ModuleType):
    """Keeps `attention` and `capture` the functions of these names.

    Python binds a submodule to its package when it is imported, in place of whatever has its name. `from core_attention.attention
    import explain` works all the same, for the import system finds modules in `sys.modules`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
