"""The study of Deconstructing Attention as a language model: a kind of attention for every layer, all of the Standard layer's parameter count.

Source: Xue, Moosavi, Aletras, "Deconstructing Attention: Investigating Design Principles for Effective Language Modeling", arXiv 2510.11602.
A Standard-only model has transformers' Qwen2 parameter names and equals it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_attention.mechanisms.deconstructing.attention import KINDS, DeconstructedAttention, DeconstructedCache
from core_attention.parts.cache import Cache
from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder, DecoderLayer, Mixed

FIXED = ("rnd", "fixedseq")


def layer_kinds(pattern: str, layers: int) -> list[str]:
    """The kind of every layer, of a pattern string.

    ``standard`` · a kind alone or ``uniform:KIND`` · ``hybrid:PLACES:KIND``, where PLACES says which layers stay Standard (numbers from 1):
    ``even``, ``odd``, ``25%`` (every fourth), ``first``, ``last``, ``bilateral`` (first and last), ``top`` (the first half),
    ``bottom`` (the second half), ``middle`` (the first and the last quarter), or numbers such as ``1+3``. ``even`` may be left out.

    Raises:
        ValueError: a pattern that cannot be read; says what can.
    """
    parts = pattern.split(":")
    if parts == ["standard"]:
        return ["standard"] * layers
    if len(parts) == 1 or parts[0] == "uniform":
        places: set[int] = set()
    elif parts[0] == "hybrid" and len(parts) == 2:
        places = _places("even", layers)
    elif parts[0] == "hybrid" and len(parts) == 3:
        places = _places(parts[1], layers)
    else:
        raise ValueError(f"pattern {pattern!r} is none of KIND, uniform:KIND and hybrid:PLACES:KIND")
    kind = parts[-1]
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} in pattern {pattern!r}: one of {', '.join(KINDS)}")
    return ["standard" if layer in places else kind for layer in range(1, layers + 1)]


def _places(name: str, layers: int) -> set[int]:
    """Numbers (from 1) of the layers that stay Standard."""
    every = range(1, layers + 1)
    half, quarter = layers // 2, layers // 4
    named = {
        "even": [i for i in every if i % 2 == 0],
        "odd": [i for i in every if i % 2 == 1],
        "25%": [i for i in every if i % 4 == 0],
        "first": [1],
        "last": [layers],
        "bilateral": [1, layers],
        "top": [i for i in every if i <= half],
        "bottom": [i for i in every if i > half],
        "middle": [i for i in every if i <= quarter or i > layers - quarter],
    }
    if name in named:
        return set(named[name])
    try:
        places = {int(number) for number in name.split("+")}
    except ValueError:
        raise ValueError(f"{name!r} names no layers: {', '.join(named)}, or numbers such as 1+3") from None
    if not places <= set(every):
        raise ValueError(f"layers {name} are not all from 1 to {layers}")
    return places


class DeconstructedConfig(SuiteConfig):
    """Qwen2's sizes with one kind of attention for each layer.

    Attributes:
        pattern: see `layer_kinds`; `kinds`, if given, says each layer's kind itself.
        skip: True leaves out the layers that are not Standard, whole (the paper's skip ablation of a trained hybrid).
        approx_form, approx_rope: reading of ``approx``, and whether the rotary phase precedes its features.
        qkv_bias: biases of queries, keys and values.
        static_norm: embeddings pass the layer's input norm before they give ``static`` queries and keys.
        fixed_length: tokens of the fixed stream of ``rnd`` and ``fixedseq`` layers, which no sequence may exceed.
        fixed_std: of the random embeddings of ``rnd``.
    """

    model_type = "deconstructed"
    pattern: str = "standard"
    kinds: list[str] | None = None
    skip: bool = False
    approx_form: str = "joint_outer"
    approx_rope: bool = True
    qkv_bias: bool = True
    static_norm: bool = True
    fixed_length: int = 2048
    fixed_std: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.kinds is None:
            self.kinds = layer_kinds(self.pattern, self.num_hidden_layers)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        super().check()
        assert self.kinds is not None
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or len(self.kinds) != self.num_hidden_layers:
            raise ValueError(
                f"kinds names one of {', '.join(KINDS)} for each of {self.num_hidden_layers} layers, got {self.kinds}"
            )
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError("the study has as many key heads as query heads")
        if self.fixed_length < 1:
            raise ValueError(f"fixed_length is at least 1, got {self.fixed_length}")


@dataclass
class LayerCache(Cache):
    """What a layer keeps, and for the kinds with a fixed stream its hidden states at this layer.

    Attributes:
        attention: the layer's own cache.
        stream: the normalised fixed stream, (1, at least the tokens read, width).
    """

    attention: DeconstructedCache = field(default_factory=DeconstructedCache)
    stream: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens read."""
        return self.attention.length

    def crop(self, length: int) -> None:
        """Forgets the tokens from `length` on."""
        self.attention.crop(length)

    def reorder(self, index: Tensor) -> None:
        """As for every cache; the stream is the same for all samples."""
        self.attention.reorder(index)


class DeconstructedStack(Decoder):
    """Layers of any kinds, and the fixed streams that ``rnd`` and ``fixedseq`` layers take their maps from.

    A stream is an extra sequence that passes every layer below with that layer's own weights; it is not trained itself, gradients flow through
    the weights.
    """

    fixed_embeddings: Tensor
    fixed_tokens: Tensor

    def __init__(self, config: DeconstructedConfig) -> None:
        super().__init__(config, lambda i: self._attention(config, i))
        self.config = config
        assert config.kinds is not None
        if "rnd" in config.kinds:
            stream = torch.randn(config.fixed_length, config.hidden_size) * config.fixed_std
            self.register_buffer("fixed_embeddings", stream)
        if "fixedseq" in config.kinds:
            # any text will do; `fix_text` replaces it
            self.register_buffer("fixed_tokens", torch.arange(config.fixed_length) % config.vocab_size)

    @staticmethod
    def _attention(config: DeconstructedConfig, i: int) -> DeconstructedAttention:
        assert config.kinds is not None
        kind = config.kinds[i]
        return DeconstructedAttention(
            config.hidden_size,
            num_heads=config.num_attention_heads,
            kind=kind,
            approx_form=config.approx_form,
            rope=config.approx_rope if kind == "approx" else True,
            rope_theta=config.rope_theta,
            qkv_bias=config.qkv_bias,
        )

    def fix_text(self, tokens: Int[Tensor, " fixed"]) -> None:
        """Makes these the tokens of the fixed stream of ``fixedseq`` layers."""
        if tokens.shape != self.fixed_tokens.shape:
            raise ValueError(f"the fixed stream has {len(self.fixed_tokens)} tokens, got {tuple(tokens.shape)}")
        self.fixed_tokens.copy_(tokens)

    def new_caches(self) -> list[Cache]:
        return [LayerCache(layer.self_attn.new_cache()) for layer in self.layers]

    @property
    def kept(self) -> list[int]:
        """The layers that are computed."""
        assert self.config.kinds is not None
        return [i for i, kind in enumerate(self.config.kinds) if not self.config.skip or kind == "standard"]

    def forward(self, ids: Int[Tensor, "rows time"], caches: Sequence[Cache] | None = None) -> Mixed:
        begin = 0 if caches is None else caches[0].attention.length  # pyright: ignore[reportAttributeAccessIssue]
        self._check_length(begin + ids.shape[1])
        embedded = self.embed_tokens(ids)
        if caches is None:
            sources = self.streams(ids.shape[1])
        else:
            self._fill(caches, begin + ids.shape[1])
            sources = {i: caches[i].stream for i in self.kept}  # pyright: ignore[reportAttributeAccessIssue]
        x = embedded
        for i in self.kept:
            layer, cache = self.layers[i], None if caches is None else caches[i].attention  # pyright: ignore
            x = self.run(_layer, layer, x, self._source(layer, embedded, sources.get(i)), cache)
        if caches is not None and 0 not in self.kept:  # the first layer counts the tokens, computed or not
            caches[0].attention.length = begin + ids.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
        return self.norm(x), None

    def _check_length(self, length: int) -> None:
        assert self.config.kinds is not None
        if any(kind in FIXED for kind in self.config.kinds) and length > self.config.fixed_length:
            raise ValueError(
                f"{length} tokens are longer than the fixed stream of {self.config.fixed_length}, from which this model's maps come"
            )

    def _fill(self, caches: Sequence[Any], length: int) -> None:
        """The streams of a generation, to twice the tokens read: a short text does not pay for a long stream."""
        assert self.config.kinds is not None
        needing = [i for i in self.kept if self.config.kinds[i] in FIXED]
        if not needing:
            return
        stream = caches[needing[0]].stream
        if stream is None or stream.shape[1] < length:
            streams = self.streams(min(self.config.fixed_length, max(64, 2 * length)))
            for i in needing:
                caches[i].stream = streams[i]

    def streams(self, length: int) -> dict[int, Tensor]:
        """The normalised hidden states of the fixed stream at every layer that needs them, (1, length, width)."""
        assert self.config.kinds is not None
        by_layer: dict[int, Tensor] = {}
        for kind in FIXED:
            needing = [i for i in self.kept if self.config.kinds[i] == kind]
            if not needing:
                continue
            if kind == "rnd":
                embedded = self.fixed_embeddings[None, :length].to(self.embed_tokens.weight.dtype)
            else:
                embedded = self.embed_tokens(self.fixed_tokens[None, :length])
            x = embedded
            for i in self.kept:
                layer = self.layers[i]
                own = layer.input_layernorm(x)
                if i in needing:
                    by_layer[i] = own
                if i == needing[-1]:
                    break
                fixed = own if self.config.kinds[i] in FIXED else None
                x = _layer(layer, x, self._source(layer, embedded, fixed), None)
        return by_layer

    def _source(self, layer: Any, embedded: Tensor, stream: Tensor | None) -> Tensor | None:
        """Where a layer's queries and keys come from, if not from its input."""
        if layer.self_attn.kind == "static":
            return layer.input_layernorm(embedded) if self.config.static_norm else embedded
        return stream


def _layer(layer: DecoderLayer, x: Tensor, source: Tensor | None, cache: DeconstructedCache | None) -> Tensor:
    return layer(x, cache, source=source)[0]


class DeconstructedForCausalLM(SuiteForCausalLM):
    """`DeconstructedConfig` as a language model."""

    config_class: ClassVar[Any] = DeconstructedConfig
    config: DeconstructedConfig
    model: DeconstructedStack

    def __init__(self, config: DeconstructedConfig) -> None:
        super().__init__(config)
        self.model = DeconstructedStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def attention_maps(self, ids: Int[Tensor, "batch time"]) -> dict[int, Float[Tensor, "batch heads time time"]]:
        """The written-out attention map of every layer that has one (all kinds but ``mlp``): time² numbers a head, for diagnostics."""
        from core_attention.mechanisms.deconstructing import attention as d

        maps: dict[int, Tensor] = {}
        embedded = self.model.embed_tokens(ids)
        streams, x = self.model.streams(ids.shape[1]), embedded
        for i in self.model.kept:
            layer = self.model.layers[i]
            attention: DeconstructedAttention = layer.self_attn
            source = self.model._source(layer, embedded, streams.get(i))
            own = layer.input_layernorm(x)
            if attention.kind != "mlp":
                attending = own if source is None else source[:, : ids.shape[1]]
                q, k = attention._split(attention.q_proj(attending)), attention._split(attention.k_proj(attending))
                if attention.kind != "nonapprox":
                    q, k = attention._rotate(q, 0), attention._rotate(k, 0)
                maps[i] = _map(d, attention.kind, q, k).expand(len(ids), -1, -1, -1)
            x = _layer(layer, x, source, None)
        return maps


def _map(d: Any, kind: str, q: Tensor, k: Tensor) -> Tensor:
    if kind == "approx":
        return d.approximate_map(q, k)
    if kind == "nonapprox":
        return d.nonapproximate_map(q, k)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)
