"""The embedding of the dynamic subspace learners (Adiga, Dolz, Lombaert 2022): where it looks, and coordinates shared out among learners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_attention.mechanisms.dynsubspace.attention_layer import AttentionLayer, attention_pool
from core_runtime.errors import UserError

Range = tuple[int, int]
STRIDE = 16  # of the feature map: ResNet-50's third stage, as published


@dataclass(frozen=True)
class EmbeddingConfig:
    """Sizes of `EmbeddingNet`; the defaults are the published ones.

    Attributes:
        backbone: name in timm; its last feature map of a sixteenth of the image or more is used.
        size: coordinates of the embedding.
        learners: the coordinates of each learner, as ranges that cover all of them.
        attention: pool under a learnt map; False: plain average pooling.
        normalise: divide by the sum of the map instead of by the number of its pixels.
        dropout: of the pooled features in training.
        frozen_norms: the norms of the backbone stay as they are, as published; a backbone that starts from nothing must train its own.
    """

    backbone: str = "resnet50"
    size: int = 128
    learners: tuple[Range, ...] = ()
    attention: bool = True
    normalise: bool = False
    dropout: float = 0.01
    frozen_norms: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the size of an embedding is positive; got {self.size}")
        if self.learners:
            check_ranges(self.learners, self.size)


class Embedded(NamedTuple):
    """What the network gives.

    Attributes:
        embedding: every learner's coordinates of unit length.
        penultimate: pooled features of unit length, what clustering uses.
        attention: the map; ones where there is none.
        pooled: the features' plain mean, without the map.
    """

    embedding: Float[Tensor, "b size"]
    penultimate: Float[Tensor, "b channels"]
    attention: Float[Tensor, "b 1 h w"]
    pooled: Float[Tensor, "b channels"]


def check_ranges(learners: Sequence[Range], size: int) -> None:
    """Learners own neighbouring ranges that cover every coordinate once.

    Raises:
        ValueError: they do not.
    """
    place = 0
    for start, stop in learners:
        if start != place or stop <= start:
            raise ValueError(f"learners {list(learners)} do not cover 0..{size - 1} once and in order")
        place = stop
    if place != size:
        raise ValueError(f"learners {list(learners)} cover {place} of {size} coordinates")


def normalise_blocks(x: Float[Tensor, "b size"], learners: Sequence[Range]) -> Float[Tensor, "b size"]:
    """Every learner's block divided by its own length, so that ``‖e‖² = K``."""
    return torch.cat([F.normalize(x[:, start:stop], dim=1) for start, stop in learners], 1)


class EmbeddingNet(nn.Module):
    """Images to embeddings: ``e = W · mean(F ⊙ A) + b``, in blocks of unit length.

    Unless the configuration says otherwise, the norms of the backbone stay in evaluation: their statistics never change in training.

    Args:
        config: sizes.
        pretrained: start from timm's ImageNet weights (from the hub).
    """

    def __init__(self, config: EmbeddingConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        if not timm.is_model(config.backbone):
            raise UserError(f"timm has no network {config.backbone!r}", "try resnet50, resnet18 or convnext_tiny")
        self.config = config
        # coordinate → learner, among the weights, so that no checkpoint can lose it
        self.owners: Tensor
        self.register_buffer("owners", torch.zeros(config.size, dtype=torch.int64))
        self.set_learners(list(config.learners) or [(0, config.size)])
        self.register_load_state_dict_post_hook(lambda module, keys: module._read_learners())
        probe: Any = timm.create_model(config.backbone, features_only=True, pretrained=False)
        reductions = probe.feature_info.reduction()
        places = [place for place, reduction in enumerate(reductions) if reduction <= STRIDE]
        place = places[-1] if places else len(reductions) - 1
        trunk: Any = timm.create_model(config.backbone, features_only=True, out_indices=(place,), pretrained=pretrained)
        self.trunk, self.channels = trunk, trunk.feature_info.channels()[-1]
        self.attention_map = AttentionLayer(self.channels) if config.attention else None
        self.dropout = nn.Dropout(config.dropout)
        self.embedding = nn.Linear(self.channels, config.size)
        for start, stop in self.learners:
            nn.init.xavier_normal_(self.embedding.weight.data[start:stop])

    def set_learners(self, learners: Sequence[Range]) -> None:
        """Shares the coordinates out among learners.

        Raises:
            ValueError: the ranges do not cover every coordinate once.
        """
        check_ranges(learners, self.config.size)
        self.learners: list[Range] = list(learners)
        for number, (start, stop) in enumerate(learners):
            self.owners[start:stop] = number

    def _read_learners(self) -> None:
        """The ranges as the loaded weights have them."""
        owners = self.owners.tolist()
        borders = [0, *[i for i in range(1, len(owners)) if owners[i] != owners[i - 1]], len(owners)]
        self.learners = list(pairwise(borders))

    def train(self, mode: bool = True) -> EmbeddingNet:
        """Training mode for everything but the norms of the backbone."""
        super().train(mode)
        if not self.config.frozen_norms:
            return self
        for module in self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The feature map under the attention."""
        (features,) = self.trunk(x)
        if features.shape[1] != self.channels:
            features = features.movedim(-1, 1)
        return features

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Embedded:
        """Embeddings of unit length in every learner's block."""
        features = self.features(x)
        if self.attention_map is None:
            attention = features.new_ones(features.shape[0], 1, *features.shape[2:])
        else:
            attention = self.attention_map(features)
        pooled = attention_pool(features, attention, normalise=self.config.normalise)
        scores = self.embedding(self.dropout(pooled))
        return Embedded(
            normalise_blocks(scores, self.learners), F.normalize(pooled, dim=1), attention, features.mean((2, 3))
        )
