"""The decoder that the LLaMA-shaped models share, and its plain attentions: whole, in a sliding window, in blocks (MoBA).

Parameter names are LLaMA's, so that checkpoints load as they are. A mechanism is an attention ``(x, cache=…) -> y`` or ``(y, auxiliary loss)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.masks import Causal
from core_attention.mechanisms.moh.llama import SwiGLU
from core_attention.mechanisms.titans.attention import sliding_attention
from core_attention.mechanisms.vmoba.moba import MoBA
from core_attention.parts.cache import SETTING, Cache, Rows
from core_attention.parts.rotary import rotary_angles, rotary_tables, rotate, turn
from language_models.model.causal import Stack
from language_models.model.configs import SuiteConfig

Mixed = tuple[Tensor, Tensor | None]
Kind = Literal["standard", "sliding", "moba"]


class RMSNorm(nn.RMSNorm):
    """torch's, written out for one token, where its own takes as long as a product on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] > 1 or self.eps is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return normed.to(x.dtype) * self.weight


class DecoderLayer(nn.Module):
    """``h = x + Attention(RMSNorm x)``, ``y = h + SwiGLU(RMSNorm h)``."""

    def __init__(self, config: SuiteConfig, self_attn: nn.Module) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Float[Tensor, "batch time width"], cache: Cache | None = None, **options: Any) -> Mixed:
        """The output and the attention's auxiliary loss; options are the attention's."""
        y, auxiliary = mixed(self.self_attn(self.input_layernorm(x), cache=cache, **options))
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), auxiliary


def mixed(result: Tensor | Mixed) -> Mixed:
    """An attention's result with its auxiliary loss, None where it has none."""
    if isinstance(result, tuple):
        return result
    return result, None


class Decoder(Stack):
    """Embedding, layers, final norm, with LLaMA's names.

    Args:
        make: the attention of layer i; any module of `core_attention` that is called as ``module(x, cache=…)`` and has `new_cache`.
    """

    def __init__(self, config: SuiteConfig, make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, make(i)) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def new_caches(self) -> list[Cache]:
        return [layer.self_attn.new_cache() for layer in self.layers]

    def forward(self, ids: Int[Tensor, "rows time"], caches: Sequence[Cache] | None = None) -> Mixed:
        x, auxiliary = self.through(self.embed_tokens(ids), caches)
        return self.norm(x), auxiliary

    def through(self, x: Tensor, caches: Sequence[Cache] | None, **options: Any) -> Mixed:
        """The layers one after the other, and the sum of their auxiliary losses; options go to every attention."""
        total: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, auxiliary = self.run(layer, x, None if caches is None else caches[i], **options)
            if auxiliary is not None:
                total = auxiliary if total is None else total + auxiliary
        return x, total


@dataclass
class WindowCache(Cache):
    """The last `window` − 1 keys and values.

    Attributes:
        window: keys that a query sees, its own counted.
        length: tokens read.
        keys, values: (batch, kv heads, at most window − 1, dim).
    """

    window: int = field(metadata=SETTING)
    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that the new queries may see; afterwards only what later queries may see is held."""
        if self.keys is not None and self.values is not None:
            k, v = torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)
        keep = max(0, k.shape[2] - self.window + 1)
        self.keys, self.values = k[:, :, keep:].detach(), v[:, :, keep:].detach()
        return k, v


class PlainAttention(nn.Module):
    """Grouped-query attention with rotary positions, as in LLaMA and Qwen2.

    Args:
        config: sizes; `attention_bias` puts biases on the queries, keys and values alone, as in Qwen2.
        kind: ``"standard"``: every token before; ``"sliding"``: the last `window`; ``"moba"``: its own block of `window` tokens and the
            `topk` − 1 earlier ones whose mean key scores highest.
        window, topk: of the two sparse kinds.

    Raises:
        ValueError: a window below 1, or heads that do not divide the width.
    """

    def __init__(self, config: SuiteConfig, kind: Kind = "standard", window: int = 64, topk: int = 3) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        assert kv_heads is not None
        if config.hidden_size % heads or window < 1:
            raise ValueError(
                f"heads divide the width and a window is at least 1, got {config.hidden_size} / {heads}, {window}"
            )
        self.kind, self.window, self.theta = kind, window, config.rope_theta
        self.head_dim = config.hidden_size // heads
        self.heads, self.kv_heads = heads, kv_heads
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.head_dim, config.hidden_size, bias=False)
        self.blocks = MoBA(block=window, topk=topk) if kind == "moba" else None

    def new_cache(self) -> Cache:
        if self.blocks is not None:
            return self.blocks.new_cache()
        return Rows() if self.kind == "standard" else WindowCache(self.window)

    def forward(self, x: Float[Tensor, "batch time width"], cache: Cache | None = None) -> Tensor:
        begin = 0 if cache is None else cache.length  # pyright: ignore[reportAttributeAccessIssue]
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, begin, self.theta), rotated(k, begin, self.theta)
        if self.blocks is not None:
            y = self.blocks(q, k, v, cache=cache)
        elif self.kind == "standard":
            k, v = (k, v) if cache is None else cache.extend(k, v)  # pyright: ignore[reportAttributeAccessIssue]
            mask = None if x.shape[1] == 1 else Causal(offset=begin)
            y = attention(q, k, v, mask=mask)
        else:
            k, v = (k, v) if cache is None else cache.extend(k, v)  # pyright: ignore[reportAttributeAccessIssue]
            if cache is not None:
                cache.length = begin + x.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            y = sliding_attention(q, k, v, window=self.window)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def rotated(
    x: Float[Tensor, "batch heads time dim"], begin: int, theta: float
) -> Float[Tensor, "batch heads time dim"]:
    """Rotary phase (half-split) of positions begin, begin + 1, …"""
    positions = torch.arange(begin, begin + x.shape[2], device=x.device)
    if x.shape[2] == 1:
        return turn(x, *rotary_tables(positions, x.shape[-1], theta, "half", x.dtype))
    return rotate(x, rotary_angles(positions, x.shape[-1], theta, x.dtype))
