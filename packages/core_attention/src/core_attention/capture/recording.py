"""How a mechanism shows its attention map: one call of `record`, which returns at once where no capture is active.

::

    record("weights", lambda rows, heads: my_weights(q[:, heads][:, :, rows], k), shape=(b, h, n, m), device=q.device)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Session(Protocol):
    """An active capture, as what computes attention sees it.

    Attributes:
        stack: the modules of the model that are running, the innermost last.
    """

    stack: list[nn.Module]

    @property
    def layer(self) -> str | None:
        """The name of the innermost module that is running; None outside the model."""
        ...

    def take(self, kind: str, compute: Callable, shape: tuple[int, ...], device: torch.device, row_block: int) -> None:
        """Computes the requested rows and heads of one map and keeps them."""
        ...


class _Thread(threading.local):
    """The captures that are active in this thread; a class attribute is each thread's default."""

    sessions: tuple[Session, ...] = ()
    recorded: int = 0  # maps offered so far


_thread = _Thread()


def active() -> bool:
    """Whether a capture is active in this thread: what is computed only to be recorded goes behind this."""
    return bool(_thread.sessions)


def sessions() -> tuple[Session, ...]:
    """The captures that are active in this thread."""
    return _thread.sessions


def recorded() -> int:
    """How many maps were offered in this thread so far."""
    return _thread.recorded


@contextmanager
def paused() -> Iterator[None]:
    """What is called inside records nothing: for a mechanism that records its own map and computes with another's attention."""
    before, _thread.sessions = _thread.sessions, ()
    try:
        yield
    finally:
        _thread.sessions = before


def record(
    kind: str,
    compute: Callable[[Tensor, Tensor], Tensor],
    *,
    shape: tuple[int, int, int, int],
    device: torch.device | str = "cpu",
    row_block: int = 1,
) -> None:
    """Offers one map of the mechanism that is running to the active captures; without one it returns at once.

    Args:
        kind: what the map is: ``"weights"`` (attention weights after the softmax), ``"blocks"`` (chosen key blocks), ``"gates"``,
            ``"scores"``; a mechanism with several of a kind appends a name (``"weights.cross"``).
        compute: ``compute(rows, heads)`` → (batch, len(heads), len(rows), columns), only these rows and heads; both are 1-D index
            tensors on `device`. It is called at once, without gradients, at most once per capture, and not at all if no capture asks for it.
        shape: (batch, heads, rows, columns) of the whole map, from which the memory bound is computed. A map that all heads or all
            rows share has 1 there.
        device: where the indices are wanted.
        row_block: how many queries one row of the map stands for (block-wise maps): the user asks for queries.
    """
    if not _thread.sessions:
        return
    _thread.recorded += 1
    for session in _thread.sessions:
        session.take(kind, compute, shape, torch.device(device), row_block)


@contextmanager
def recording(session: Session) -> Iterator[None]:
    """What is called inside offers its maps to `session` too."""
    before = _thread.sessions
    _thread.sessions = (*before, session)
    try:
        yield
    finally:
        _thread.sessions = before
