"""The configurations, registered with transformers: what a ``config.json`` of each model holds."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class SuiteConfig(PretrainedConfig):
    """Sizes that every model of this package has; names are LLaMA's.

    Attributes:
        num_key_value_heads: None: as many as `num_attention_heads`.
        attention_bias: biases of the projections of queries, keys and values (and of the output where the mechanism has one).
    """

    model_type = "language-models"

    vocab_size: int = 258
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        rope = kwargs.get("rope_parameters") or {}
        self.rope_theta = float(rope.get("rope_theta", self.rope_theta))
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raises ValueError where sizes do not fit together."""
        if self.vocab_size < 1 or self.hidden_size < 1 or self.num_hidden_layers < 1:
            raise ValueError("vocab_size, hidden_size and num_hidden_layers are at least 1")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads < 1 or not kv_heads or heads % kv_heads:
            raise ValueError(f"num_attention_heads is a multiple of num_key_value_heads, got {heads} and {kv_heads}")
