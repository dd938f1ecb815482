"""Attention pooling over the windows of a signal: which windows decide, and what they say."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.attention import attention


@dataclass(frozen=True)
class BurstConfig:
    """Sizes of `BurstClassifier`."""

    window: int = 32
    width: int = 24


class BurstClassifier(nn.Module):
    """``logit = c · Σ_i softmax_i(q · K h_i / √d) V h_i`` with ``h_i = GELU(W [x_i, |FFT x_i|])`` for the windows x_i of one signal."""

    def __init__(self, config: BurstConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.window + config.window // 2 + 1, config.width)
        self.query = nn.Parameter(torch.randn(config.width) * 0.1)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.classify = nn.Linear(config.width, 1)

    def forward(self, windows: Float[Tensor, "batch windows window"]) -> Float[Tensor, " batch"]:
        hidden = self._hidden(windows)
        query = self.query.expand(len(windows), 1, 1, -1)
        pooled = attention(query, self.key(hidden)[:, None], self.value(hidden)[:, None])
        return self.classify(pooled[:, 0, 0])[:, 0]

    def window_scores(self, windows: Float[Tensor, "batch windows window"]) -> Float[Tensor, "batch windows"]:
        """The attention weight of every window; rows sum to 1."""
        return torch.softmax(self.key(self._hidden(windows)) @ self.query / self.config.width**0.5, -1)

    def _hidden(self, windows: Tensor) -> Tensor:
        return nn.functional.gelu(self.embed(torch.cat([windows, torch.fft.rfft(windows).abs()], -1)))
