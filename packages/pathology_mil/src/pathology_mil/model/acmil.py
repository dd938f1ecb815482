"""ACMIL: attention-challenging multiple instance learning for whole slides, with ABMIL and mean pooling beside it.

Zhang, Li, Sun, Zheng, Zhu, Yang. "Attention-Challenging Multiple Instance Learning for Whole Slide Image Classification",
arXiv 2311.07125, ECCV 2024. A slide is a bag of N feature vectors ``X: [N, F]``, ``H = ReLU(X W_p) : [N, L]``. M branches each score every
instance and pool the bag into their own embedding with their own classifier; the slide embedding pools with the mean attention
``Ā = (1/M) Σ_m softmax(S_m)``. Because ``Ā`` is linear in the branches, every N-long product happens once, in `attention_pool`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core_attention.pooling.attention import attention_pool

# Feature width F → inner width L of the published encoders; a new encoder takes F / 2.
INNER_WIDTH = {384: 128, 512: 256, 768: 384, 1024: 512, 1536: 768}


@dataclass(frozen=True, kw_only=True)
class ACMILConfig:
    """Sizes and rates of a model of this file; the defaults are the paper's.

    Args:
        n_features: F, width of the encoder's features.
        n_class: number of slide labels.
        width: L; default by `INNER_WIDTH`, else F / 2.
        branches: M; 1 with top_k 0 is ABMIL.
        top_k: K, instances per row that STKIM draws from (training only); 0 switches it off.
        mask_drop: p, the share of those that it masks: exactly ⌊min(K, N)·p⌋ per row.
        hidden: D, width of the gate (gated form).
        heads: attention heads (multi-head form); they divide L.
        dropout: rate before the classifiers (gated form) or after the output projection (multi-head form); None takes the published
            0 and 0.1.

    Raises:
        ValueError: a size below 1, a rate outside [0, 1].
    """

    n_features: int
    n_class: int
    width: int | None = None
    branches: int = 5
    top_k: int = 10
    mask_drop: float = 0.6
    hidden: int = 128
    heads: int = 8
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_features", "n_class", "branches", "hidden", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.top_k < 0 or not 0 <= self.mask_drop <= 1 or not 0 <= (self.dropout or 0) < 1:
            raise ValueError(
                "top_k must be ≥ 0, mask_drop in [0, 1] and dropout in [0, 1): "
                f"got {self.top_k}, {self.mask_drop}, {self.dropout}"
            )
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    @property
    def inner(self) -> int:
        """L."""
        if self.width is not None:
            return self.width
        return INNER_WIDTH.get(self.n_features, max(1, self.n_features // 2))


class MILOutput(NamedTuple):
    """The output of every model of this file.

    slide_logits, branch_logits: raw class scores.
    scores: raw attention scores before the softmax over the instances of a bag, as published: GA has one head; masked ones are −1e9.
    embedding: the slide's vector.
    """

    slide_logits: Float[Tensor, "bags classes"]
    branch_logits: Float[Tensor, "bags branches classes"]
    scores: Float[Tensor, "heads branches instances"]
    embedding: Float[Tensor, "bags width"]


def stkim_mask(
    scores: Float[Tensor, "instances rows"],
    top_k: int,
    drop: float,
    uniforms: Float[Tensor, "rows top_k"] | None = None,
) -> Bool[Tensor, "instances rows"]:
    """Stochastic top-K instance masking (section 3.3): True for exactly ⌊min(K, N)·p⌋ of the K highest scores of every row.

    Args:
        scores: −inf marks padding, which is never drawn.
        uniforms: one number per entry of the descending top-K list; the smallest are masked. Drawn here if None.
    """
    k = min(top_k, scores.shape[0])
    if int(k * drop) == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    top, where = scores.T.topk(k, dim=1)
    if uniforms is None:
        uniforms = torch.rand(scores.shape[1], k, device=scores.device)
    real = top > -math.inf
    # Of n real ones ⌊n·p⌋ are masked. The number of real ones is on the device; a table spares the wait for it.
    mask_counts = torch.tensor([int(n * drop) for n in range(k + 1)], device=scores.device)
    count = mask_counts[real.sum(1, keepdim=True)]
    # Argsort twice gives ranks: exactly `count` entries have a rank below it. Padding gets the last ranks.
    rank = uniforms[:, :k].masked_fill(~real, math.inf).argsort(dim=1).argsort(dim=1)
    return torch.zeros_like(scores.T, dtype=torch.bool).scatter(1, where, rank < count).T


class _Pooling(nn.Module):
    """The parts that the models share: the projection, the call of `attention_pool`, and the classifiers."""

    def __init__(self, config: ACMILConfig) -> None:
        super().__init__()
        self.config = config
        self.project = _linear(config.inner, config.n_features)
        self.branch_weight = _linear(config.branches, config.n_class, config.inner)
        self.branch_bias = _bias(config.branches, config.n_class, fan_in=config.inner)
        self.slide_weight = _linear(config.n_class, config.inner)
        self.slide_bias = _bias(config.n_class, fan_in=config.inner)

    def pool(
        self, features: Tensor, score_weight: Tensor, score_bias: Tensor | None, calls: dict[str, Any], **gate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [B, rows, L] and scores [N, rows] of a bag; `calls` are the arguments of `forward`, `gate` the weights of the gate."""
        if features.ndim == 3 and features.shape[0] == 1:
            features = features[0]
        if features.ndim != 2 or features.shape[1] != self.config.n_features:
            raise ValueError(
                f"features must be [instances, {self.config.n_features}] (several bags: packed, with segments): "
                f"got {tuple(features.shape)}"
            )
        uniforms = calls.pop("uniforms", None)
        # Masking sees the scores inside `attention_pool`, between the score and the softmax, and only in training.
        exclude = None
        if self.training and self.config.top_k and self.config.mask_drop:
            exclude = partial(self._masked_instances, segments=calls.get("segments"), uniforms=uniforms)
        pooled, scores = attention_pool(
            features, score_weight, score_bias, project_weight=self.project, exclude=exclude, **gate, **calls
        )
        assert scores is not None
        return pooled, scores

    def _masked_instances(self, scores: Tensor, segments: Tensor | None, uniforms: Tensor | None) -> Tensor:
        """STKIM's mask, for each packed bag by itself."""
        lengths = [len(scores)]
        if segments is not None:
            lengths = torch.bincount(segments).tolist()
        uniforms_of_bags = uniforms
        if uniforms_of_bags is None:
            uniforms_of_bags = [None] * len(lengths)
        masks = []
        for bag_scores, bag_uniforms in zip(scores.split(lengths), uniforms_of_bags, strict=True):
            masks.append(stkim_mask(bag_scores, self.config.top_k, self.config.mask_drop, bag_uniforms))
        return torch.cat(masks)

    def classify(self, branches: Tensor, slide: Tensor) -> tuple[Tensor, Tensor]:
        """Slide logits [B, C] and branch logits [B, M, C] from embeddings [B, L] and [B, M, L]."""
        logits = torch.einsum("bml,mcl->bmc", branches, self.branch_weight) + self.branch_bias
        return F.linear(slide, self.slide_weight, self.slide_bias), logits


class ACMIL_GA(_Pooling):
    """Gated multi-branch ACMIL (section 3.2): one gate network, M score rows, a classifier per branch and one for the slide.

    ``branches=1, top_k=0`` is gated ABMIL (Ilse et al. 2018). ``embedding`` is exactly the mean of the branch embeddings.
    """

    def __init__(self, config: ACMILConfig) -> None:
        super().__init__(config)
        self.gate_weight = _linear(2 * config.hidden, config.inner)  # V above U
        self.gate_bias = _bias(2 * config.hidden, fan_in=config.inner)
        self.score_weight = _linear(config.branches, config.hidden)
        self.score_bias = _bias(config.branches, fan_in=config.hidden)

    def forward(
        self,
        features: Float[Tensor, "*one instances features"],
        *,
        segments: Int[Tensor, " instances"] | None = None,
        bags: int | None = None,
        mask: Bool[Tensor, " instances"] | None = None,
        uniforms: Float[Tensor, "bags rows top_k"] | None = None,
    ) -> MILOutput:
        """Pools and classifies one bag, or several packed ones.

        Args:
            features: ``[N, F]`` or ``[1, N, F]``; half precision is accumulated in float32.
            segments, bags, mask: as in `core_attention.pooling.attention.attention_pool`.
            uniforms: the random numbers of STKIM, a row per branch; drawn from torch's generator if None.

        Raises:
            ValueError: the features are not F wide.
        """
        gate = {"gate_weight": self.gate_weight, "gate_bias": self.gate_bias}
        calls = {"segments": segments, "bags": bags, "mask": mask, "uniforms": uniforms}
        pooled, scores = self.pool(features, self.score_weight, self.score_bias, calls, **gate)
        slide, rate = pooled.mean(1), self.config.dropout or 0.0
        # The mean is taken before dropout, so that the slide's embedding is exactly the mean of the branches'.
        logits = self.classify(F.dropout(pooled, rate, self.training), F.dropout(slide, rate, self.training))
        return MILOutput(*logits, scores.T[None], slide)


class ACMIL_MHA(_Pooling):
    """Multi-head ACMIL: M learned queries, each with its own full attention layer over the bag, and a slide layer on the mean attention.

    The query of a branch is one vector, so with ``q̃ = q_m Q_m`` the scores are ``H · (K_{m,h}ᵀ q̃_{m,h}) / √c + b_K·q̃``, and pooling
    commutes with the value projection: scores of all branches and heads are one ``[N, L] × [L, 8M]`` product, values are projected after
    pooling. Keys and values of length N never exist. Values and gradients are those of the published layer.
    """

    def __init__(self, config: ACMILConfig) -> None:
        super().__init__(config)
        m, width = config.branches, config.inner
        if width % config.heads:
            raise ValueError(f"the inner width must be divisible by the heads: got {width} and {config.heads}")
        self.query = nn.Parameter(torch.randn(m, width) * 1e-6)  # the published start: almost uniform attention
        self.query_weight, self.query_bias = _linear(m, width, width), _bias(m, width, fan_in=width)
        self.key_weight, self.key_bias = _linear(m, width, width), _bias(m, width, fan_in=width)
        self.value_weight, self.value_bias = _linear(m, width, width), _bias(m, width, fan_in=width)
        self.out_weight, self.out_bias = _linear(m, width, width), _bias(m, width, fan_in=width)
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(m, width)), nn.Parameter(torch.zeros(m, width))
        self.slide_value_weight, self.slide_value_bias = _linear(width, width), _bias(width, fan_in=width)
        self.slide_out_weight, self.slide_out_bias = _linear(width, width), _bias(width, fan_in=width)
        self.slide_norm_weight, self.slide_norm_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def folded_queries(self) -> tuple[Float[Tensor, "branches heads width"], Float[Tensor, "branches heads"]]:
        """Score rows and their constants: the queries folded into the key projections, divided by √c."""
        m, width, heads = self.config.branches, self.config.inner, self.config.heads
        c = width // heads
        q = torch.einsum("ml,mol->mo", self.query, self.query_weight) + self.query_bias
        # 1/√c goes into the queries: one small product instead of one over all N scores
        q = q.view(m, heads, c) / math.sqrt(c)
        rows = torch.einsum("mhc,mhcl->mhl", q, self.key_weight.view(m, heads, c, width))
        return rows, (q * self.key_bias.view(m, heads, c)).sum(-1)

    def forward(
        self,
        features: Float[Tensor, "*one instances features"],
        *,
        segments: Int[Tensor, " instances"] | None = None,
        bags: int | None = None,
        mask: Bool[Tensor, " instances"] | None = None,
        uniforms: Float[Tensor, "bags rows top_k"] | None = None,
    ) -> MILOutput:
        """As `ACMIL_GA.forward`; the rows of `uniforms` are branch 0's heads, then branch 1's, …; `scores` are already divided by √c."""
        m, width, heads = self.config.branches, self.config.inner, self.config.heads
        rows, constants = self.folded_queries()
        calls = {"segments": segments, "bags": bags, "mask": mask, "uniforms": uniforms}
        pooled, scores = self.pool(features, rows.flatten(0, 1), constants.flatten(), calls)
        pooled = pooled.unflatten(1, (m, heads))  # [B, M, heads, L]
        # The value projection comes after pooling: it is linear, and the attention sums to 1, so its bias stays as it is.
        value = self.value_weight.view(m, heads, -1, width)
        branches = torch.einsum("bmhl,mhcl->bmhc", pooled, value).flatten(2) + self.value_bias
        branches = torch.einsum("bml,mol->bmo", branches, self.out_weight) + self.out_bias
        branches = F.layer_norm(self._drop(branches), (width,), eps=1e-6) * self.norm_weight + self.norm_bias
        # The slide's layer pools its own values with the branches' mean attention, and pooling is linear in it.
        slide_value = self.slide_value_weight.view(heads, -1, width)
        slide = torch.einsum("bhl,hcl->bhc", pooled.mean(1), slide_value).flatten(1)
        slide = F.linear(slide + self.slide_value_bias, self.slide_out_weight, self.slide_out_bias)
        slide = F.layer_norm(self._drop(slide), (width,), self.slide_norm_weight, self.slide_norm_bias, eps=1e-6)
        scores = scores.T.unflatten(0, (m, heads)).transpose(0, 1)  # [N, M·heads] → [heads, M, N]
        return MILOutput(*self.classify(branches, slide), scores, slide)

    def _drop(self, x: Tensor) -> Tensor:
        rate = self.config.dropout
        if rate is None:
            rate = 0.1  # the published rate
        return F.dropout(x, rate, self.training)


class MeanMIL(nn.Module):
    """Mean pooling: ``C · mean_n ReLU(x_n W_p) + c``. The baseline that any attention must beat; its own attention is uniform."""

    def __init__(self, config: ACMILConfig) -> None:
        super().__init__()
        self.config = config
        self.project = _linear(config.inner, config.n_features)
        self.slide_weight = _linear(config.n_class, config.inner)
        self.slide_bias = _bias(config.n_class, fan_in=config.inner)

    def forward(
        self,
        features: Float[Tensor, "*one instances features"],
        *,
        segments: Int[Tensor, " instances"] | None = None,
        bags: int | None = None,
        mask: Bool[Tensor, " instances"] | None = None,
    ) -> MILOutput:
        """As `ACMIL_GA.forward`, without branches."""
        if features.ndim == 3 and features.shape[0] == 1:
            features = features[0]
        zero_scores = self.project.new_zeros(1, self.config.inner)  # their softmax is uniform
        pooled, scores = attention_pool(
            features, zero_scores, project_weight=self.project, segments=segments, bags=bags, mask=mask
        )
        assert scores is not None
        logits = F.linear(pooled[:, 0], self.slide_weight, self.slide_bias)
        return MILOutput(logits, logits[:, None], scores.T[None], pooled[:, 0])


def _linear(*shape: int) -> nn.Parameter:
    """Weights [..., out, in] with the default initialisation of `nn.Linear`."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / math.sqrt(shape[-1]))


def _bias(*shape: int, fan_in: int) -> nn.Parameter:
    """Biases with the default initialisation of `nn.Linear`."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in))
