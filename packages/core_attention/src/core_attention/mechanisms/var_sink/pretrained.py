"""Visual attention redistribution in pretrained multimodal models of transformers, on their own fast attention.

::

    with VisualAttentionRedistribution(model, dims=(1415, 2533)) as var:
        model.generate(**inputs)
    var.edited_share

Every layer's attention runs as before; then the few rows behind the picture are looked at again, and what the rule moves is added to
their outputs. Sinks belong to one prompt: a new prompt (a forward pass with an empty cache) finds its own, each sample of a batch for
itself. On leaving, also by an exception, the model is as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from core_attention.capture.recording import active, paused, record
from core_attention.mechanisms.var_sink.redistribution import Rule, behind_image, changes, redistribute, select
from core_attention.mechanisms.var_sink.rows import row_weights, times_values, visible_rows
from core_attention.mechanisms.var_sink.sinks import TAU, check_dims, find_sinks

ROWS = 64  # queries looked at at once
PREFIX = "var_sink_over_"  # of the names under which transformers finds the edited attention functions


@dataclass
class Layer:
    """One decoder layer while a prompt is processed.

    Attributes:
        number: its place.
        sinks: of the prompt, (batch, keys so far); generated tokens are never sinks.
        image: picture tokens, likewise.
        first: position of the current first query among the keys.
        editable: queries of the current forward pass that may be edited.
        in_use: whether some sample has a picture token that is a sink.
    """

    number: int
    sinks: Tensor | None = None
    image: Tensor | None = None
    first: int = 0
    editable: Tensor | None = None
    in_use: bool = False

    def masks(self, keys: int) -> tuple[Tensor, Tensor]:
        """Picture and sink masks over all keys; a static cache has room behind them."""
        assert self.image is not None
        assert self.sinks is not None
        room = keys - self.image.shape[1]
        return nn.functional.pad(self.image, (0, room)), nn.functional.pad(self.sinks, (0, room))


@dataclass
class Counts:
    """(head, query) pairs that were edited, of those that might have been, by layer."""

    edited: dict[int, int] = field(default_factory=dict)
    editable: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, edited: int, editable: int) -> None:
        self.edited[layer] = self.edited.get(layer, 0) + edited
        self.editable[layer] = self.editable.get(layer, 0) + editable


_layers: WeakKeyDictionary[nn.Module, tuple[VisualAttentionRedistribution, Layer]] = WeakKeyDictionary()


class VisualAttentionRedistribution:
    """Applies the rule to a model inside a ``with`` block.

    Args:
        model: a multimodal model of transformers (LLaVA, Qwen2-VL, Qwen2.5-VL, InternVL …), or its language model alone.
        dims: residual dimensions in which this model's sinks are massive; see `find_sink_dims`.
        tau: the threshold of φ.
        rule: which heads are edited, and how much.
        first_layer: sinks appear after the first two layers.
        skip_last_layer: leave the last layer alone, as the paper says; the published code edits it.
        image_mask: (batch, tokens) picture tokens of the prompt, where the model is given embeddings instead of token ids.

    Attributes:
        counts: what was edited, over everything that ran inside the block.

    Raises:
        ValueError: dimensions and τ that can find nothing, a compiled model, one whose layers are not found, or one that is in another
            such block.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dims: tuple[int, ...],
        tau: float = TAU,
        rule: Rule = Rule(),
        first_layer: int = 2,
        skip_last_layer: bool = True,
        image_mask: Tensor | None = None,
    ):
        if type(model).__name__ == "OptimizedModule" or getattr(model, "_compiled_call_impl", None) is not None:
            raise ValueError(
                "var_sink: a compiled model runs no Python that could be edited; give the model it was made from"
            )
        self.model, self.dims, self.tau, self.rule = model, tuple(dims), tau, rule
        self.image_mask = image_mask
        self.language_model = language_model_of(model)
        check_dims(self.language_model.config.hidden_size, dims, tau)
        layers: Any = self.language_model.layers
        stop = len(layers) - 1 if skip_last_layer else len(layers)
        self.layers = {number: Layer(number) for number in range(first_layer, stop)}
        self.counts = Counts()
        self._fresh: Tensor | None = None  # picture tokens of the current forward pass
        self._tokens: Tensor | None = None  # which of its tokens are not padding
        self._cleanup = ExitStack()

    @property
    def edited_share(self) -> float:
        """Share of (head, query) pairs behind pictures that were edited, over the layers in reach."""
        possible = sum(self.counts.editable.values())
        return sum(self.counts.edited.values()) / possible if possible else 0.0

    def sinks(self, layer: int) -> Tensor | None:
        """The sinks of the latest prompt in a layer, (batch, tokens so far); None where the layer is not in reach."""
        return self.layers[layer].sinks if layer in self.layers else None

    def __enter__(self) -> VisualAttentionRedistribution:
        if self.rule.keep_fraction == 1:  # nothing would move: the model runs as it is
            return self
        with ExitStack() as cleanup:
            hook = self.model.register_forward_pre_hook(self._enter_model, with_kwargs=True)
            cleanup.callback(hook.remove)
            blocks: Any = self.language_model.layers
            for number, layer in self.layers.items():
                attention = blocks[number].self_attn
                if attention in _layers:
                    raise ValueError("var_sink: this model is in another redistribution already")
                _layers[attention] = self, layer
                cleanup.callback(_layers.pop, attention)
                hook = blocks[number].register_forward_pre_hook(self._enter_layer(layer), with_kwargs=True)
                cleanup.callback(hook.remove)
            config: Any = self.language_model.config
            before = config._attn_implementation
            config._attn_implementation_internal = register_over(before)
            cleanup.callback(setattr, config, "_attn_implementation_internal", before)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def _enter_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else (args[0] if args else None)
        if ids is not None:
            token = image_token(self.model.config)
            self._fresh = ids == token if token is not None else torch.zeros_like(ids, dtype=torch.bool)
        else:
            self._fresh = None
        mask = kwargs.get("attention_mask")
        self._tokens = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def _enter_layer(self, layer: Layer) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            cache = kwargs.get("cache", kwargs.get("past_key_values"))
            first = int(cache.get_seq_length(layer.number)) if cache is not None else 0
            self._see(layer, hidden, first)

        return hook

    def _see(self, layer: Layer, hidden: Tensor, first: int) -> None:
        """Finds the sinks of a prompt, or of the part of it that comes now; generated tokens are none."""
        batch, count, _ = hidden.shape
        image = self._image_tokens(batch, count, first)
        if first and count == 1:
            sinks = torch.zeros(batch, 1, dtype=torch.bool, device=hidden.device)
        else:
            sinks = find_sinks(hidden, self.dims, self.tau)
            if self._tokens is not None and self._tokens.shape[1] >= first + count:
                sinks = sinks & self._tokens[:, first : first + count]
        if first:
            known = layer.image
            if known is None or layer.sinks is None or known.shape[1] < first or known.shape[0] != batch:
                raise ValueError(
                    "var_sink: the cache holds tokens that were not processed inside this block; start with the whole prompt"
                )
            image = torch.cat([known[:, :first], image], 1)
            sinks = torch.cat([layer.sinks[:, :first], sinks], 1)
        layer.image, layer.sinks, layer.first = image, sinks, first
        layer.editable = behind_image(image)[:, first:]
        if not (first and count == 1):
            layer.in_use = bool((image & sinks).any())

    def _image_tokens(self, batch: int, count: int, first: int) -> Tensor:
        if self.image_mask is not None:
            given = self.image_mask[:, first : first + count].bool()
            if given.shape[0] != batch:
                raise ValueError(f"var_sink: image_mask is of {given.shape[0]} samples, the model runs {batch}")
            given = nn.functional.pad(given, (0, count - given.shape[1]))
            return given.to(next(self.language_model.parameters()).device)
        if self._fresh is None:
            raise ValueError(
                "var_sink: the model was given embeddings, so the picture tokens are not known; give image_mask"
            )
        return self._fresh

    def edit(self, layer: Layer, call: Call, out: Tensor) -> Tensor:
        """The outputs (batch, queries, heads, dim) of a layer, edited; rows that are not selected stay bit by bit."""
        editable = layer.editable
        assert editable is not None
        places = editable.any(0).nonzero()
        if not len(places):
            return out
        heads, queries = call.query.shape[1], call.query.shape[2]
        edited = torch.zeros((), dtype=torch.long, device=out.device)
        if layer.in_use:
            image, sinks = layer.masks(call.key.shape[2])
            out = out.clone() if out.requires_grad else out
            for start in range(int(places[0]), queries, ROWS):
                rows = slice(start, min(start + ROWS, queries))
                weights = call.weights(rows, layer.first)
                selected = select(weights, image, sinks, editable[:, rows], self.rule)
                delta = times_values(changes(weights, image, sinks, selected, self.rule), call.value)
                moved = torch.where(selected[..., None], delta, 0.0).transpose(1, 2)
                out[:, rows] = (out[:, rows] + moved).to(out.dtype)
                edited += selected.sum()
        self.counts.add(layer.number, int(edited), int(editable.sum()) * heads)
        return out

    def edited_weights(self, layer: Layer, call: Call, rows: slice) -> tuple[Tensor, Tensor]:
        """Weights of some rows after the edit, and which (head, row) pairs were edited."""
        image, sinks = layer.masks(call.key.shape[2])
        assert layer.editable is not None
        weights = call.weights(rows, layer.first)
        return redistribute(weights, image, sinks, layer.editable[:, rows], self.rule)


@dataclass(frozen=True)
class Call:
    """One call of an attention function by a layer of transformers."""

    query: Tensor
    key: Tensor
    value: Tensor
    attention_mask: Any
    scale: float
    window: int | None

    def weights(self, rows: slice, first: int) -> Tensor:
        """The softmax of some rows."""
        keys = self.key.shape[2]
        visible = visible_rows(
            self.attention_mask, rows, first=first, keys=keys, window=self.window, device=self.query.device
        )
        return row_weights(self.query[:, :, rows], self.key, visible, self.scale)


def register_over(implementation: str) -> str:
    """Makes an attention function known to transformers that runs `implementation` and then edits; returns its name."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    if implementation == "flex_attention":
        raise ValueError(
            "var_sink: masks of flex attention cannot be read; load the model with attn_implementation='sdpa'"
        )
    name = PREFIX + implementation
    if name in ALL_ATTENTION_FUNCTIONS:
        return name

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        own = sys.modules[type(module).__module__]
        eager: Any = getattr(own, "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
        if module not in _layers:  # layers out of reach, and vision towers
            return function(module, query, key, value, attention_mask, *rest, **options)
        for given in ("softcap", "s_aux", "position_bias"):
            if options.get(given) is not None:
                raise ValueError(f"var_sink: {type(module).__name__} asks for {given}=, which the edit does not know")
        with paused():
            out, weights = function(module, query, key, value, attention_mask, *rest, **options)
        redistribution, layer = _layers[module]
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        call = Call(query, key, value, attention_mask, scale, options.get("sliding_window"))
        out = redistribution.edit(layer, call, out)
        if weights is not None:
            weights, _ = redistribution.edited_weights(layer, call, slice(0, query.shape[2]))
        if active():
            _record(redistribution, layer, call)
        return out, weights

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _record(redistribution: VisualAttentionRedistribution, layer: Layer, call: Call) -> None:
    """Shows captures the edited weights, and which rows were edited (kind "edited")."""
    batch, heads, queries, _ = call.query.shape
    keys = call.key.shape[2]

    def rows_of(rows: Tensor, heads: Tensor, kind: int) -> Tensor:
        taken = []
        for row in rows.tolist():
            taken.append(redistribution.edited_weights(layer, call, slice(row, row + 1))[kind][:, heads])
        return torch.cat(taken, 2)

    device = call.query.device
    record("weights", lambda rows, heads: rows_of(rows, heads, 0), shape=(batch, heads, queries, keys), device=device)
    record(
        "edited",
        lambda rows, heads: rows_of(rows, heads, 1)[..., None],
        shape=(batch, heads, queries, 1),
        device=device,
    )


def language_model_of(model: nn.Module) -> Any:
    """The decoder of a multimodal model: the module with the text configuration and the layers.

    Raises:
        ValueError: none is found.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if getattr(module, "config", None) is not text or not isinstance(layers, nn.ModuleList):
            continue
        if len(layers) and hasattr(layers[0], "self_attn"):
            return module
    raise ValueError(
        f"var_sink: {type(model).__name__} has no decoder layers with self_attn under its text configuration; "
        "see docs/vision-language.md, how to add a model family"
    )


def image_token(config: Any) -> int | None:
    """The id that stands for picture tokens in a prompt; None of a model without pictures."""
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if token is not None:
            return int(token)
    return None
