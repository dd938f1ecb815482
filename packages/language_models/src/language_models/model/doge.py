"""Doge: dynamic mask attention as a language model, dense or with product-key experts; reads folders with ``model_type: doge``.

Source: Shi et al., "Trainable Dynamic Mask Sparse Attention", arXiv 2508.02124; transformers' `models/doge`, whose parameter names these are.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.dma.layer import DynamicMaskAttention
from core_attention.mechanisms.moh.llama import SwiGLU
from core_attention.parts.cache import Cache
from language_models.model.causal import Stack, SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder, Mixed, RMSNorm


class DogeConfig(SuiteConfig):
    """transformers' options of Doge, and what the paper and the kernel repository do otherwise.

    Attributes:
        keep_window_size: keys that a query keeps.
        bias_form: importance in ``"exp"`` (checkpoints) or ``"log"`` form.
        is_moe, num_experts, num_experts_per_tok, norm_topk_prob: product-key experts beside the shared one.
        router: ``"per_token"``; ``"transformers"`` is the published reshape, which mixes tokens and is not causal: for its checkpoints.
        output_router_logits, router_aux_loss_coef: adds the load-balance loss.
    """

    model_type = "suite-doge"
    vocab_size: int = 32768
    hidden_size: int = 1024
    intermediate_size: int = 2048
    num_hidden_layers: int = 32
    num_attention_heads: int = 8
    head_dim: int | None = None
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    keep_window_size: int = 2048
    bias_form: str = "exp"
    is_moe: bool = False
    num_experts: int = 16384
    num_experts_per_tok: int = 64
    norm_topk_prob: bool = False
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001
    router: str = "per_token"

    def __post_init__(self, **kwargs: Any) -> None:
        # older configurations name the window otherwise
        if "window_size" in kwargs:
            self.keep_window_size = kwargs.pop("window_size")
        super().__post_init__(**kwargs)

    def check(self) -> None:
        super().check()
        if self.keep_window_size < 1:
            raise ValueError(f"keep_window_size is at least 1, got {self.keep_window_size}")
        if self.bias_form not in ("exp", "log"):
            raise ValueError(f"bias_form is exp or log, got {self.bias_form!r}")
        if self.router not in ("per_token", "transformers"):
            raise ValueError(f"router is per_token or transformers, got {self.router!r}")
        if self.is_moe and self.num_experts_per_tok > math.isqrt(self.num_experts) ** 2:
            raise ValueError(f"{self.num_experts_per_tok} experts of {self.num_experts} cannot be chosen")


class ProductKeyExperts(SwiGLU):
    """The shared SwiGLU, and for every token the few of many one-channel experts that two small sets of keys point at ("cross-domain").

    Expert e contributes ``act(down_e · x) · weight_e · up_e``.
    """

    def __init__(self, config: DogeConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.keys, self.top_k = math.isqrt(config.num_experts), config.num_experts_per_tok
        self.normalised, self.router = config.norm_topk_prob, config.router
        self.router_gate = nn.Linear(config.hidden_size, 2 * self.keys, bias=False)
        self.down_embed = nn.Embedding(config.num_experts, config.hidden_size)
        self.up_embed = nn.Embedding(config.num_experts, config.hidden_size)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return self.with_balance(x)[0]

    def with_balance(self, x: Float[Tensor, "batch time width"]) -> tuple[Tensor, Tensor]:
        """The output and the load-balance loss of this layer: keys times Σ (share of tokens) · (mean probability), over both halves."""
        tokens = x.flatten(0, 1)
        logits = self.router_gate(tokens)
        if self.router == "transformers":
            halves = logits.view(2, len(tokens), self.keys)  # rows of other tokens: kept for checkpoints
        else:
            halves = logits.view(len(tokens), 2, self.keys).transpose(0, 1)
        scores = (halves[0][:, :, None] + halves[1][:, None]).flatten(1)  # of expert i · keys + j
        best, experts = scores.topk(self.top_k, dim=-1)
        weights = best.softmax(-1)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        inner = torch.einsum("nkc,nc->nk", self.down_embed(experts), tokens)
        routed = torch.einsum("nk,nkc->nc", F.silu(inner) * weights, self.up_embed(experts))
        out = super().forward(x) + routed.view_as(x)
        return out, self._balance(halves, experts)

    def _balance(self, halves: Tensor, experts: Tensor) -> Tensor:
        loss = halves.new_zeros(())
        for half, keys in zip(halves, (experts // self.keys, experts % self.keys), strict=True):
            share = F.one_hot(keys, self.keys).to(half.dtype).mean((0, 1))
            loss = loss + self.keys * (share * half.softmax(-1).mean(0)).sum()
        return loss


class DogeLayer(nn.Module):
    """``h = g₁ x + Attention(RMSNorm x)``, ``y = g₂ h + MLP(RMSNorm h)`` with learned gains g."""

    def __init__(self, config: DogeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = DynamicMaskAttention(
            width,
            config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            window=config.keep_window_size,
            form=config.bias_form,  # pyright: ignore[reportArgumentType]
            bias=config.attention_bias,
            eps=config.rms_norm_eps,
            theta=config.rope_theta,
            dropout=config.attention_dropout,
        )
        self.mlp = (
            ProductKeyExperts(config)
            if config.is_moe
            else SwiGLU(width, config.intermediate_size, bias=config.mlp_bias)
        )
        self.input_layernorm = RMSNorm(width, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(width, eps=config.rms_norm_eps)
        self.input_residual = nn.Parameter(torch.ones(width))
        self.post_attention_residual = nn.Parameter(torch.ones(width))
        self.dropout = config.hidden_dropout
        self.balances = config.is_moe and config.output_router_logits

    def forward(self, x: Float[Tensor, "batch time width"], cache: Cache | None = None) -> Mixed:
        y = self.self_attn(self.input_layernorm(x), cache=cache)
        x = self.input_residual * x + F.dropout(y, self.dropout, self.training)
        normed, balance = self.post_attention_layernorm(x), None
        if self.balances:
            assert isinstance(self.mlp, ProductKeyExperts)
            y, balance = self.mlp.with_balance(normed)
        else:
            y = self.mlp(normed)
        return self.post_attention_residual * x + F.dropout(y, self.dropout, self.training), balance


class DogeStack(Decoder):
    """Doge's layers."""

    def __init__(self, config: DogeConfig) -> None:
        Stack.__init__(self)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DogeLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DogeForCausalLM(SuiteForCausalLM):
    """`DogeConfig` as a language model."""

    config_class: ClassVar[Any] = DogeConfig
    config: DogeConfig

    def __init__(self, config: DogeConfig) -> None:
        super().__init__(config)
        self.model = DogeStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.auxiliary_weight = config.router_aux_loss_coef
        self.post_init()
