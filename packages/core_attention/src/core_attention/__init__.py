"""Published attention mechanisms, verified against the published code: one call, typed masks, maps out of fused paths."""

from core_attention.attention import attention
from core_attention.capture import capture
from core_attention.huggingface import register_with_transformers

__all__ = ["attention", "capture", "register_with_transformers"]
