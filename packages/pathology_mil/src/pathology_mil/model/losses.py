"""The losses of ACMIL (section 3.4): cross-entropies, branch diversity, optional entropy term (AEM); and the attention of a bag."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pathology_mil.model.acmil import MILOutput


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the four terms; the paper's are 1, 1, 1 and no entropy term. AEM (the authors' follow-up) takes about 0.1."""

    slide: float = 1.0
    branch: float = 1.0
    diversity: float = 1.0
    aem: float = 0.0


class Losses(NamedTuple):
    """Unweighted terms, each a mean over the bags, and their weighted total."""

    total: Tensor
    slide: Tensor
    branch: Tensor
    diversity: Tensor
    aem: Tensor


def attention(scores: Float[Tensor, "heads branches instances"]) -> Float[Tensor, "heads branches instances"]:
    """Attention of one bag: every row sums to 1."""
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def diversity(attention: Float[Tensor, "heads branches instances"]) -> Float[Tensor, ""]:
    """``(2 / M(M−1)) Σ_{i<j} cos(A_i, A_j)``, averaged over the heads: 1 for identical branches, 0 for disjoint ones, 0 for one branch."""
    branches = attention.shape[1]
    if branches < 2:
        return attention.new_zeros(())
    rows = F.normalize(attention, dim=-1, eps=1e-8)
    gram = rows @ rows.mT  # cosines of all pairs of branches
    pairs = gram.sum((-2, -1)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)  # i ≠ j, each pair twice
    return (pairs / (branches * (branches - 1))).mean()


def negative_entropy(scores: Float[Tensor, "heads branches instances"]) -> Float[Tensor, ""]:
    """``Σ_i a_i log a_i`` for ``a = softmax(scores)``, averaged over branches and heads (AEM): lowest, −log N, for uniform attention."""
    logs = torch.log_softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    weights = logs.exp()
    return (weights * logs.masked_fill(weights == 0, 0.0)).sum(-1).mean()  # 0 log 0 = 0, in the gradient too


def acmil_loss(
    output: MILOutput,
    labels: Int[Tensor, " bags"],
    *,
    lengths: list[int] | None = None,
    weights: LossWeights | None = None,
) -> Losses:
    """``CE(slide) + [M>1] · mean_m CE(branch m) + diversity + λ · AEM``; with one branch as in ABMIL: only the slide term (and AEM).

    Args:
        labels: class of each bag.
        lengths: instances of each bag where several are packed.
    """
    weights = weights or LossWeights()
    _, branches, classes = output.branch_logits.shape
    slide = F.cross_entropy(output.slide_logits, labels)
    zero = slide.new_zeros(())
    branch = zero
    if branches > 1:
        # the same label for each branch: a row per (bag, branch)
        branch = F.cross_entropy(output.branch_logits.reshape(-1, classes), labels.repeat_interleave(branches))
    similarity, entropy = zero, zero
    # attention is a distribution over one bag, so packed bags are taken apart first
    scores_of_bags = output.scores.split(lengths or [output.scores.shape[-1]], dim=-1)
    if branches > 1 and weights.diversity:
        similarities = [diversity(attention(scores)) for scores in scores_of_bags]
        similarity = torch.stack(similarities).mean()
    if weights.aem:
        entropies = [negative_entropy(scores) for scores in scores_of_bags]
        entropy = torch.stack(entropies).mean()
    total = weights.slide * slide + weights.branch * branch + weights.diversity * similarity + weights.aem * entropy
    return Losses(total, slide, branch, similarity, entropy)
