"""titans-pytorch's memory-as-context transformer (lucidrains/titans-pytorch 0.5.1), whose checkpoints load here.

It is not the paper's MAC (`language_models.model.titans`): what the memory retrieves is added to the residual before attention (or gates
attention's output), and learned long-term tokens stand between segments. With one residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.titans.attention import SegmentedAttention, SegmentedCache
from core_attention.parts.cache import Cache
from core_attention.published.titans.memory import PublicMemoryCache, PublicNeuralMemory
from core_attention.published.titans.official import build as build_memory
from language_models.model.caching import SuiteCache
from language_models.model.causal import Stack, SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Mixed


class TitansLRConfig(SuiteConfig):
    """titans-pytorch's arguments under their own names; the sizes under LLaMA's (`hidden_size` is dim, `num_hidden_layers` depth).

    Attributes:
        segment_len: tokens of a segment, whose block also holds the long-term tokens behind it.
        neural_memory_segment_len: tokens of a memory's chunk; None: the block.
        neural_memory_batch_size: tokens after which gradients are taken at the current weights; None: never in a call.
        neural_memory_layers: numbers (from 1) of the layers with a memory; None: all.
        neural_memory_kwargs: further arguments of titans-pytorch's NeuralMemory.
        neural_mem_gate_attn_output: the memory gates attention's output instead of being added before it.
        neural_mem_weight_residual: a memory sees the weights of the one before.
        neural_memory_qkv_receives_diff_views: queries, keys and values of a memory choose among earlier layers' inputs and outputs.
        sliding_window_attn: a token sees the last block instead of its own block.
    """

    model_type = "titans-lr"
    head_dim: int = 64
    segment_len: int = 32
    num_longterm_mem_tokens: int = 0
    num_persist_mem_tokens: int = 0
    neural_memory_segment_len: int | None = None
    neural_memory_batch_size: int | None = None
    neural_memory_layers: list[int] | tuple[int, ...] | None = None
    neural_memory_kwargs: dict[str, Any] | None = None
    neural_mem_gate_attn_output: bool = False
    neural_mem_weight_residual: bool = False
    neural_memory_qkv_receives_diff_views: bool = False
    sliding_window_attn: bool = False
    ff_mult: float = 4

    @property
    def block(self) -> int:
        """A segment and the long-term tokens behind it."""
        return self.segment_len + self.num_longterm_mem_tokens

    @property
    def chunk(self) -> int:
        """Tokens of a memory's chunk."""
        return self.neural_memory_segment_len or self.block

    def check(self) -> None:
        super().check()
        layers = self.neural_memory_layers
        if layers is not None and not set(layers) <= set(range(1, self.num_hidden_layers + 1)):
            raise ValueError(f"neural_memory_layers are numbers from 1 to {self.num_hidden_layers}, got {list(layers)}")


@dataclass
class TitansLRCache(Cache):
    """Of one layer.

    Attributes:
        attention, memory: of the layer's parts.
        tokens: ordinary tokens read.
    """

    attention: SegmentedCache = field(default_factory=SegmentedCache)
    memory: PublicMemoryCache = field(default_factory=PublicMemoryCache)
    tokens: int = 0

    def reorder(self, index: Tensor) -> None:
        """As for every cache; the memory has an order of its own."""
        self.attention.reorder(index)
        self.memory.reorder(index)


class AxialPositions(nn.Module):
    """An embedding of (i // chunk, i % chunk): each coordinate through its own network of three layers, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(1, 2 * width),
                nn.SiLU(),
                nn.Linear(2 * width, 2 * width),
                nn.SiLU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(2)
        )

    def forward(self, positions: Int[Tensor, " time"], chunk: int) -> Float[Tensor, "time width"]:
        dtype = self.mlps[0][0].weight.dtype  # pyright: ignore[reportIndexIssue]
        total: Tensor | None = None
        for mlp, coordinate in zip(self.mlps, (positions // chunk, positions % chunk), strict=True):
            # many tokens share a coordinate: each value passes the network once
            values, place = coordinate.unique(return_inverse=True)
            part = mlp(values[:, None].to(dtype))[place]
            total = part if total is None else total + part
        assert total is not None
        return total


class GatedFeedForward(nn.Module):
    """RMSNorm, Linear to two halves (a, g), ``a · SiLU(g)``, Linear."""

    def __init__(self, width: int, mult: float) -> None:
        super().__init__()
        inner = int(width * mult * 2 / 3)
        self.norm = nn.RMSNorm(width)
        self.proj_in = nn.Linear(width, 2 * inner)
        self.proj_out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        a, gate = self.proj_in(self.norm(x)).chunk(2, -1)
        return self.proj_out(a * F.silu(gate))


class Views(nn.Module):
    """What a memory's queries, keys and values read: three learned mixtures of the memory's input and of earlier layers' inputs and outputs."""

    def __init__(self, width: int, candidates: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.proj = nn.Linear(width, 3 * candidates)

    def forward(self, x: Tensor, earlier: Sequence[Tensor]) -> Float[Tensor, "three batch time width"]:
        candidates = torch.stack([x, *earlier], -2)
        weights = self.proj(self.norm(x)).unflatten(-1, (3, -1)).softmax(-1)
        return (weights @ candidates).permute(2, 0, 1, 3)


class TitansLRLayer(nn.Module):
    """Memory, attention and feed-forward part around the residual."""

    def __init__(self, config: TitansLRConfig, number: int, first_memory: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.gates, self.passes_weights = config.neural_mem_gate_attn_output, config.neural_mem_weight_residual
        self.memory: PublicNeuralMemory | None = None
        self.views: Views | None = None
        layers = config.neural_memory_layers
        if layers is None or number in layers:
            if number > 1 and config.neural_memory_qkv_receives_diff_views:
                self.views = Views(width, 4 * (number - 1) + 1)
            self.memory = build_memory(
                {
                    "dim": width,
                    "chunk_size": config.chunk,
                    "batch_size": config.neural_memory_batch_size,
                    "qkv_receives_diff_views": self.views is not None,
                    "accept_weight_residual": config.neural_mem_weight_residual and not first_memory,
                    **(config.neural_memory_kwargs or {}),
                }
            )
            self.memory.expose_weight_sets = config.neural_mem_weight_residual
        self.attention = SegmentedAttention(
            width,
            segment_len=config.segment_len,
            num_longterm_mem_tokens=config.num_longterm_mem_tokens,
            num_persist_mem_tokens=config.num_persist_mem_tokens,
            head_dim=config.head_dim,
            num_heads=config.num_attention_heads,
            sliding=config.sliding_window_attn,
            accept_value_residual=number > 1,
        )
        self.feed_forward = GatedFeedForward(width, config.ff_mult)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        earlier: Sequence[Tensor],
        first_values: Tensor | None,
        weight_sets: tuple[Tensor, ...] | None,
        cache: TitansLRCache | None,
    ) -> tuple[Tensor, list[Tensor], Tensor, tuple[Tensor, ...] | None]:
        """The output, what later views may choose, this layer's values, and the weight sets for the next memory.

        Args:
            earlier: what the layers before offer to views.
            first_values: the first layer's values.
            weight_sets: of the last memory before.
        """
        gate: Tensor | None = None
        if self.memory is not None:
            state = PublicMemoryCache() if cache is None else cache.memory
            viewed = x if self.views is None else self.views(x, earlier)
            takes = self.memory.to_residual_mix is not None
            retrieved = self.memory(viewed, cache=state, prev_weights=weight_sets if takes else None)
            weight_sets = state.weight_sets if self.passes_weights else None
            state.weight_sets = None  # of this call alone
            if self.gates:
                gate = retrieved.sigmoid()
            else:
                x = x + retrieved
        offered = [x]
        y, values = self.attention(
            x, first_values=first_values, return_values=True, cache=None if cache is None else cache.attention
        )
        if gate is not None:
            y = y * gate
        offered.append(y)
        x = x + y
        offered.append(x)
        y = self.feed_forward(x)
        offered.append(y)
        return x + y, offered, values, weight_sets


class TitansLRStack(Stack):
    """Embedding, positions, long-term tokens between segments, layers, final norm."""

    def __init__(self, config: TitansLRConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.longterm = nn.Parameter(torch.randn(config.num_longterm_mem_tokens, width) * 0.02)
        self.positions = AxialPositions(width)
        layers, seen_memory = [], False
        for number in range(1, config.num_hidden_layers + 1):
            layers.append(TitansLRLayer(config, number, not seen_memory))
            seen_memory = seen_memory or layers[-1].memory is not None
        self.layers = nn.ModuleList(layers)
        self.norm = nn.RMSNorm(width)

    def new_caches(self) -> list[Cache]:
        caches: list[Cache] = []
        for layer in self.layers:
            memory = PublicMemoryCache() if layer.memory is None else layer.memory.new_cache()
            caches.append(TitansLRCache(layer.attention.new_cache(), memory))
        return caches

    def forward(self, ids: Int[Tensor, "rows time"], caches: Sequence[Any] | None = None) -> Mixed:
        begin = 0 if caches is None else caches[0].tokens
        x, places = self._with_longterm(self.embed_tokens(ids), begin)
        start = begin + self._longterm_before(begin)
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        x = x + self.positions(positions, self.config.chunk)
        earlier: list[Tensor] = []
        first_values: Tensor | None = None
        weight_sets: tuple[Tensor, ...] | None = None
        for i, layer in enumerate(self.layers):
            cache = None if caches is None else caches[i]
            x, offered, values, weight_sets = self.run(layer, x, earlier, first_values, weight_sets, cache)
            earlier = earlier + offered
            first_values = values if first_values is None else first_values
        if caches is not None:
            for cache in caches:
                cache.tokens = begin + ids.shape[1]
        return self.norm(x)[:, places], None

    def _longterm_before(self, tokens: int) -> int:
        """Long-term tokens that stand before token number `tokens` + 1 or were read with the tokens so far."""
        return max(tokens - 1, 0) // self.config.segment_len * self.config.num_longterm_mem_tokens

    def _with_longterm(self, x: Tensor, begin: int) -> tuple[Tensor, Tensor]:
        """The stream with its long-term tokens, which come before the first token of every segment but the first; where the tokens stand."""
        segment, count = self.config.segment_len, self.config.num_longterm_mem_tokens
        token = torch.arange(x.shape[1], device=x.device)
        if not count:
            return x, token
        inserted = (begin + token) // segment * count - self._longterm_before(begin)
        places = token + inserted
        length = int(places[-1]) + 1
        if length == len(token):  # no segment begins here
            return x, token
        is_token = torch.zeros(length, dtype=torch.bool, device=x.device)
        is_token[places] = True
        stream = x.new_zeros(x.shape[0], length, x.shape[2])
        stream[:, places] = x
        gaps = (~is_token).nonzero()[:, 0]
        stream[:, gaps] = self.longterm.to(x.dtype).repeat(len(gaps) // count, 1)
        return stream, places


class TitansLRForCausalLM(SuiteForCausalLM):
    """`TitansLRConfig` as a language model."""

    config_class: ClassVar[Any] = TitansLRConfig

    def __init__(self, config: TitansLRConfig) -> None:
        super().__init__(config)
        self.model = TitansLRStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def new_cache(self) -> SuiteCache:
        """An empty cache."""
        return SuiteCache(self.model.new_caches)


def config_from_official(config: Mapping[str, Any]) -> TitansLRConfig:
    """The configuration of titans-pytorch's constructor arguments.

    Raises:
        ValueError: residual streams other than one.
    """
    if config.get("num_residual_streams", 4) != 1:
        raise ValueError("only one residual stream is held here: num_residual_streams=1")
    same = (
        *("segment_len", "num_longterm_mem_tokens", "num_persist_mem_tokens", "neural_memory_segment_len"),
        *("neural_memory_batch_size", "neural_memory_layers", "neural_memory_kwargs", "neural_mem_gate_attn_output"),
        *("neural_mem_weight_residual", "neural_memory_qkv_receives_diff_views", "sliding_window_attn", "ff_mult"),
    )
    return TitansLRConfig(
        vocab_size=config["num_tokens"],
        hidden_size=config["dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config.get("heads", 8),
        head_dim=config.get("dim_head", 64),
        **{name: config[name] for name in same if config.get(name) is not None},
    )
