"""Contests of dynamic masks, landmark attention, Scatterbrain and mixture of heads."""

from __future__ import annotations

from typing import Any

import torch
from core_routed import Contest, Growth
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.measuring.bench import SoftmaxAttention
from core_attention.mechanisms.dma.attention import dynamic_mask_attention
from core_attention.mechanisms.dma.layer import DynamicMaskAttention
from core_attention.mechanisms.landmark.attention import landmark_attention
from core_attention.mechanisms.landmark.memory import LandmarkMemory
from core_attention.mechanisms.moh.attention import MoHAttention, keep_largest
from core_attention.mechanisms.moh.heads import selected_heads_attention
from core_attention.mechanisms.moh.llama import MoHLlamaAttention
from core_attention.mechanisms.scatterbrain.attention import ScatterbrainAttention
from core_attention.mechanisms.scatterbrain.blocks import SBBlockAttention
from core_attention.mechanisms.scatterbrain.local import SBLocalAttention
from core_attention.mechanisms.scatterbrain.lsh import SBSmyrfAttention


class Doge(nn.Module):
    """transformers' layer with the same weights, and what its model hands to it: rotations and a causal mask."""

    def __init__(self, ours: DynamicMaskAttention, tokens: int) -> None:
        from transformers import DogeConfig
        from transformers.models.doge.modeling_doge import DogeAttention, DogeRotaryEmbedding

        super().__init__()
        config = DogeConfig(
            hidden_size=ours.q_proj.in_features,
            num_attention_heads=ours.num_heads,
            num_key_value_heads=ours.num_kv_heads,
            keep_window_size=ours.window,
        )
        config._attn_implementation = "sdpa"
        self.layer = DogeAttention(config, 0)
        self.layer.load_state_dict(ours.state_dict())
        self.angles = DogeRotaryEmbedding(config)(torch.zeros(1), torch.arange(tokens)[None])
        self.mask = torch.ones(tokens, tokens).triu(1)[None, None] * torch.finfo(torch.float32).min

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.angles, self.mask)[0]


def dma(tokens: int, *peers: str):
    """Doge's layer of 512 channels and 8 heads with a window of 256; peers "whole", "definition", "doge"."""

    def make(small: bool):
        torch.manual_seed(0)
        n = 300 if small else tokens
        layer = DynamicMaskAttention(512, 8, window=256).eval()
        nn.init.normal_(layer.A)
        whole = DynamicMaskAttention(512, 8, window=n).eval()
        whole.load_state_dict(layer.state_dict())
        every = {
            "ours": lambda: layer,
            "whole": lambda: whole,
            "definition": lambda: Definition(layer),
            "doge": lambda: Doge(layer, n).eval(),
        }
        x = torch.randn(1, n, 512)
        return {name: (every[name](), (x,)) for name in ("ours", *peers)}

    return make


class Definition(nn.Module):
    """The layer computed by its definition, masks and scores of length × length."""

    def __init__(self, layer: DynamicMaskAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, backend="reference")


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused causal attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def landmark(tokens: int, dim: int, *peers: str):
    """8 heads with the published blocks of 51; peers "definition", "sdpa causal"."""

    def make(small: bool):
        torch.manual_seed(0)
        inputs = tuple(torch.randn(1, 8, 120 if small else tokens, dim) for _ in range(3))
        every = {
            "ours": lambda q, k, v: landmark_attention(q, k, v, block=51),
            "definition": lambda q, k, v: landmark_attention(q, k, v, block=51, backend="reference"),
            "sdpa causal": causal,
        }
        return {name: (every[name], inputs) for name in ("ours", *peers)}

    return make


class Matrices(nn.Module):
    """Scatterbrain by its definition."""

    def __init__(self, attention: ScatterbrainAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention.matrices(q, k).weights @ v


def scatterbrain(tokens: int, *peers: str):
    """8 heads of 64 with the published ListOps budget; peers "clusters", "blocks", "definition", "causal", "sdpa", "sdpa causal"."""

    def make(small: bool):
        torch.manual_seed(0)
        inputs = tuple(torch.randn(1, 8, 130 if small else tokens, 64) for _ in range(3))
        local = SBLocalAttention(64, 64, features=32)
        every: dict[str, Any] = {
            "ours": local,
            "ours causal": SBLocalAttention(64, 64, features=32, causal=True),
            "clusters": SBSmyrfAttention(64, hashes=2, q_cluster=32, k_cluster=32, features=32),
            "blocks": SBBlockAttention(64, "bigbird", block=32, features=32),
            "definition": Matrices(local),
            "sdpa": F.scaled_dot_product_attention,
            "sdpa causal": causal,
        }
        return {name: (every[name], inputs) for name in ("ours", *peers)}

    return make


class FirstOutput(nn.Module):
    """A layer of mixed heads without its loss, skipping what was not chosen or not."""

    def __init__(self, layer: MoHAttention | MoHLlamaAttention, skip: bool) -> None:
        super().__init__()
        self.layer, self.skip = layer, skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, skip=self.skip)[0]


def moh(tokens: int, shared: int, routed: int, llama: bool = False):
    """A layer of 768 channels and 12 heads; against all heads computed and multiplied by their gates, and plain attention."""

    def make(small: bool):
        torch.manual_seed(0)
        kind = MoHLlamaAttention if llama else MoHAttention
        layer = kind(768, 12, shared=shared, routed=routed)
        x = torch.randn(1, 64 if small else tokens, 768)
        made = {"ours": (FirstOutput(layer, True), (x,)), "all heads": (FirstOutput(layer, False), (x,))}
        return made if llama else made | {"plain": (SoftmaxAttention(768, 12), (x,))}

    return make


CONTESTS = {
    "dma-2048": Contest(dma(2048, "whole", "definition", "doge"), "faster than with a window of everything", rounds=9),
    "dma-16384": Contest(dma(16384, "whole"), "≥ 3 times faster than with a window of everything", rounds=2),
    "landmark-1024": Contest(landmark(1024, 32, "definition", "sdpa causal"), "≤ 3 × causal SDPA", rounds=15),
    "landmark-1024-64": Contest(landmark(1024, 64, "sdpa causal"), "≤ 3 × causal SDPA", rounds=15),
    "landmark-8192": Contest(landmark(8192, 64, "sdpa causal"), rounds=2),
    "scatterbrain-512": Contest(
        scatterbrain(512, "ours causal", "clusters", "blocks", "sdpa", "sdpa causal"), rounds=15, memory=False
    ),
    "scatterbrain-1024": Contest(
        scatterbrain(1024, "ours causal", "clusters", "blocks", "definition", "sdpa", "sdpa causal"),
        "crossover against SDPA below 2,048 tokens",
        rounds=15,
    ),
    "scatterbrain-2048": Contest(
        scatterbrain(2048, "ours causal", "clusters", "blocks", "sdpa", "sdpa causal"),
        "faster than SDPA",
        rounds=7,
        memory=False,
    ),
    "moh-1024-50": Contest(moh(1024, 3, 3), "faster than all heads", rounds=15),
    "moh-1024-75": Contest(moh(1024, 6, 3), "faster than all heads", rounds=15),
    "moh-4096-50": Contest(moh(4096, 3, 3), "faster than all heads", rounds=3),
    "moh-4096-75": Contest(moh(4096, 6, 3), "faster than all heads", rounds=3),
    "moh-llama-1024-75": Contest(moh(1024, 6, 3, llama=True), "faster than all heads", rounds=15),
    "moh-llama-4096-75": Contest(moh(4096, 6, 3, llama=True), "faster than all heads", rounds=3),
}


def _qkv(tokens: int) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(1, 2, tokens, 64) for _ in range(3))


def _dma(tokens: int):
    bias = torch.randn(1, 2, 1, tokens, generator=torch.Generator().manual_seed(1))
    return (lambda q, k, v, b: dynamic_mask_attention(q, k, v, b, window=256)), (*_qkv(tokens), bias)


def _reading(tokens: int):
    def read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        memory = LandmarkMemory(51, 4, choice="max_over_tokens")
        chunks = zip(*(x.split(510, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([memory.attend(*chunk) for chunk in chunks], dim=2)

    return read, _qkv(tokens)


def _scatterbrain(attention: ScatterbrainAttention):
    return lambda tokens: (attention, _qkv(tokens))


def _moh(tokens: int):
    p = torch.rand(1, tokens, 2, generator=torch.Generator().manual_seed(1))
    return (lambda q, k, v: selected_heads_attention(q, k, v, keep_largest(p, 1))), _qkv(tokens)


GROWTH = {
    "dynamic masks, window 256": Growth(_dma),
    "landmark, one pass": Growth(lambda n: ((lambda q, k, v: landmark_attention(q, k, v, block=51)), _qkv(n))),
    "landmark, reading chunks of 510": Growth(_reading),
    "Scatterbrain, window 64": Growth(_scatterbrain(SBLocalAttention(64, 64, features=32))),
    "Scatterbrain, clusters of 32": Growth(
        _scatterbrain(SBSmyrfAttention(64, q_cluster=32, k_cluster=32, features=32))
    ),
    "mixture of heads, 1 of 2": Growth(_moh),
}
