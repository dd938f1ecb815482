"""Our attention inside pretrained transformers models, by name.

::

    register_with_transformers()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="core_attention")

transformers looks up two functions under the name: one that makes the mask, once a forward pass, and one that computes attention, in
every layer. Ours makes a typed mask (`core_attention.masks`), never a (queries, keys) matrix; every mechanism is
called with it. While torch compiles a model the mask is written out as for "sdpa": whether there is padding cannot be read then.
transformers is imported only when something is registered.

A mechanism without weights is declared under ``attentions`` of its `System`: its name and where its function stands. The function is::

    def landmark(q, k, v, *, mask: Mask | None, scale: float, module: nn.Module) -> Tensor

with q (batch, heads, queries, width), k and v (batch, key heads, keys, width), `mask` as `core_attention.attention` takes it (None:
everything is visible), `module` the layer that calls (for its `layer_idx` and `config`); it returns (batch, heads, queries, width).
A function that also takes `dropout` gets the share of weights to drop, 0 where the model does not train; for others a model that wants
it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from core_attention.attention import attention
from core_attention.masks import Additive, Causal, Dense, KeyLengths, Mask, Part, Size, Window, positions, together
from core_attention.registry import catalogue

CONVERSIONS = (
    "core_attention_conversions"  # in a model's config: what was converted, see core_attention.pretrained.convert
)

# names that belong to no paper; all others stand in the `System` that declares them
OWN = {
    "core_attention": "core_attention.pretrained.transformers:plain",
    "routed_topk": "core_attention.pretrained.topk:routed_topk",
}


def plain(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, scale: float, module: nn.Module, dropout: float = 0.0
) -> Tensor:
    """`core_attention.attention` as it is."""
    return attention(q, k, v, mask=mask, scale=scale, dropout=dropout)


def options_of(module: nn.Module, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The options of a mechanism: `defaults`, and over them what the model's ``config.core_attention[name]`` says.

    Raises:
        ValueError: an unknown option.
    """
    given = (getattr(getattr(module, "config", None), "core_attention", None) or {}).get(name, {})
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    return defaults | given


def register_with_transformers(*names: str) -> tuple[str, ...]:
    """Makes mechanisms available to transformers models as ``attn_implementation=NAME``, and lets ``from_pretrained`` load models that
    `core_attention.convert_model` converted.

    Args:
        names: ``"core_attention"``, ``"routed_topk"``, or names that a `System` declares under ``attentions``; none: all.

    Returns:
        The names that can be used now.

    Raises:
        ImportError: transformers is missing or too old to take attention functions by name; says how to get it.
        ValueError: an unknown name.
    """
    targets: dict[str, str | Callable[..., Tensor]] = {}
    if names:
        for name in names:
            targets[name] = OWN[name] if name in OWN else _declared(name)
    else:
        targets.update(OWN)
        for name, entry in catalogue.declared("attentions").items():
            targets[name] = entry.target
    for name, target in targets.items():
        register_function(name, target)
    convert_while_loading()
    return tuple(targets)


def convert_while_loading() -> None:
    """Has transformers rebuild converted models: where a model's config says what was converted, its layers are converted at the end of
    its building, before it is given weights. Other models are built as ever.
    """
    from transformers import PreTrainedModel

    build = PreTrainedModel.post_init
    if hasattr(build, "__wrapped__"):  # done before
        return

    @wraps(build)
    def post_init(model: Any) -> None:
        build(model)
        noted = getattr(model.config, CONVERSIONS, None)
        if noted:
            catalogue.load("core_attention.pretrained.convert:convert_loaded")(model, noted)

    PreTrainedModel.post_init = post_init  # pyright: ignore[reportAttributeAccessIssue]


def register_function(name: str, target: str | Callable[..., Tensor]) -> None:
    """Makes one attention function, or one by its import path, available to transformers as ``attn_implementation=name``.

    Raises:
        ImportError: transformers is missing or too old to take attention functions by name; says how to get it.
    """
    try:
        from transformers.masking_utils import AttentionMaskInterface
        from transformers.modeling_utils import AttentionInterface
    except ImportError as error:
        raise ImportError(
            "registering needs transformers ≥ 4.55: pip install 'attention-suite-core-attention[transformers]'"
        ) from error
    AttentionInterface.register(name, _function(name, target))
    AttentionMaskInterface.register(name, typed_mask)


def _declared(name: str) -> str | Callable[..., Tensor]:
    entry = catalogue.find("attentions", name)
    if entry is None:
        if catalogue.find("converters", name) is not None:
            raise ValueError(f"{name!r} has weights of its own: put it in by convert_model(model, {name!r})")
        known = [*OWN, *catalogue.declared("attentions")]
        raise ValueError(catalogue.not_among(name, known, "registered by name"))
    return entry.target


def _function(name: str, target: str | Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """The attention function that transformers calls for a mechanism."""
    # loaded now: a graph that torch compiles cannot import
    mechanism = catalogue.load(target)
    drops = "dropout" in signature(mechanism).parameters

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        position_bias: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        for given in ("softcap", "s_aux", "cache"):
            if options.get(given) is not None:
                raise ValueError(
                    f"attn_implementation={name!r}: {type(module).__name__} asks for {given}=, which it does not compute"
                )
        if dropout and not drops:
            raise ValueError(
                f"attn_implementation={name!r} has no dropout of attention weights; set the model's attention dropout to 0"
            )
        causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
        mask = _given(attention_mask, causal and query.shape[2] > 1)
        if position_bias is not None:
            mask = together(m for m in (mask, Additive(position_bias)) if m is not None)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        asked = {"dropout": dropout} if drops else {}
        out = mechanism(query, key, value, mask=mask, scale=scale, module=module, **asked)
        return out.transpose(1, 2).contiguous(), None

    attend.__name__ = attend.__qualname__ = name
    return attend


def _given(mask: Tensor | None, causal: bool) -> Mask | None:
    """The typed mask of what a layer was given: ours from `typed_mask`, or a model's own 4-D tensor."""
    if isinstance(mask, MaskTensor):
        return mask.typed
    if mask is None:
        return Causal() if causal else None
    if mask.ndim == 3:  # of `_mask_for_graph`: transformers and models hand around two or four axes
        return together([Causal(), Dense(mask[:, None])])
    return Dense(mask) if mask.dtype == torch.bool else Additive(mask)


class MaskTensor(Tensor):
    """A typed mask in the shape that transformers hands around, a bool (batch, 1, queries, keys); written out only if it is touched.

    Our attention functions read `typed` (None: everything is visible). Any other operation gets the written-out mask.
    """

    typed: Mask | None
    extent: Size

    @staticmethod
    def of(typed: Mask | None, extent: Size, device: torch.device | str) -> MaskTensor:
        """A tensor without memory of its own that stands for `typed`."""
        stands = torch.ones((), dtype=torch.bool, device=device).expand(extent).as_subclass(MaskTensor)
        stands.typed, stands.extent = typed, extent
        return stands

    def written(self) -> Tensor:
        """The mask as transformers' own functions make it."""
        allowed = None if self.typed is None else self.typed.allowed(self.extent, Part(), self.device)
        return (
            torch.ones((), dtype=torch.bool, device=self.device).expand(self.extent)
            if allowed is None
            else allowed.expand(self.extent)
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.contiguous:
                return args[0]
            if getattr(func, "__name__", "") == "__get__" or func in (
                Tensor.dim,
                Tensor.size,
                Tensor.is_floating_point,
            ):
                return func(*args, **(kwargs or {}))  # what it looks like: shape, dtype, device

            args, kwargs = tree_map(lambda t: t.written() if isinstance(t, MaskTensor) else t, (args, kwargs or {}))
            return func(*args, **kwargs)


class Indexed(Mask):
    """A mask that transformers describes as a function of sample, head, query and key; called only for the part that is needed."""

    def __init__(self, function: Callable[..., Tensor], query_offset: int, key_offset: int) -> None:
        self.function, self.query_offset, self.key_offset = function, query_offset, key_offset

    def allowed(self, size: Size, part: Part, device: torch.device) -> Tensor | None:
        sample = positions(part.batch, size.batch, device)[:, None, None, None]
        query = positions(part.rows, size.queries, device)[:, None] + self.query_offset
        key = positions(part.keys, size.keys, device) + self.key_offset
        head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
        visible = self.function(sample, head, query[None, None], key[None, None, None])
        return visible.expand(torch.broadcast_shapes(visible.shape, (1, 1, query.shape[0], key.shape[0])))


def typed_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor | None:
    """The mask function of transformers' registry, which makes a typed mask of what the others write out.

    Written out, as the others do, it is only for a single query, for a user's own pattern, and, while torch compiles or traces, for
    anything but padding and the causal rule over a whole sequence.

    Args:
        batch_size: samples.
        q_length: queries of this forward pass.
        kv_length: keys, with those of the cache.
        q_offset: place of the first query.
        kv_offset: place of the first key.
        mask_function: transformers' description of the pattern, ``(sample, head, query, key)`` → bool.
        attention_mask: (batch, keys) where tokens are, not padding.
        local_size: width of the sliding window or chunk that `mask_function` holds.
        use_vmap: `mask_function` is a user's and may only be called on single indices.
        device: where the mask is wanted.
    """
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

    compiling = torch.compiler.is_compiling()
    masks: list[Mask] = []
    if compiling and not use_vmap and 1 < q_length == kv_length and kv_offset == 0:
        tokens = attention_mask
        if tokens is None:
            tokens = torch.ones(batch_size, kv_length, dtype=torch.bool, device=device)
        if tokens.shape[1] == kv_length:
            if mask_function is None or mask_function is causal_mask_function:
                return _mask_for_graph(tokens, causal=True)
            if mask_function is bidirectional_mask_function:
                return None if attention_mask is None else _mask_for_graph(tokens, causal=False)
    if compiling or use_vmap or q_length == 1:
        skip = options.get("allow_is_causal_skip", True)
        options |= {
            "allow_is_causal_skip": skip and (compiling or q_length == 1),  # not for a static cache
            "local_size": local_size,
            "use_vmap": use_vmap,
            "device": device,
        }
        return sdpa_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset if compiling else int(q_offset),  # pyright: ignore[reportArgumentType]  a static cache's is a tensor
            kv_offset,
            mask_function or causal_mask_function,
            attention_mask,
            **options,
        )
    first = int(q_offset)
    shift = first - kv_offset
    if mask_function is None or mask_function is causal_mask_function:
        masks.append(Causal(shift))
    elif mask_function is not bidirectional_mask_function:
        # wide enough for a sliding window either way and for a chunk; tells a backend where to look
        if local_size is not None:
            masks.append(Window(local_size, local_size, shift))
        masks.append(Indexed(mask_function, first, kv_offset))
    padding = _padding(attention_mask, kv_length, kv_offset)
    if padding is not None:
        masks.append(padding)
    return MaskTensor.of(together(masks), Size(batch_size, 1, q_length, kv_length), device)


def _mask_for_graph(tokens: Tensor, *, causal: bool) -> Tensor:
    """Padding, with the causal rule or without, as a plain tensor: a compiled graph carries no typed mask.

    Mechanisms that know nothing else than these two could not read them out of a mask of (queries, keys), whose values a graph does not have.

    Returns:
        (batch, 1, keys) with the causal rule, as `_given` reads it; (batch, 1, 1, keys) without.
    """
    tokens = tokens.bool()[:, None]
    return tokens if causal else tokens[:, None]


def _padding(tokens: Tensor | None, keys: int, offset: int) -> Mask | None:
    """Which keys are tokens; None if all are."""
    if tokens is None:
        return None
    tokens = tokens.bool()[:, offset : offset + keys]
    if tokens.shape[1] < keys:
        tokens = nn.functional.pad(tokens, (0, keys - tokens.shape[1]))
    if bool(tokens.all()):
        return None
    lengths = tokens.sum(-1)
    if torch.equal(tokens, torch.arange(keys, device=tokens.device) < lengths[:, None]):
        return KeyLengths(lengths)
    return Dense(tokens[:, None, None])
