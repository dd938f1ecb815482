"""Published attention mechanisms, verified against the published code: one call, typed masks, maps out of fused paths."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core_attention.attention import attention
    from core_attention.capture import capture
    from core_attention.huggingface import register_with_transformers
    from core_attention.insert import insert, inserted, remove

__all__ = ["attention", "capture", "insert", "inserted", "register_with_transformers", "remove"]
# the module of a name that is not called like its module
_HOME = {"inserted": "insert", "register_with_transformers": "huggingface", "remove": "insert"}


class _Package(ModuleType):
    """Imports what the package offers on first use, so that the command answers ``--help`` without torch.

    Most names are functions in a module of the same name: a module-level ``__getattr__`` would give the module once that is imported.
    """

    def __getattribute__(self, name: str) -> Any:
        if name in __all__:
            return getattr(import_module(f"core_attention.{_HOME.get(name, name)}"), name)
        return super().__getattribute__(name)


sys.modules[__name__].__class__ = _Package
