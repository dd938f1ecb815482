"""How `core_attention.capture` sees attention that other libraries compute: their entry points are watched while a capture is active.

Everything leads to `scaled_dot_product_attention`, whose arguments determine the map. Each watcher calls the original with its own
arguments and returns its result. Where torch's own fused modules hide queries and keys inside a kernel, torch's readable
path is walked once more up to that call, and left there before anything is computed.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_attention.backends import reference
from core_attention.capture.recording import active, record, recorded, sessions
from core_attention.masks import Additive, Causal, Dense, KeyLengths, Mask, Window, together

_lock = threading.Lock()
_users = 0
_undo: list[Callable[[], None]] = []


class _Thread(threading.local):
    looking = False  # walking torch's readable path only to see queries and keys
    heads: int | None = None  # query heads of the transformers layer that is calling


_thread = _Thread()


class _QueriesKnown(Exception):
    """Leaves torch's readable path once queries and keys are known."""


@contextmanager
def intercepting() -> Iterator[None]:
    """Watches the entry points while at least one capture is active."""
    global _users
    with _lock:
        if _users == 0:
            _install()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                while _undo:
                    _undo.pop()()


def _install() -> None:
    _replace_everywhere({F.scaled_dot_product_attention: _watch_sdpa, F.multi_head_attention_forward: _watch_mha})
    _replace(torch, "_native_multi_head_attention", _watch_native_mha)
    _replace(torch, "_transformer_encoder_layer_fwd", _watch_encoder_layer)
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is not None and hasattr(modeling.AttentionInterface, "get_interface"):
        _replace(modeling.AttentionInterface, "get_interface", _watch_interface)


def _replace(owner: Any, name: str, watch: Callable[[Callable], Callable]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, wraps(original)(watch(original)))
    _undo.append(lambda: setattr(owner, name, original))


def _replace_everywhere(watches: dict[Callable, Callable[[Callable], Callable]]) -> None:
    """Replaces functions under every name that a loaded module holds them by (``from torch.nn.functional import …``)."""
    watchers: dict[int, tuple[Callable, Callable]] = {}  # by id: what modules hold need not be hashable
    for original, watch in watches.items():
        watchers[id(original)] = original, wraps(original)(watch(original))
    for namespace, name in _find_holders(watchers):
        original, namespace[name] = watchers[id(namespace[name])]
        _undo.append(lambda space=namespace, name=name, original=original: space.__setitem__(name, original))


# how many modules were loaded at the last search, and the (namespace, name) pairs that it gave
_last_search: tuple[int, list[tuple[dict, str]]] = (0, [])


def _find_holders(function_ids: Container[int]) -> list[tuple[dict, str]]:
    """Namespaces of modules, and the names in them, that hold the functions with these ids.

    All modules are searched, but again only once more are loaded: until then only ``__main__``, which a notebook goes on filling.
    """
    global _last_search
    modules = list(sys.modules.values())
    known, previous = _last_search
    holders: list[tuple[dict, str]] = []
    if known == len(modules):
        modules_to_search = [sys.modules["__main__"]]
        for namespace, name in previous:
            if id(namespace.get(name)) in function_ids:
                holders.append((namespace, name))
    else:
        modules_to_search = modules
    for module in modules_to_search:
        namespace = getattr(module, "__dict__", None)
        if not isinstance(namespace, dict) or module.__name__ == __name__:  # what is held here is the original itself
            continue
        names = [name for name, value in list(namespace.items()) if id(value) in function_ids]
        for name in names:
            if not any(namespace is other and name == other_name for other, other_name in holders):
                holders.append((namespace, name))
    _last_search = len(modules), holders
    return holders


def _watch_sdpa(original: Callable) -> Callable:
    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if active():
            _record_call(query, key, _sdpa_mask(attn_mask, is_causal), scale)
        if _thread.looking:
            raise _QueriesKnown
        return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    return scaled_dot_product_attention


def _sdpa_mask(attn_mask: Tensor | None, is_causal: bool) -> Mask | None:
    if is_causal:
        return Causal()
    if attn_mask is None:
        return None
    flat = attn_mask if attn_mask.ndim <= 4 else attn_mask.flatten(0, -4)
    return Dense(flat) if flat.dtype == torch.bool else Additive(flat)


def _record_call(query: Tensor, key: Tensor, mask: Mask | None, scale: float | None) -> None:
    """Records the weights of one call of attention, whatever leading dimensions its tensors have."""
    if query.is_nested or key.is_nested:
        query, _ = _pad_nested(query)
        key, lengths = _pad_nested(key)
        padding = KeyLengths(lengths)
        mask = padding if mask is None else together([mask, padding])
    query, key = _with_four_axes(query), _with_four_axes(key)
    batch = max(query.shape[0], key.shape[0])
    query, key = query.expand(batch, -1, -1, -1), key.expand(batch, -1, -1, -1)
    if _thread.heads is not None and query.shape[1] < _thread.heads == query.shape[1] * query.shape[2]:
        # transformers decodes one token of grouped heads with the group in place of the queries
        query = query.reshape(batch, _thread.heads, 1, query.shape[3])
        if isinstance(mask, Dense) and mask.visible.shape[1] > 1:
            mask = Dense(_heads_from_groups(mask.visible, _thread.heads))
        elif isinstance(mask, Additive) and mask.values.shape[1] > 1:
            mask = Additive(_heads_from_groups(mask.values, _thread.heads))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    record(
        "weights",
        lambda rows, heads: reference.weights(query, key, mask=mask, scale=factor, rows=rows, heads=heads),
        shape=(batch, query.shape[1], query.shape[2], key.shape[2]),
        device=query.device,
    )


def _with_four_axes(t: Tensor) -> Tensor:
    """Leading axes as one batch, missing ones added: (batch, heads, length, width)."""
    if t.ndim < 4:
        return t[(None,) * (4 - t.ndim)]
    return t.flatten(0, -4)


def _heads_from_groups(values: Tensor, heads: int) -> Tensor:
    """(batch, kv heads, group, keys) → (batch, heads, 1, keys)."""
    return values.reshape(values.shape[0], heads, 1, values.shape[3])


def _pad_nested(nested: Tensor) -> tuple[Tensor, Tensor]:
    """A nested (batch, heads, length, width) or (batch, length, width) tensor as a plain one, and its lengths."""
    lengths = torch.tensor([sample.shape[-2] for sample in nested.unbind()], device=nested.device)
    return torch.nested.to_padded_tensor(nested, 0.0), lengths


def _walk_to_attention(walk: Callable[[], object]) -> None:
    """Walks a readable path up to its attention, only to see queries and keys."""
    _thread.looking = True
    try:
        with torch.no_grad():
            walk()
    except _QueriesKnown:
        pass
    finally:
        _thread.looking = False


def _watch_mha(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
        before = recorded()
        out = original(*args, **kwargs)
        if active() and not _thread.looking and recorded() == before:  # need_weights=True: torch computes them apart
            arguments = signature.bind(*args, **kwargs).arguments | {"need_weights": False, "is_causal": False}
            _walk_to_attention(lambda: original(**arguments))
        return out

    return multi_head_attention_forward


def _record_fused(
    query: Tensor, heads: int, weight: Tensor, bias: Tensor, mask: Tensor | None, mask_type: int | None
) -> None:
    """Queries and keys of torch's fused self-attention kernels: batch first, True in `mask` hides."""
    padding = attn = None
    if query.is_nested:
        query, lengths = _pad_nested(query)
        padding = torch.arange(query.shape[1], device=query.device) >= lengths[:, None]
    elif mask is not None and mask_type == 1:
        padding = mask.bool()
    elif mask is not None:
        attn = mask.bool() if mask.ndim == 2 else mask.bool().flatten(0, 1)
    width = query.shape[-1]
    rows_first = query.transpose(0, 1)
    nothing = weight.new_zeros(width, 0)
    _walk_to_attention(
        lambda: F.multi_head_attention_forward(
            rows_first, rows_first, rows_first, width, heads, weight, bias, None, None, False, 0.0, nothing, None,
            training=False, key_padding_mask=padding, need_weights=False, attn_mask=attn,
        )
    )  # fmt: skip


@contextmanager
def _inside_module(weight: Tensor) -> Iterator[None]:
    """Names what is recorded after the attention module that `weight` belongs to, where the layer around it calls the kernel."""
    entered = []
    for session in sessions():
        attention = _find_attention(session.stack[-1], weight) if session.stack else None
        if attention is not None:
            session.stack.append(attention)
            entered.append(session)
    try:
        yield
    finally:
        for session in entered:
            session.stack.pop()


def _find_attention(layer: nn.Module, weight: Tensor) -> nn.Module | None:
    """The module inside `layer` whose joint projection `weight` is."""
    for module in layer.modules():
        if module is not layer and getattr(module, "in_proj_weight", None) is weight:
            return module
    return None


def _watch_native_mha(original: Callable) -> Callable:
    signature = ("query", "key", "value", "embed_dim", "num_head", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
    signature += ("mask", "need_weights", "average_attn_weights", "mask_type")

    def native(*args: Any, **kwargs: Any) -> Any:
        if active():
            call = dict(zip(signature, args, strict=False)) | kwargs
            mask = call.get("mask"), call.get("mask_type")
            _record_fused(call["query"], call["num_head"], call["qkv_weight"], call["qkv_bias"], *mask)
        return original(*args, **kwargs)

    return native


def _watch_encoder_layer(original: Callable) -> Callable:
    signature = ("src", "embed_dim", "num_heads", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "use_gelu")
    signature += ("norm_first", "eps", "norm_weight_1", "norm_bias_1", "norm_weight_2", "norm_bias_2")
    signature += ("ffn_weight_1", "ffn_bias_1", "ffn_weight_2", "ffn_bias_2", "mask", "mask_type")

    def fused(*args: Any, **kwargs: Any) -> Any:
        if active():
            call = dict(zip(signature, args, strict=False)) | kwargs
            src = call["src"]
            if call["norm_first"]:
                src = F.layer_norm(src, src.shape[-1:], call["norm_weight_1"], call["norm_bias_1"], call["eps"])
            mask = call.get("mask"), call.get("mask_type")
            with _inside_module(call["qkv_weight"]):
                _record_fused(src, call["num_heads"], call["qkv_weight"], call["qkv_bias"], *mask)
        return original(*args, **kwargs)

    return fused


def _watch_interface(original: Callable) -> Callable:
    """transformers asks its `AttentionInterface` for a function by name; that function is watched."""

    def get_interface(self: Any, *args: Any, **kwargs: Any) -> Callable:
        function = original(self, *args, **kwargs)

        @wraps(function)
        def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
            if not active():
                return function(module, query, key, value, *rest, **options)
            before, heads, _thread.heads = recorded(), _thread.heads, query.shape[1]
            try:
                out = function(module, query, key, value, *rest, **options)
            finally:
                _thread.heads = heads
            if recorded() == before:
                attention_mask = rest[0] if rest else options.get("attention_mask")
                weights = out[1] if isinstance(out, tuple) and len(out) > 1 else None
                _record_interface(module, query, key, attention_mask, weights, options)
            return out

        return attention

    return get_interface


def _record_interface(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Any, weights: Tensor | None, options: dict
) -> None:
    """Records one call of a transformers attention function that does not go through torch's SDPA (eager, flash, flex …)."""
    if isinstance(weights, Tensor) and weights.ndim == 4:
        full, (b, h, n, m) = weights, weights.shape
        record("weights", lambda rows, heads: full[:, heads][:, :, rows], shape=(b, h, n, m), device=full.device)
        return
    if options.get("softcap") is not None:
        raise ValueError(
            "capture: this layer caps its scores, which cannot be read beside its kernel; use attn_implementation='eager'"
        )
    queries, keys = query.shape[2], key.shape[2]
    masks: list[Mask] = []
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", False)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        # a full mask holds causality and windows already
        masks.append(Dense(attention_mask) if attention_mask.dtype == torch.bool else Additive(attention_mask))
    else:
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:  # padding, one entry per key
            masks.append(Dense(attention_mask.bool()[:, None, None, -keys:]))
        elif attention_mask is not None:
            kind = type(attention_mask).__name__
            raise ValueError(f"capture: a {kind} as attention mask cannot be read; use attn_implementation='sdpa'")
        if causal and queries > 1:
            masks.append(Causal(keys - queries))
        window = options.get("sliding_window")
        if window is not None:
            after = 0 if causal else None
            masks.append(Window(window - 1, after, keys - queries))
    _record_call(query, key, together(masks), options.get("scaling"))
