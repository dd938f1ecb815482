"""The pointer head: a query (the hidden state at a pointer token) attends over the cells of the screenshot.

``X = LayerNorm(V + Dropout(MHA(V, V, V)))``, ``K' = W2 GELU(W1 X)``, ``Q' = U2 GELU(U1 Q)``, ``A = softmax(Q' K'ᵀ / √d)``. K' does
not depend on the instruction, so one screen's K' serves all instructions.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.attention import attention


class PointerHead(nn.Module):
    """`VisionHead_MultiPatch` of GUI-Actor and V2P; ``8 d² + 10 d`` parameters.

    Args:
        width: d, of the language model.
        projection_width: of K' and Q'; None: d, as published.
        heads: of the self-attention; they divide d.
        dropout: of the self-attention's weights and of its result.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(
        self, width: int, *, projection_width: int | None = None, heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a pointer head of width {width} cannot have {heads} heads")
        inner = projection_width or width
        self.width, self.heads, self.dropout = width, heads, dropout
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.encode_keys = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, inner))
        self.encode_queries = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, inner))

    def keys(self, visual: Float[Tensor, "cells width"]) -> Float[Tensor, "cells inner"]:
        """K' of one screenshot, from the vision tower's outputs."""
        dropout = 0.0
        if self.training:
            dropout = self.dropout
        projected = self.project(visual).unflatten(-1, (3, self.heads, self.width // self.heads))
        query, key, value = projected.permute(1, 2, 0, 3)[:, None]
        mixed = attention(query, key, value, dropout=dropout)
        mixed = self.output(mixed[0].transpose(0, 1).flatten(1))
        mixed = nn.functional.dropout(mixed, self.dropout, self.training)
        return self.encode_keys(self.norm(visual + mixed))

    def logits(
        self, queries: Float[Tensor, "targets width"], keys: Float[Tensor, "cells inner"]
    ) -> Float[Tensor, "targets cells"]:
        """``Q' K'ᵀ / √d``."""
        return self.encode_queries(queries) @ keys.T / self.width**0.5

    def forward(
        self, visual: Float[Tensor, "cells width"], queries: Float[Tensor, "targets width"]
    ) -> Float[Tensor, "targets cells"]:
        """Logits of every target over the cells; the scores A are their softmax, in float32."""
        return self.logits(queries, self.keys(visual))


def scores_of(logits: Float[Tensor, "targets cells"]) -> Float[Tensor, "targets cells"]:
    """A: the softmax over cells, at least in float32."""
    exact = logits
    if logits.dtype != torch.float64:
        exact = logits.float()
    return exact.softmax(-1)
