"""How `core_attention.capture` sees attention that other libraries compute: their entry points are watched while a capture is active.

Everything leads to `scaled_dot_product_attention`, whose arguments say all about a map. Each watcher calls the original with what it
was given and returns what that returned. Where torch's own fused modules hide queries and keys inside a kernel, torch's readable
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


class _Seen(Exception):
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
    watchers = {id(original): (original, wraps(original)(watch(original))) for original, watch in watches.items()}
    for space, name in _holders(watchers):
        original, space[name] = watchers[id(space[name])]
        _undo.append(lambda space=space, name=name, original=original: space.__setitem__(name, original))


_held: tuple[int, list[tuple[dict, str]]] = (0, [])  # how many modules were loaded at the last look, and what was found


def _holders(wanted: Container[int]) -> list[tuple[dict, str]]:
    """Where modules hold the functions with these ids; a look through all of them, again only once more are loaded."""
    global _held
    modules = list(sys.modules.values())
    known, found = _held
    fresh = modules if known != len(modules) else [sys.modules["__main__"]]
    found = [] if fresh is modules else [(space, name) for space, name in found if id(space.get(name)) in wanted]
    for module in fresh:
        space = getattr(module, "__dict__", None)
        if isinstance(space, dict) and module.__name__ != __name__:
            names = [name for name, value in list(space.items()) if id(value) in wanted]
            found += [(space, name) for name in names if not any(space is s and name == n for s, n in found)]
    _held = len(modules), found
    return found


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
            _offer(query, key, _of_sdpa(attn_mask, is_causal), scale)
        if _thread.looking:
            raise _Seen
        return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    return scaled_dot_product_attention


def _of_sdpa(attn_mask: Tensor | None, is_causal: bool) -> Mask | None:
    if is_causal:
        return Causal()
    if attn_mask is None:
        return None
    flat = attn_mask if attn_mask.ndim <= 4 else attn_mask.flatten(0, -4)
    return Dense(flat) if flat.dtype == torch.bool else Additive(flat)


def _offer(query: Tensor, key: Tensor, mask: Mask | None, scale: float | None) -> None:
    """Records the weights of one call of attention, whatever leading dimensions its tensors have."""
    if query.is_nested or key.is_nested:
        query, _ = _padded(query)
        key, lengths = _padded(key)
        mask = together(m for m in (mask, KeyLengths(lengths)) if m is not None)
    query, key = (t[(None,) * (4 - t.ndim)] if t.ndim < 4 else t.flatten(0, -4) for t in (query, key))
    batch = max(query.shape[0], key.shape[0])
    query, key = (t.expand(batch, -1, -1, -1) for t in (query, key))
    if _thread.heads is not None and query.shape[1] < _thread.heads == query.shape[1] * query.shape[2]:
        # transformers decodes one token of grouped heads with the group in the place of the queries
        query = query.reshape(batch, _thread.heads, 1, query.shape[3])
        if (
            isinstance(mask, Dense | Additive)
            and (full := mask.visible if isinstance(mask, Dense) else mask.values).shape[1] > 1
        ):
            mask = type(mask)(full.reshape(full.shape[0], _thread.heads, 1, full.shape[3]))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    record(
        "weights",
        lambda rows, heads: reference.weights(query, key, mask=mask, scale=factor, rows=rows, heads=heads),
        shape=(batch, query.shape[1], query.shape[2], key.shape[2]),
        device=query.device,
    )


def _padded(nested: Tensor) -> tuple[Tensor, Tensor]:
    """A nested (batch, heads, length, width) or (batch, length, width) tensor as a plain one, and its lengths."""
    lengths = torch.tensor([one.shape[-2] for one in nested.unbind()], device=nested.device)
    return torch.nested.to_padded_tensor(nested, 0.0), lengths


def _look(walk: Callable[[], object]) -> None:
    """Walks a readable path up to its attention, only to see queries and keys."""
    _thread.looking = True
    try:
        with torch.no_grad():
            walk()
    except _Seen:
        pass
    finally:
        _thread.looking = False


def _watch_mha(original: Callable) -> Callable:
    signature = inspect.signature(original)

    def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
        before = recorded()
        out = original(*args, **kwargs)
        if active() and not _thread.looking and recorded() == before:  # need_weights=True: torch computes them apart
            given = signature.bind(*args, **kwargs).arguments | {"need_weights": False, "is_causal": False}
            _look(lambda: original(**given))
        return out

    return multi_head_attention_forward


def _fused(query: Tensor, heads: int, weight: Tensor, bias: Tensor, mask: Tensor | None, mask_type: int | None) -> None:
    """Queries and keys of torch's fused self-attention kernels: batch first, True in `mask` hides."""
    padding = attn = None
    if query.is_nested:
        query, lengths = _padded(query)
        padding = torch.arange(query.shape[1], device=query.device) >= lengths[:, None]
    elif mask is not None and mask_type == 1:
        padding = mask.bool()
    elif mask is not None:
        attn = mask.bool() if mask.ndim == 2 else mask.bool().flatten(0, 1)
    width = query.shape[-1]
    rows_first = query.transpose(0, 1)
    nothing = weight.new_zeros(width, 0)
    _look(
        lambda: F.multi_head_attention_forward(
            rows_first, rows_first, rows_first, width, heads, weight, bias, None, None, False, 0.0, nothing, None,
            training=False, key_padding_mask=padding, need_weights=False, attn_mask=attn,
        )
    )  # fmt: skip


@contextmanager
def _inside(weight: Tensor) -> Iterator[None]:
    """Names what is recorded after the attention module that `weight` belongs to, where the layer around it calls the kernel."""
    entered = []
    for session in sessions():
        around = session.stack[-1:]
        found = [m for a in around for m in a.modules() if m is not a and getattr(m, "in_proj_weight", None) is weight]
        if found:
            session.stack.append(found[0])
            entered.append(session)
    try:
        yield
    finally:
        for session in entered:
            session.stack.pop()


def _watch_native_mha(original: Callable) -> Callable:
    signature = ("query", "key", "value", "embed_dim", "num_head", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
    signature += ("mask", "need_weights", "average_attn_weights", "mask_type")

    def native(*args: Any, **kwargs: Any) -> Any:
        if active():
            given = dict(zip(signature, args, strict=False)) | kwargs
            mask = given.get("mask"), given.get("mask_type")
            _fused(given["query"], given["num_head"], given["qkv_weight"], given["qkv_bias"], *mask)
        return original(*args, **kwargs)

    return native


def _watch_encoder_layer(original: Callable) -> Callable:
    signature = ("src", "embed_dim", "num_heads", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "use_gelu")
    signature += ("norm_first", "eps", "norm_weight_1", "norm_bias_1", "norm_weight_2", "norm_bias_2")
    signature += ("ffn_weight_1", "ffn_bias_1", "ffn_weight_2", "ffn_bias_2", "mask", "mask_type")

    def fused(*args: Any, **kwargs: Any) -> Any:
        if active():
            given = dict(zip(signature, args, strict=False)) | kwargs
            src = given["src"]
            if given["norm_first"]:
                src = F.layer_norm(src, src.shape[-1:], given["norm_weight_1"], given["norm_bias_1"], given["eps"])
            mask = given.get("mask"), given.get("mask_type")
            with _inside(given["qkv_weight"]):
                _fused(src, given["num_heads"], given["qkv_weight"], given["qkv_bias"], *mask)
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
                _of_interface(module, query, key, attention_mask, weights, options)
            return out

        return attention

    return get_interface


def _of_interface(
    module: nn.Module, query: Tensor, key: Tensor, given: Any, weights: Tensor | None, options: dict
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
    if isinstance(given, Tensor) and given.ndim == 4:
        masks.append(Dense(given) if given.dtype == torch.bool else Additive(given))
    else:
        if isinstance(given, Tensor) and given.ndim == 2:  # padding, one entry a key
            masks.append(Dense(given.bool()[:, None, None, -keys:]))
        elif given is not None:
            raise ValueError(
                f"capture: a {type(given).__name__} as attention mask cannot be read; use attn_implementation='sdpa'"
            )
        if causal and queries > 1:
            masks.append(Causal(keys - queries))
        window = options.get("sliding_window")
        if window is not None:
            masks.append(Window(window - 1, None if not causal else 0, keys - queries))
    _offer(query, key, together(masks), options.get("scaling"))
