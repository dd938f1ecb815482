"""Scatterbrain as a language model: LLaMA's decoder, near keys exactly and all older ones by random features.

Source: Chen et al., "Scatterbrain: Unifying Sparse and Low-rank Attention", NeurIPS 2021, arXiv 2110.15343.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.mechanisms.scatterbrain.streaming import ScatterbrainCache, scatterbrain_stream
from core_attention.parts.cache import Cache
from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder, PlainAttention, rotated


class ScatterbrainConfig(SuiteConfig):
    """LLaMA's sizes, and those of the approximation.

    Attributes:
        local_context: L; a query sees the last ⌊L/2⌋ + 1 keys exactly.
        features: random features of a head; None: int(d ln d).
        projection_seed: of the random projections, which are kept with the weights.
    """

    model_type = "scatterbrain-lm"
    local_context: int = 128
    features: int | None = None
    projection_seed: int = 0

    def check(self) -> None:
        super().check()
        if self.local_context < 1:
            raise ValueError(f"local_context is at least 1, got {self.local_context}")


class ScatterbrainSelfAttention(PlainAttention):
    """`SBLocalAttention` between LLaMA's projections; key heads are repeated for their groups."""

    def __init__(self, config: ScatterbrainConfig, seed: int) -> None:
        super().__init__(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.local = SBLocalAttention(self.head_dim, config.local_context, features=config.features, causal=True)

    def new_cache(self) -> Cache:
        return ScatterbrainCache(self.local.window)

    def forward(self, x: Float[Tensor, "batch time width"], cache: Cache | None = None) -> Tensor:
        begin = 0 if cache is None else cache.length  # pyright: ignore[reportAttributeAccessIssue]
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(q, begin, self.theta), rotated(k, begin, self.theta)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        if cache is None:
            y = self.local(q, k, v)
        else:
            assert isinstance(cache, ScatterbrainCache)
            y = scatterbrain_stream(q, k, v, self.local.feature_map, cache)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class ScatterbrainForCausalLM(SuiteForCausalLM):
    """`ScatterbrainConfig` as a language model."""

    config_class: ClassVar[Any] = ScatterbrainConfig

    def __init__(self, config: ScatterbrainConfig) -> None:
        super().__init__(config)
        seed = config.projection_seed
        self.model = Decoder(config, lambda i: ScatterbrainSelfAttention(config, seed + i))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
