"""A BMN with the scale of its features and, where it is told labels, a classifier of segments: what a model folder holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision_models.actions.model.bmn import BMN, BMNConfig, BMNOutput

Fit = Literal["windows", "resize"]
CONTEXT = 0.5  # of a segment's length, on each side, that the classifier sees beside it


@dataclass(frozen=True)
class DetectorConfig:
    """How a detector is built.

    Attributes:
        bmn: the network.
        labels: classes of the segment classifier; 0: none, segments are class-agnostic.
        hidden: of the segment classifier.
        fit: how a video meets the network's steps: overlapping windows of its snippets, or all of it resized.
    """

    bmn: BMNConfig = field(default_factory=BMNConfig)
    labels: int = 0
    hidden: int = 128
    fit: Fit = "windows"


class SegmentClassifier(nn.Module):
    """Labels of segments, from the mean features inside, before and behind; the last class is "no action"."""

    def __init__(self, channels: int, labels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * channels, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, labels + 1)
        )

    def forward(
        self, x: Float[Tensor, "batch channels steps"], segments: Float[Tensor, "batch n 2"]
    ) -> Float[Tensor, "batch n classes"]:
        """Logits.

        Args:
            x: scaled features.
            segments: starts and ends as shares of the sequence.
        """
        starts, ends = segments.unbind(-1)
        margin = CONTEXT * (ends - starts)
        spans = ((starts, ends), (starts - margin, starts), (ends, ends + margin))
        means = [segment_means(x, torch.stack(span, -1)) for span in spans]
        return self.layers(torch.cat(means, -1))


def segment_means(
    x: Float[Tensor, "batch channels steps"], segments: Float[Tensor, "batch n 2"]
) -> Float[Tensor, "batch n channels"]:
    """The exact mean of a piecewise constant sequence over each segment, by differences of its integral; 0 outside the sequence."""
    steps = x.shape[2]
    integral = F.pad(x.cumsum(2), (1, 0)).transpose(1, 2)  # (batch, steps + 1, channels)
    places = (segments * steps).clamp(0, steps)
    below = places.floor().long().clamp(max=steps - 1)
    share = (places - below)[..., None]

    def at(index: Tensor) -> Tensor:
        flat = index.flatten(1)[..., None].expand(-1, -1, x.shape[1])
        return integral.gather(1, flat).unflatten(1, index.shape[1:])

    ends = at(below) * (1 - share) + at(below + 1) * share
    lengths = (places[..., 1] - places[..., 0])[..., None].clamp(min=1e-4)
    return (ends[:, :, 1] - ends[:, :, 0]) / lengths


class ActionDetector(nn.Module):
    """Snippet features to maps and boundaries, after scaling by the mean and spread of the training features.

    Args:
        config: its sizes.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.bmn = BMN(config.bmn)
        self.classifier: SegmentClassifier | None = None
        if config.labels:
            self.classifier = SegmentClassifier(config.bmn.channels, config.labels, config.hidden)
        self.register_buffer("mean", torch.zeros(config.bmn.channels))
        self.register_buffer("spread", torch.ones(config.bmn.channels))

    def scaled(self, x: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch channels steps"]:
        """Features as the networks take them."""
        return (x - self.mean[:, None]) / self.spread[:, None]

    def forward(self, x: Float[Tensor, "batch channels steps"]) -> BMNOutput:
        """See `BMNOutput`; of scaled features."""
        return self.bmn(x)
