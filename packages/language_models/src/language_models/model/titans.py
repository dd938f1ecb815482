"""Titans of the paper as language models: memory as context (MAC), as gate (MAG), as layer (MAL), or alone (LMM).

Pre-norm residual blocks: ``h = x + Titans(RMSNorm x)``, ``y = h + SwiGLU(RMSNorm h)``. Every output depends on earlier tokens alone (MAC reads its
own token's write, not the end of the segment). The paper gives no depths and widths; `PRESETS` holds ours for its sizes.
Source: Behrouz, Zhong, Mirrokni, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from core_attention.mechanisms.titans.layers import titans_layer
from core_attention.mechanisms.titans.memory import NeuralMemory
from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder

VARIANTS = ("mac", "mag", "mal", "lmm")


class TitansConfig(SuiteConfig):
    """Sizes of the decoder, and of the memory.

    Attributes:
        variant: ``"mac"``, ``"mag"``, ``"mal"`` or ``"lmm"``.
        window: tokens of the attention's window or segment, and of a memory's chunk.
        num_persistent: learned tokens before the sequence (none with LMM).
        memory_heads: independent memories of a layer; None: as many as attention heads.
        memory_depth, memory_expansion: layers of a memory, and its hidden width over that of a head.
        theta_max, max_grad_norm: upper bound of the step size, and of each token's gradient.
        conv_kernel: depthwise causal convolution after each projection of the memory; None: none.
        gated_output: what is read is normalised and gated before its projection.
        mac_output_read: ``"token"`` or ``"previous"``; the paper's ``"segment_end"`` lets a token see later ones of its segment and is refused.
    """

    model_type = "titans"
    variant: str = "mag"
    window: int = 64
    num_persistent: int = 4
    memory_heads: int | None = None
    memory_depth: int = 2
    memory_expansion: float = 4.0
    theta_max: float = 0.1
    max_grad_norm: float | None = 1.0
    conv_kernel: int | None = 4
    gated_output: bool = True
    mac_output_read: str = "token"

    def check(self) -> None:
        super().check()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.mac_output_read not in ("token", "previous"):
            raise ValueError(
                f"a language model reads its memory at 'token' or 'previous': {self.mac_output_read!r} would show later tokens"
            )
        if self.num_key_value_heads != self.num_attention_heads:
            raise ValueError("Titans has as many key heads as query heads")


def _preset(layers: int, width: int, heads: int) -> Mapping[str, Any]:
    inner = -(-8 * width // 3 // 64) * 64  # SwiGLU of LLaMA's width
    return {
        "vocab_size": 32000,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 4096,
        "window": 64,
    }


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "titans-170m": _preset(12, 768, 12),
    "titans-340m": _preset(24, 832, 13),
    "titans-400m": _preset(24, 896, 14),
    "titans-760m": _preset(24, 1280, 20),
}


def titans_mixer(config: TitansConfig) -> nn.Module:
    """The mixing part of one layer."""
    heads = config.num_attention_heads if config.memory_heads is None else config.memory_heads
    memory = {
        "depth": config.memory_depth,
        "expansion": config.memory_expansion,
        "theta_max": config.theta_max,
        "max_grad_norm": config.max_grad_norm,
        "conv_kernel": config.conv_kernel,
        "gated_output": config.gated_output,
    }
    if config.variant == "lmm":
        return NeuralMemory(config.hidden_size, num_heads=heads, chunk_size=config.window, **memory)
    return titans_layer(
        config.variant,  # pyright: ignore[reportArgumentType]
        config.hidden_size,
        window=config.window,
        num_heads=config.num_attention_heads,
        num_persistent=config.num_persistent,
        read=config.mac_output_read,  # pyright: ignore[reportArgumentType]
        memory_heads=heads,
        **memory,
    )


class TitansForCausalLM(SuiteForCausalLM):
    """`TitansConfig` as a language model."""

    config_class: ClassVar[Any] = TitansConfig

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config, lambda i: titans_mixer(config))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights; the gates of the memories begin with slow forgetting and long momentum."""
        super()._init_weights(module)
        if isinstance(module, NeuralMemory):
            module.reset_gates()
