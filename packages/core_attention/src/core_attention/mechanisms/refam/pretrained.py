"""Collects text columns while a diffusion transformer of diffusers runs, on its fused kernel and without a map of all tokens.

::

    with collect(transformer, [tokens]) as collected:
        transformer(hidden_states=…, encoder_hidden_states=…, …)
    found = heatmap(collected[0].cross, tokens, grid)

The model's own attention processors stay: torch's call of attention inside the chosen layers is answered with the same result and the
log-sum-exp of its rows, from which the text columns follow. Fused projections, adapters and other processors change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core_attention.attention import attention
from core_attention.masks import Additive, Dense, Mask
from core_attention.mechanisms.refam.cross_maps import CrossMap, Renormalise, cross_map
from core_attention.mechanisms.refam.families import Family, family_of, split
from core_attention.mechanisms.refam.heatmap import Accumulated, Cleaner, TextTokens

# called with the layer's name, the sample's number and its text columns (1, …)
Take = Callable[[str, int, CrossMap], None]


class _Finished(Exception):
    """Leaves the model after the last layer that is wanted."""


class _Watch(TorchFunctionMode):
    """Answers attention inside the layer that is running, and hands its text columns on."""

    def __init__(self, family: Family, take: Take, renormalise: Renormalise) -> None:
        super().__init__()
        self.family, self.take = family, take
        self.renormalise: Renormalise = renormalise
        self.layer: str | None = None
        self.image = 0  # picture tokens of the running layer
        self.calls = 0  # of attention in the running layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.layer is None or func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        assert self.layer is not None
        if query.ndim != 4 or is_causal or query.shape[2] != key.shape[2]:
            raise ValueError(
                f"refam: {self.layer} attends from {tuple(query.shape)} to {tuple(key.shape)}, causal={is_causal}; "
                "joint attention is over all tokens at once"
            )
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        out, lse = attention(
            query, key, value, mask=_typed(attn_mask), scale=factor, dropout=dropout_p, return_lse=True
        )
        with torch.no_grad():
            self._collect(query, key, lse, factor, attn_mask)
        return out

    def _collect(self, query: Tensor, key: Tensor, lse: Tensor, scale: float, mask: Tensor | None) -> None:
        assert self.layer is not None
        if mask is not None and not _sees_all(mask):
            raise ValueError(
                f"refam: {self.layer} has an attention mask; text columns of masked attention are not read"
            )
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1) if key.shape[1] != query.shape[1] else key
        image, text = split(self.family, query.shape[2], self.image)
        for place in range(query.shape[0]):  # one sample at a time: the memory of one
            sample = slice(place, place + 1)
            columns = cross_map(
                query[sample],
                key[sample],
                lse[sample],
                image=image,
                text=text,
                scale=scale,
                renormalise=self.renormalise,
            )
            self.take(self.layer, self.calls if self.family.per_sample else place, columns)
        self.calls += 1


def _typed(mask: Tensor | None) -> Mask | None:
    if mask is None or _sees_all(mask):
        return None
    return Dense(mask) if mask.dtype == torch.bool else Additive(mask)


def _sees_all(mask: Tensor) -> bool:
    return bool(mask.all()) if mask.dtype == torch.bool else not bool(mask.any())


@contextmanager
def watch(
    model: nn.Module,
    take: Take,
    *,
    layers: Sequence[str] | None = None,
    renormalise: Renormalise = "none",
    stop: bool = False,
) -> Iterator[None]:
    """Hands the text columns of chosen layers to `take` while the model runs inside the block.

    Args:
        model: a transformer of a known family (`core_attention.mechanisms.refam.families`).
        take: called for each layer and sample.
        layers: names; None: the family's default.
        renormalise: see `cross_map`.
        stop: leave the model, and the block, after the last of the layers; the model's output is then not there.

    Raises:
        ValueError: an unknown model or layer, a compiled model, or a layer that attends without torch's function.
    """
    if type(model).__name__ == "OptimizedModule" or getattr(model, "_compiled_call_impl", None) is not None:
        raise ValueError(
            "refam: a compiled model runs no Python that could be watched; give the model it was made from"
        )
    family = family_of(model)
    joint = [name for kind in family.layers(model) for name in kind]
    watched = family.default_layers(model) if layers is None else list(layers)
    unknown = [name for name in watched if name not in joint]
    if unknown or not watched:
        raise ValueError(
            f"refam: no joint attention layer {', '.join(unknown) or 'chosen'}; there are {', '.join(joint)}"
        )
    last = max(watched, key=joint.index)
    mode = _Watch(family, take, renormalise)
    text_tokens = 0

    def enter_model(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal text_tokens
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
        text_tokens = text.shape[1]

    def enter(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            two_streams = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None) is not None
            mode.layer, mode.calls = name, 0
            mode.image = hidden.shape[1] if two_streams else hidden.shape[1] - text_tokens

        return hook

    def leave(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            mode.layer = None
            if output is None:  # it raised
                return
            if not mode.calls:
                raise ValueError(
                    f"refam: {name} attended without torch's scaled_dot_product_attention; "
                    'call model.set_attention_backend("native")'
                )
            if stop and name == last:
                raise _Finished

        return hook

    with ExitStack() as cleanup:
        cleanup.callback(model.register_forward_pre_hook(enter_model, with_kwargs=True).remove)
        for name in watched:
            module = model.get_submodule(name)
            cleanup.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
            cleanup.callback(module.register_forward_hook(leave(name), always_call=True).remove)
        cleanup.enter_context(mode)
        with suppress(_Finished):
            yield


@contextmanager
def collect(
    model: nn.Module,
    tokens: Sequence[TextTokens],
    *,
    cleaner: Cleaner = Cleaner(),
    layers: Sequence[str] | None = None,
    renormalise: Renormalise = "none",
    stop: bool = True,
) -> Iterator[list[Accumulated]]:
    """Accumulates the cleaned text columns of every sample: one (picture tokens, text tokens) buffer each, whatever the layers.

    Several forward passes (several noises) inside one block are averaged; with `stop` the block ends with the first.

    Args:
        model: a transformer of a known family.
        tokens: of each sample of the batch, what its text tokens are.
        cleaner: how sinks are handled.
        layers, renormalise, stop: see `watch`.

    Raises:
        ValueError: see `watch`; a batch of another size than `tokens`, or words beyond the prompt.
    """
    collected = [Accumulated(sample, cleaner) for sample in tokens]

    def take(layer: str, sample: int, columns: CrossMap) -> None:
        if sample >= len(collected):
            raise ValueError(f"refam: the model runs more samples than the {len(collected)} whose tokens are given")
        words = collected[sample].tokens.words
        furthest = max(position for positions in words for position in positions)
        if furthest >= columns.load.shape[1]:
            raise ValueError(f"refam: a word stands at token {furthest} of a prompt of {columns.load.shape[1]}")
        collected[sample].add(layer, columns.cross[0], columns.load[0])

    with watch(model, take, layers=layers, renormalise=renormalise, stop=stop):
        yield collected
