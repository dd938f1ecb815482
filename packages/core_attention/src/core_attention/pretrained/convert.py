"""Mechanisms that bring weights, put into pretrained transformers and timm models: their attention layers keep their projections and
gain what the mechanism needs.

::

    model = timm.create_model("deit_small_patch16_224", pretrained=True)
    convert_model(model, "sparsifiner", attn_keep_rate=0.25)
    converted(model)                    # [("blocks.0.attn", ("mechanism.proj_n", …)), …]: what is new and wants training

A converted model of transformers is saved with ``save_pretrained``, and ``from_pretrained`` of its class makes it converted again, once
`core_attention.register_with_transformers` was called in that process: its ``config.json`` says what was converted. Of any other model
keep `conversions` beside the state dict, and give both back::

    kept = conversions(model)           # plain data, for json.dump
    model = convert_again(timm.create_model("deit_small_patch16_224"), kept)
    model.load_state_dict(state)

A mechanism is declared under ``converters`` of its `System`: its name and where its maker stands. The maker is called once per layer::

    def maker(layer: Layer, **options) -> nn.Module

and returns a module ``core(q, k, v, *, scale)`` → out on (batch, heads, tokens, width) that computes between the projections. A mechanism that
needs more than queries, keys and values returns a `Replacement`: a module that takes the whole layer's place. It raises `ValueError` where it
cannot be put into such a layer, and says why; then nothing is converted.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from core_attention.pretrained.conversions import ATTRIBUTE, Conversion, conversions, plain_options
from core_attention.pretrained.transformers import CONVERSIONS, convert_while_loading, plain, register_function
from core_attention.registry import catalogue

TRANSFORMERS_NAME = "core_attention_converted"


@dataclass(frozen=True)
class Layer:
    """An attention layer of a pretrained model, as a maker sees it.

    Attributes:
        name: its place in the model.
        module: the layer itself.
        model: the model.
        num_heads: query heads.
        num_kv_heads: key heads.
        head_dim: width of a head.
        scale: of the scores.
        kind: "timm" or "transformers".
    """

    name: str
    module: nn.Module
    model: nn.Module
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    kind: str

    def tokens(self) -> int | None:
        """Tokens of the model's position embedding, class tokens included; None if it has none."""
        for name, parameter in self.model.named_parameters():
            if name.split(".")[-1] in ("pos_embed", "position_embeddings") and parameter.ndim == 3:
                prefix = (
                    getattr(self.model, "num_prefix_tokens", 0) if getattr(self.model, "no_embed_class", False) else 0
                )
                return parameter.shape[1] + prefix
        return None


@dataclass(frozen=True)
class Replacement:
    """A module that takes the whole layer's place and its call."""

    module: nn.Module


def convert_model(
    model: nn.Module, mechanism: str, *, layers: str | Sequence[str] | None = None, **options: Any
) -> nn.Module:
    """Puts a mechanism into the attention layers of a pretrained model, in place, and returns the model.

    Existing weights stay where they are. New ones stand under ``mechanism.`` of each layer; `converted` lists them. How a converted model
    is saved and loaded stands at the head of this module.

    Args:
        model: a timm vision transformer, or a transformers model whose layers look up their attention function by name.
        mechanism: a name that a `System` declares under ``converters``.
        layers: names or patterns of attention layers (``"blocks.[4-9].attn"``); None: all.
        options: of the mechanism.

    Raises:
        ValueError: an unknown mechanism or option, an option that cannot be saved, no such layer, or a layer that the mechanism cannot be
            put into (with the reason); then nothing has been converted.
    """
    matching = _convert(model, mechanism, layers, options)
    if any(layer.kind == "transformers" for layer in matching):
        _give_own_config(model)
        _attend_by_name(model)
        _note_in_config(model)
    return model


def convert_again(model: nn.Module, kept: Sequence[dict[str, Any]]) -> nn.Module:
    """Converts a fresh model as another was, in place, and returns it; then the other's state dict loads strictly.

    Args:
        model: a model of the same structure, not converted.
        kept: `conversions` of the other model.

    Raises:
        ValueError: as `convert_model`, and where `kept` is something else.
    """
    for conversion in kept:
        missing = {"mechanism", "options", "layers"} - set(conversion)
        if missing:
            raise ValueError(f"a conversion has mechanism, options and layers; {', '.join(sorted(missing))} is missing")
        convert_model(
            model, conversion["mechanism"], layers=conversion["layers"], **_with_tuples(conversion["options"])
        )
    return model


def convert_loaded(model: nn.Module, kept: Sequence[dict[str, Any]]) -> None:
    """Converts a model of transformers that is about to be given its weights: what its config says of its class.

    transformers builds a model from the inside out, and the inner model is told to end its building first. The layers are named in the
    model that `_note_in_config` found them in, so that every head on the same inner model loads them.
    """
    for conversion in kept:
        if conversion["model"] == type(model).__name__:
            _convert(model, conversion["mechanism"], conversion["layers"], _with_tuples(conversion["options"]))
            _attend_by_name(model)


def _with_tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Options that JSON has made lists of."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _convert(
    model: nn.Module, mechanism: str, layers: str | Sequence[str] | None, options: dict[str, Any]
) -> list[Layer]:
    """`convert_model`, and which layers were converted."""
    entry = catalogue.find("converters", mechanism)
    if entry is None:
        known = list(catalogue.declared("converters"))
        raise ValueError(
            f"{catalogue.not_among(mechanism, known, 'put in by convert_model')}; "
            "those without weights go by name, see core_attention.register_with_transformers"
        )
    maker: Callable[..., nn.Module | Replacement] = entry.load()
    matching = _layers(model, layers)
    _check_options(maker, mechanism, options)
    conversion = Conversion(mechanism, plain_options(mechanism, options))
    # all are built before any is put in: a refusal leaves the model as it was
    cores = [(layer, maker(layer, **options)) for layer in matching]
    for layer, core in cores:
        like = next(layer.module.parameters())
        part = core.module if isinstance(core, Replacement) else core
        part.to(like.device, like.dtype).train(layer.module.training)
        parent, _, leaf = layer.name.rpartition(".")
        changed = layer.module
        if isinstance(core, Replacement):
            changed = part
        elif layer.kind == "timm":
            changed = Converted(layer, part)
        else:
            changed.add_module("mechanism", part)
        setattr(changed, ATTRIBUTE, conversion)
        if changed is not layer.module:
            setattr(model.get_submodule(parent), leaf, changed)
    return matching


def converted(model: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """The converted layers of a model and the names of their new parameters."""
    layers = []
    for name, module in model.named_modules():
        new = tuple(n for n, _ in module.named_parameters() if n.startswith("mechanism."))
        if isinstance(getattr(module, "mechanism", None), nn.Module):
            layers.append((name, new))
    return layers


class Converted(nn.Module):
    """timm's attention layer with a mechanism between its projections; its parts keep their names."""

    qkv: nn.Module
    proj: nn.Module
    mechanism: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    norm: nn.Module | None
    gate: nn.Module | None
    proj_drop: nn.Module | None

    def __init__(self, layer: Layer, core: nn.Module):
        super().__init__()
        old: Any = layer.module
        self.num_heads, self.scale = layer.num_heads, layer.scale
        self.qkv, self.proj = old.qkv, old.proj
        self.mechanism = core
        for name in ("q_norm", "k_norm", "norm", "gate", "proj_drop"):
            setattr(self, name, getattr(old, name, None))
        self.train(old.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """See timm's ``Attention``; masks have no place here.

        Returns:
            the layer's output, (batch, tokens, dim).
        """
        if attn_mask is not None or is_causal:
            raise ValueError(f"{type(self.mechanism).__name__} in this layer computes no attention mask")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        out = self.mechanism(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)
        out = out if self.norm is None else self.norm(out)
        out = out if self.gate is None else out * self.gate(x).sigmoid()
        out = self.proj(out)
        return out if self.proj_drop is None else self.proj_drop(out)


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Any, scale: float, module: nn.Module) -> Tensor:
    """The attention function of converted transformers models (see `core_attention.pretrained.transformers`); layers left alone are plain.

    Returns:
        attention's output, (batch, heads, queries, width).
    """
    core = getattr(module, "mechanism", None)
    if core is None:
        return plain(q, k, v, mask=mask, scale=scale, module=module)
    if mask is not None:
        return core(q, k, v, scale=scale, mask=mask)
    return core(q, k, v, scale=scale)


def _give_own_config(model: nn.Module) -> None:
    """Other models may be built from the config that a model was given: a converted one gets a copy."""
    shared: Any = model.config
    own = copy.deepcopy(shared)
    for module in model.modules():
        if getattr(module, "config", None) is shared:
            module.config = own  # pyright: ignore[reportAttributeAccessIssue]


def _attend_by_name(model: nn.Module) -> None:
    """Lets a transformers model's layers attend by `attend`; those that were replaced as a whole do not look the name up."""
    register_function(TRANSFORMERS_NAME, attend)
    model.set_attn_implementation(TRANSFORMERS_NAME)  # type: ignore[operator]


def _note_in_config(model: nn.Module) -> None:
    """Writes what was converted into the model's config, which `save_pretrained` saves, and has `from_pretrained` read it."""
    convert_while_loading()
    inner: Any = getattr(model, "base_model", model)  # shared by all heads
    noted = conversions(inner)
    if len(_names(noted)) < len(_names(conversions(model))):
        inner, noted = model, conversions(model)  # some of the layers stand outside of it
    config: Any = model.config
    setattr(config, CONVERSIONS, [{"model": type(inner).__name__, **conversion} for conversion in noted])


def _names(kept: Sequence[dict[str, Any]]) -> list[str]:
    return [name for conversion in kept for name in conversion["layers"]]


def _layers(model: nn.Module, patterns: str | Sequence[str] | None) -> list[Layer]:
    every = []
    for name, module in model.named_modules():
        layer = _layer(name, module, model)
        if layer is not None:
            every.append(layer)
    if not every:
        kinds = sorted({type(m).__name__ for m in model.modules() if "ttention" in type(m).__name__})
        others = "it has no attention layer"
        if kinds:
            others = f"its attention layers are {', '.join(kinds)}"
        raise ValueError(
            f"{type(model).__name__} has no attention layer that can be converted: {others}. Known are timm's Attention (qkv, proj) "
            "and transformers layers with q_proj, k_proj and v_proj that take their attention function by name"
        )
    if patterns is None:
        return every
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    matching = []
    for layer in every:
        if any(fnmatchcase(layer.name, pattern) for pattern in patterns):
            matching.append(layer)
    if not matching:
        raise ValueError(
            f"no attention layer is called {', '.join(patterns)}; there are {', '.join(layer.name for layer in every)}"
        )
    return matching


def _layer(name: str, module: nn.Module, model: nn.Module) -> Layer | None:
    if isinstance(module, Converted) or hasattr(module, "mechanism"):
        return None
    part: Any = module  # of another library's class, known by its attributes
    has = lambda *names: all(isinstance(getattr(module, n, None), nn.Linear) for n in names)  # noqa: E731
    if has("qkv", "proj") and hasattr(module, "num_heads"):
        heads, width = int(part.num_heads), int(part.qkv.out_features) // 3
        scale = float(getattr(module, "scale", (width // heads) ** -0.5))
        return Layer(name, module, model, heads, heads, width // heads, scale, "timm")
    if has("q_proj", "k_proj", "v_proj") and hasattr(module, "head_dim") and hasattr(module, "config"):
        dim = int(part.head_dim)
        heads, kv_heads = (int(getattr(module, n).out_features) // dim for n in ("q_proj", "k_proj"))
        return Layer(
            name, module, model, heads, kv_heads, dim, float(getattr(module, "scaling", dim**-0.5)), "transformers"
        )
    return None


def _check_options(maker: Callable[..., Any], mechanism: str, options: dict[str, Any]) -> None:
    known = inspect.signature(maker).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{mechanism} has no option {', '.join(unknown)}; it has {', '.join(list(known)[1:])}")


__all__ = ["Converted", "Layer", "Replacement", "conversions", "convert_again", "convert_model", "converted"]
