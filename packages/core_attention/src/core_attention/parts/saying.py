"""What a layer says once, however often it runs: sizes that were clamped or filled up."""

import logging
from functools import cache

import torch

_LOG = logging.getLogger("core_attention")


def can_say() -> bool:
    """Whether a remark would reach anyone: not while a graph is made, where looking at a size would fix it."""
    return not torch.compiler.is_compiling()


@cache
def say_once(message: str) -> None:
    """Logs a warning unless the same was said before in this process."""
    _LOG.warning("%s", message)
