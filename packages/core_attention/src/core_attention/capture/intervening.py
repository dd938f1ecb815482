"""Heads and modules changed for the length of a block: gated, ablated or patched by name; everything is restored, also after an exception.

::

    with ablate(model, [(11, 3), ("blocks.2.attn", 0)]):
        y = model(x)                       # without two heads
    with gate(model, gates):               # (layers, heads), gradients included
        model(x)
    with patch(model, {"blocks.4.mlp": lambda output: output * 0}):
        model(x)

A head is gated before the output projection, whose bias stays: a gate of 0 takes the head's part out of the sum and nothing else, a gate of
1 changes no bit. The fast kernel stays in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

PROJECTIONS = ("proj", "out_proj", "o_proj", "c_proj", "to_out", "to_out.0", "out")
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")


@dataclass(frozen=True)
class HeadLayer:
    """An attention layer whose heads can be told apart.

    Attributes:
        name: of the attention module.
        projection: the linear layer that takes the heads' outputs side by side.
        heads: their number.
    """

    name: str
    projection: nn.Linear
    heads: int


def head_layers(model: nn.Module) -> list[HeadLayer]:
    """The attention layers of a model in their order, as far as their output projection is a module that is called.

    Those of timm, of transformers and of `core_attention` are; `nn.MultiheadAttention` reads its projection's weights itself and is left out.
    """
    modules = dict(model.named_modules())
    layers = []
    for name, module in modules.items():
        if isinstance(module, nn.MultiheadAttention):
            continue
        count = next((getattr(module, key) for key in COUNTS if isinstance(getattr(module, key, None), int)), None)
        if not count:
            continue
        candidates = [f"{name}.{key}" if name else key for key in PROJECTIONS]
        # of transformers' older classes the projection stands beside the attention
        candidates.append(f"{name.rpartition('.')[0]}.output.dense")
        projection = next((modules[key] for key in candidates if isinstance(modules.get(key), nn.Linear)), None)
        if isinstance(projection, nn.Linear) and projection.in_features % count == 0:
            layers.append(HeadLayer(name, projection, count))
    return layers


def _layer(layers: Sequence[HeadLayer], wanted: int | str) -> HeadLayer:
    names = [layer.name for layer in layers]
    if isinstance(wanted, str):
        if wanted in names:
            return layers[names.index(wanted)]
        near = ", ".join(get_close_matches(wanted, names, 3)) or "none"
        raise ValueError(f"no attention layer {wanted!r} whose heads can be gated; near it: {near}")
    if not 0 <= wanted < len(layers):
        raise ValueError(f"layer {wanted} of {len(layers)} attention layers whose heads can be gated")
    return layers[wanted]


@contextmanager
def _scaled(layers: Sequence[HeadLayer], gates: Sequence[Tensor]) -> Iterator[None]:
    """The heads' outputs of each layer times its gates."""

    def hook_of(layer: HeadLayer, of_layer: Tensor) -> Callable[..., Any]:
        def scale(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *rest = args
            heads = x.unflatten(-1, (layer.heads, -1))
            return (heads * of_layer.to(x)[:, None]).flatten(-2), *rest

        return scale

    with ExitStack() as cleanup:
        for layer, of_layer in zip(layers, gates, strict=True):
            if bool((of_layer.detach() == 1).all()) and not of_layer.requires_grad:
                continue
            hook = layer.projection.register_forward_pre_hook(hook_of(layer, of_layer))
            cleanup.callback(hook.remove)
        yield


@contextmanager
def gate(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Every head's output times its gate while the block runs.

    Args:
        model: any with `head_layers`.
        gates: (layers, heads); gradients reach it.

    Raises:
        ValueError: the model has no such layers, or the shape does not fit; both shapes are said.
    """
    layers = head_layers(model)
    if not layers:
        raise ValueError(f"no attention layer of this {type(model).__name__} has heads that can be gated")
    counts = {layer.heads for layer in layers}
    if gates.ndim != 2 or len(gates) != len(layers) or counts != {gates.shape[1]}:
        heads = ", ".join(str(count) for count in sorted(counts))
        raise ValueError(f"needs gates of {len(layers)} layers × {heads} heads, got {tuple(gates.shape)}")
    with _scaled(layers, list(gates)):
        yield


@contextmanager
def ablate(model: nn.Module, heads: Sequence[tuple[int | str, int]]) -> Iterator[None]:
    """Some heads give 0 while the block runs.

    Args:
        model: any with `head_layers`.
        heads: (layer, head); a layer by its number in `head_layers` or its name.

    Raises:
        ValueError: there is no such layer or head.
    """
    layers = head_layers(model)
    gates = [torch.ones(layer.heads) for layer in layers]
    for layer_name, head in heads:
        layer = _layer(layers, layer_name)
        if not 0 <= head < layer.heads:
            raise ValueError(f"head {head} of layer {layer.name}, which has {layer.heads}")
        gates[layers.index(layer)][head] = 0
    with _scaled(layers, gates):
        yield


@contextmanager
def patch(model: nn.Module, outputs: Mapping[str, Tensor | Callable[[Any], Any]]) -> Iterator[None]:
    """Outputs of modules replaced while the block runs.

    Args:
        model: any.
        outputs: name of a module → what it gives instead: a tensor of the same shape, or a function of its output.

    Raises:
        ValueError: the model has no such module (names near it are said), or a tensor has another shape than what it replaces.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in outputs if name not in modules]
    if unknown:
        near = ", ".join(get_close_matches(unknown[0], modules, 3)) or "none"
        raise ValueError(f"the model has no module {unknown[0]!r}; near it: {near}")

    def hook_of(name: str, given: Tensor | Callable[[Any], Any]) -> Callable[..., Any]:
        def replace(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(given, Tensor):
                return given(output)
            if isinstance(output, Tensor) and output.shape != given.shape:
                raise ValueError(f"{name} gives {tuple(output.shape)}, patched with {tuple(given.shape)}")
            return given

        return replace

    with ExitStack() as cleanup:
        for name, given in outputs.items():
            hook = modules[name].register_forward_hook(hook_of(name, given))
            cleanup.callback(hook.remove)
        yield
