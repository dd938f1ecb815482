"""Published attention mechanisms, verified against the published code: one call, typed masks, maps out of fused paths."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core_attention.attention import attention
    from core_attention.capture.capture import capture
    from core_attention.pretrained.insert import insert, inserted, remove
    from core_attention.pretrained.transformers import register_with_transformers

_MODULES = {
    "attention": "attention",
    "capture": "capture.capture",
    "insert": "pretrained.insert",
    "inserted": "pretrained.insert",
    "register_with_transformers": "pretrained.transformers",
    "remove": "pretrained.insert",
}
__all__ = ["attention", "capture", "insert", "inserted", "register_with_transformers", "remove"]


class _Package(ModuleType):
    """Imports what the package offers on first use, so that the command answers ``--help`` without torch.

    `attention` and `capture` are functions, and modules of the same name: a module-level ``__getattr__`` would give the module once that is
    imported.
    """

    def __getattribute__(self, name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"core_attention.{_MODULES[name]}"), name)
        return super().__getattribute__(name)


sys.modules[__name__].__class__ = _Package
