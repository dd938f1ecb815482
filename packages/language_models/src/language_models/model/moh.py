"""MoH-LLaMA: LLaMA whose tokens choose among their heads; LLaMA 3's parameter names unchanged.

Source: Jin et al., "MoH: Multi-Head Attention as Mixture-of-Head Attention", ICML 2025, arXiv 2410.11842.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from core_attention.mechanisms.moh.llama import MoHLlamaAttention
from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder


class MoHConfig(SuiteConfig):
    """LLaMA's options and the router's.

    Attributes:
        head_dim: None: hidden_size / heads.
        shared_heads: heads that every token uses; None: half. A list gives each layer its own.
        routed_heads: heads that a token chooses among the others; None: a quarter of all. A list likewise.
        router: ``"norm"`` has no parameter and fits a pretrained LLaMA; ``"learned"`` is the two-stage router, for training from scratch.
        gate_scale: of the learned router, ``"code"`` or ``"paper"``.
        balance_weight: of the load-balance loss, per layer.
    """

    model_type = "moh-llama"
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5
    head_dim: int | None = None
    shared_heads: int | list[int] | None = None
    routed_heads: int | list[int] | None = None
    router: str = "norm"
    gate_scale: str = "code"
    balance_weight: float = 0.01

    def check(self) -> None:
        super().check()
        for name in ("shared_heads", "routed_heads"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.num_hidden_layers:
                raise ValueError(f"{name} gives {len(value)} numbers for {self.num_hidden_layers} layers")


def _of_layer(value: int | list[int] | None, i: int) -> int | None:
    return value[i] if isinstance(value, list) else value


class MoHForCausalLM(SuiteForCausalLM):
    """`MoHConfig` as a language model; with labels the loss holds the mean balance loss of its layers."""

    config_class: ClassVar[Any] = MoHConfig

    def __init__(self, config: MoHConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config, lambda i: self._attention(config, i))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.auxiliary_weight = config.balance_weight / config.num_hidden_layers
        self.post_init()

    @staticmethod
    def _attention(config: MoHConfig, i: int) -> MoHLlamaAttention:
        options: dict[str, Any] = {"router": config.router, "gate_scale": config.gate_scale}
        return MoHLlamaAttention(
            config.hidden_size,
            config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            shared=_of_layer(config.shared_heads, i),
            routed=_of_layer(config.routed_heads, i),
            theta=config.rope_theta,
            bias=config.attention_bias,
            **options,
        )
