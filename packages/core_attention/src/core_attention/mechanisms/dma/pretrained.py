"""Dynamic mask attention put into pretrained models (see `core_attention.pretrained.convert`).

::

    convert_model(model, "dma", window=512)  # importance of every key; training it is up to you
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core_attention.masks import Mask
from core_attention.mechanisms.dma.attention import Form, dynamic_mask_attention, importance
from core_attention.parts.placing import Device, placed
from core_attention.pretrained.convert import Layer
from core_attention.pretrained.padding import cut_keys, visible


class DynamicMask(nn.Module):
    """What dynamic mask attention adds to a layer: ``A`` and ``dt_proj``, as in Doge."""

    @placed
    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        window: int,
        form: Form,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.form: Form = form
        self.A = nn.Parameter(torch.zeros(num_kv_heads))
        self.dt_proj = nn.Linear(num_kv_heads * head_dim, num_kv_heads, bias=False)
        nn.init.normal_(self.dt_proj.weight, std=0.02)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Mask | None = None) -> Tensor:
        """Attention between the projections of the layer.

        Returns:
            the output, (batch, heads, tokens, width).
        """
        visible_keys = visible("dma", q, k, mask, self)
        k, v, keys = cut_keys(visible_keys, q, k, v)
        bias = importance(self.dt_proj(v.transpose(1, 2).flatten(2)), self.A, self.form)
        return dynamic_mask_attention(
            q, k, v, bias, window=self.window, causal=visible_keys.causal and q.shape[2] > 1, mask=keys, scale=scale
        )


def for_layer(layer: Layer, *, window: int = 2048, form: Form = "exp") -> nn.Module:
    """The maker of "dma". A starts at 0: every key is equally important, and the most recent `window` are kept.

    Args:
        window: keys that a query keeps.
        form: see `core_attention.mechanisms.dma.attention.importance`.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    core = DynamicMask(layer.num_kv_heads, layer.head_dim, window, form)
    core.is_causal = bool(getattr(layer.module, "is_causal", False))  # type: ignore[assignment]
    return core
