"""Layers of a model: the one that Grad-CAM weighs, and what a layer gives while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module while the block runs; the hook is gone afterwards, whatever happens."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hook = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def find_layer(model: nn.Module, name: str | None) -> tuple[str, nn.Module]:
    """The layer whose activation Grad-CAM weighs.

    By default: of a transformer what enters the last block's attention (its first norm), since later patch tokens do not reach a class
    token; of a convolutional network the last convolution's map, after its block.

    Raises:
        ValueError: no such layer; names near it are said. Or none is found.
    """
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            from difflib import get_close_matches

            near = get_close_matches(name, modules, 3)
            words = f"near it: {', '.join(near)}"
            if not near:
                words = f"it has {', '.join(child for child, _ in model.named_children())}"
            raise ValueError(f"the model has no layer {name!r}; {words}")
        return name, modules[name]
    norms = [n for n in modules if n.endswith((".norm1", ".ln_1", ".layernorm_before", ".norm_before"))]
    convolutions = [n for n, m in modules.items() if isinstance(m, nn.Conv2d)]
    if norms and len(norms) >= 2:
        return norms[-1], modules[norms[-1]]
    for candidate in ("layer4", "features", "stages"):
        if candidate in modules and convolutions:
            return candidate, modules[candidate]
    if convolutions:
        return convolutions[-1], modules[convolutions[-1]]
    raise ValueError("no layer for Grad-CAM was found: name one with --layer")
