"""Plain LLaMA/Qwen2 decoders: the twins that every mechanism is compared with, whole, in a sliding window, or in blocks (MoBA)."""

from __future__ import annotations

from typing import Any, ClassVar

import transformers
from torch import nn

from language_models.model.causal import SuiteForCausalLM
from language_models.model.configs import SuiteConfig
from language_models.model.decoder import Decoder, PlainAttention


class PlainConfig(SuiteConfig):
    """A LLaMA decoder (Qwen2's with `attention_bias`).

    Attributes:
        attention: ``"standard"``, ``"sliding"`` or ``"moba"``.
        window: of the sliding window, or of a block.
        topk: blocks that a query reads, its own counted.
    """

    model_type = "plain-llama"
    attention: str = "standard"
    window: int = 512
    topk: int = 3

    def check(self) -> None:
        super().check()
        if self.attention not in ("standard", "sliding", "moba"):
            raise ValueError(f"attention is standard, sliding or moba, got {self.attention!r}")
        if self.window < 1:
            raise ValueError(f"window is at least 1, got {self.window}")


class PlainForCausalLM(SuiteForCausalLM):
    """`PlainConfig` as a language model; a Standard one equals LlamaForCausalLM or Qwen2ForCausalLM with the same weights."""

    config_class: ClassVar[Any] = PlainConfig

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config, lambda i: PlainAttention(config, config.attention, config.window, config.topk))  # pyright: ignore
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def twin_config(config: Any) -> transformers.PretrainedConfig:
    """transformers' own LLaMA or Qwen2 (biases on queries, keys and values) of the sizes of any model of this package."""
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range",
        "pad_token_id", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    sizes = {name: getattr(config, name) for name in names}
    sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    biased = getattr(config, "qkv_bias", config.attention_bias)
    return transformers.Qwen2Config(**sizes) if biased else transformers.LlamaConfig(**sizes)
