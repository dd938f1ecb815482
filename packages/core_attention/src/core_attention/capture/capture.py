"""Attention maps out of fused paths: the rows, heads and layers asked for, computed beside the untouched fast kernel.

::

    with capture(model, layers="blocks.*.attn", rows=[0]) as maps:
        y = model(x)                      # the same kernel, the same bits
    maps["blocks.11.attn"]                # (batch, heads, 1, keys): what the class token looks at

It sees `core_attention` mechanisms, `torch.nn.functional.scaled_dot_product_attention` wherever it is called from (timm and most
other libraries), `nn.MultiheadAttention` and the fused path of `nn.TransformerEncoderLayer`, the attention functions of transformers,
and timm's layers without a fused path. A mechanism of ours shows its map with one line (see `record`)::

    record("weights", lambda rows, heads: my_weights(q[:, heads][:, :, rows], k), shape=(b, h, n, m), device=q.device)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from core_attention.capture.recording import paused, recording, sessions
from core_attention.capture.watching import intercepting

LIMIT = 256 * 2**20  # bytes

Picked = int | slice | Sequence[int] | Tensor | None
Layers = int | str | nn.Module | Sequence[int | str | nn.Module] | None


class Maps(Mapping[str, Tensor]):
    """What a capture recorded: ``maps[layer]`` is the attention weights of the layer's last call.

    Iterates over the layers in the order of their first call. The model itself goes by its class name; outside a model
    (``capture(None)``) the layer is called ``"function"``.
    """

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, list[Tensor]]] = {}

    def __getitem__(self, layer: str) -> Tensor:
        return self.all(layer)[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._taken)

    def __len__(self) -> int:
        return len(self._taken)

    def kinds(self, layer: str) -> tuple[str, ...]:
        """The kinds of maps that `layer` recorded."""
        return tuple(self._layer(layer))

    def all(self, layer: str, kind: str = "weights") -> list[Tensor]:
        """The maps of one kind, one for each call of the layer, each (batch, heads asked for, rows asked for, columns).

        Raises:
            KeyError: the layer recorded nothing of this kind; says what there is.
        """
        kinds = self._layer(layer)
        if kind not in kinds:
            raise KeyError(f"{layer} recorded {', '.join(kinds)}, not {kind!r}")
        return kinds[kind]

    def _layer(self, layer: str) -> dict[str, list[Tensor]]:
        if layer in self._taken:
            return self._taken[layer]
        recorded = ", ".join(self._taken)
        if not recorded:
            recorded = "none: a layer that computes its softmax itself, or is compiled, cannot be seen"
        raise KeyError(f"no attention was seen in {layer!r}; layers seen: {recorded}")

    def _add(self, layer: str, kind: str, taken: Tensor) -> None:
        self._taken.setdefault(layer, {}).setdefault(kind, []).append(taken)


@dataclass(eq=False)
class _Session:
    """One active capture: which layers, heads and rows, and what it holds so far."""

    names: dict[int, str]  # id of a module → its name
    patterns: tuple[str | int, ...] | None
    heads: Picked
    rows: Picked
    kinds: tuple[str, ...] | None
    limit: int
    maps: Maps = field(default_factory=Maps)
    stack: list[nn.Module] = field(default_factory=list)
    held: int = 0
    order: dict[str, int] = field(default_factory=dict)  # attention layers in the order of their first call

    def enter(self, module: nn.Module, args: tuple) -> None:
        if id(module) not in self.names or self not in sessions():
            return
        if self.names[id(module)].endswith(".attn_drop") and isinstance(args[0], Tensor) and args[0].ndim == 4:
            # timm's layers without a fused path hand their weights to this dropout
            full, (b, h, n, m) = args[0], args[0].shape
            self.take("weights", lambda rows, heads: full[:, heads][:, :, rows], (b, h, n, m), full.device, 1)
        self.stack.append(module)

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        # `in` would compare modules by ==
        if any(module is running for running in self.stack) and self in sessions():
            while self.stack.pop() is not module:  # a forward that ended by an exception never left
                pass

    @property
    def layer(self) -> str | None:
        """The name of the innermost module that is running; None outside the model."""
        if not self.names:
            return "function"
        if not self.stack:
            return None
        return self.names[id(self.stack[-1])]

    def selects(self, layer: str) -> bool:
        place = self.order.setdefault(layer, len(self.order))
        if self.patterns is None:
            return True
        for pattern in self.patterns:
            matches = pattern == place if isinstance(pattern, int) else fnmatchcase(layer, pattern)
            if matches:
                return True
        return False

    def take(self, kind: str, compute: Callable, shape: tuple[int, ...], device: torch.device, row_block: int) -> None:
        layer = self.layer
        if layer is None or not self.selects(layer) or (self.kinds is not None and kind not in self.kinds):
            return
        batch, heads, rows, columns = shape
        # gates and blocks that all heads or all rows share have one of them, whichever the user asked for
        shared_heads, shared_rows = heads == 1 and kind != "weights", rows == 1 and kind != "weights"
        head_indices = chosen("heads", self.heads, heads, layer, shared=shared_heads)
        row_indices = chosen("rows", self.rows, rows * row_block, layer, shared=shared_rows)
        if row_block > 1:  # queries → the rows of blocks that hold them
            row_indices = sorted({row // row_block for row in row_indices})
        needed = batch * len(head_indices) * len(row_indices) * columns * 4
        # refused before anything of this size is computed
        if self.held + needed > self.limit:
            raise ValueError(
                f"capture: {kind} of {layer} need {needed / 2**20:.1f} MiB "
                f"({batch} samples × {len(head_indices)} heads × {len(row_indices)} rows × {columns} columns) beside the "
                f"{self.held / 2**20:.1f} MiB held, over the limit of {self.limit / 2**20:.1f} MiB: "
                "ask for fewer rows=, heads= or layers=, or raise limit= (bytes)"
            )
        with torch.no_grad(), paused():
            row_index = torch.tensor(row_indices, device=device)
            head_index = torch.tensor(head_indices, device=device)
            taken = compute(row_index, head_index).detach()
        self.held += taken.numel() * taken.element_size()
        self.maps._add(layer, kind, taken)


def chosen(what: str, picked: Picked, length: int, layer: str, *, shared: bool = False) -> list[int]:
    """The indices below `length` that the user picked: one, several (negative ones count from the end), a slice, or all."""
    if picked is None or shared:
        return list(range(length))
    if isinstance(picked, slice):
        return list(range(length))[picked]
    indices = [picked] if isinstance(picked, int) else [int(index) for index in picked]
    outside = [index for index in indices if not -length <= index < length]
    if outside:
        raise ValueError(f"capture: {what} {outside} asked for, but {layer} has {length}")
    return [index % length for index in indices]


def _layer_patterns(layers: Layers, names: dict[int, str]) -> tuple[str | int, ...] | None:
    """Names, patterns and numbers of the layers that the user asked for; None: all."""
    if layers is None:
        return None
    requests = [layers] if isinstance(layers, int | str | nn.Module) else layers
    patterns: list[str | int] = []
    for request in requests:
        if isinstance(request, nn.Module):
            if id(request) not in names:
                raise ValueError(f"capture: the {type(request).__name__} given as a layer is not part of the model")
            request = names[id(request)]
        if isinstance(request, int) and request < 0:
            raise ValueError(f"capture: layer {request}: attention layers are counted from 0 in the order they run")
        if isinstance(request, str) and not any(fnmatchcase(name, request) for name in names.values()):
            near = ", ".join(get_close_matches(request, list(names.values()), 3, 0.5))
            hint = f"; near: {near}" if near else ""
            raise ValueError(f"capture: no layer is called {request!r}{hint}")
        patterns.append(request)
    return tuple(patterns)


@contextmanager
def capture(
    model: nn.Module | None,
    *,
    layers: Layers = None,
    heads: Picked = None,
    rows: Picked = None,
    kinds: str | Sequence[str] | None = None,
    limit: int = LIMIT,
) -> Iterator[Maps]:
    """Records attention maps of everything that `model` computes inside the ``with`` block, in this thread.

    Outputs stay the same bit by bit: the fused kernel runs as ever, and the rows asked for are computed beside it in float32
    (float64 for float64 tensors), before dropout. Captures may be nested. Nothing stays behind, even after an exception.

    Args:
        model: the model whose layers are wanted; None for plain functions.
        layers: names (``"encoder.*.attn"`` patterns too), modules, or numbers in the order in which attention layers run; None: all.
        heads: which query heads: a number, several, a slice; None: all.
        rows: which queries, likewise; negative ones count from the end.
        kinds: which kinds of maps (``"weights"``, ``"blocks"``, ``"gates"`` …); None: all that a mechanism offers.
        limit: bytes that all maps together may take, at four per number; computing one takes about three times its size meanwhile.

    Yields:
        `Maps`, filled while the block runs.

    Raises:
        ValueError: an unknown layer, a compiled model, and — out of the model's forward — a row or head that does not exist, or maps
            over `limit`; names the bound and how to stay below it.
    """
    names: dict[int, str] = {}
    modules = [] if model is None else model.named_modules()
    for name, module in modules:
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "capture: a compiled model runs no Python that could be watched; capture the model it was made from"
            )
        names[id(module)] = name or type(module).__name__
    if isinstance(kinds, str):
        kinds = (kinds,)
    session = _Session(names, _layer_patterns(layers, names), heads, rows, tuple(kinds) if kinds else None, limit)
    with ExitStack() as cleanup:
        cleanup.enter_context(intercepting())
        # hooks on the modules themselves would switch nn.TransformerEncoderLayer's fused path off; the process-wide ones do not
        cleanup.callback(register_module_forward_pre_hook(session.enter).remove)
        cleanup.callback(register_module_forward_hook(session.leave, always_call=True).remove)
        cleanup.enter_context(recording(session))
        yield session.maps
