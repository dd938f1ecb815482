"""Published attention mechanisms, verified against the published code: one call, typed masks, maps out of fused paths."""

from core_attention.attention import attention
from core_attention.capture import capture

__all__ = ["attention", "capture"]
