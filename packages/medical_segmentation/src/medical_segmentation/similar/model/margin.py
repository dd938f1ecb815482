"""The margin loss over sampled triplets (Wu et al. 2017), without a loop over anchors."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Triplets(NamedTuple):
    """Rows of a batch: an anchor, one of its class, one of another."""

    anchor: Int[Tensor, " t"]
    positive: Int[Tensor, " t"]
    negative: Int[Tensor, " t"]


def pairwise_distances(x: Float[Tensor, "b d"], *, eps: float = 1e-4) -> Float[Tensor, "b b"]:
    """Euclidean distances; squares are at least `eps` before the root, whose slope at 0 is infinite."""
    products = x @ x.T
    squares = products.diagonal()
    return (squares[:, None] + squares[None] - 2 * products).clamp(min=eps).sqrt()


@torch.no_grad()
def sample_triplets(
    x: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    cutoff: float = 0.5,
    infinity: float = 1e6,
    eps: float = 1e-4,
) -> Triplets:
    """Every anchor's positives beside its nearest negatives that are not too near.

    The n nearest others at `cutoff` or more are the negatives of each anchor, n being the mean number of positives of an anchor. An anchor
    gives as many triplets as it has both. Where an anchor has too few such others, nearer ones and ones of its class fill up, as published.

    Args:
        x: embeddings of unit length.
        labels: classes.
        cutoff: distance below which a negative is too hard.
        infinity: what excludes a sample from the nearest.
        eps: least square of a distance.
    """
    batch = len(x)
    distances = pairwise_distances(x, eps=eps)
    same = labels[:, None] == labels[None]
    same.fill_diagonal_(False)
    count = int(same.sum()) // max(batch, 1)
    far = distances + infinity * (same | (distances < cutoff))
    negatives = _least(far.nan_to_num(nan=infinity), count)
    rank = same.cumsum(1) - 1  # place of each positive among those of its anchor
    anchor, positive = (same & (rank < count)).nonzero(as_tuple=True)
    return Triplets(anchor, positive, negatives[anchor, rank[anchor, positive]])


def _least(values: Float[Tensor, "b b"], count: int) -> Int[Tensor, "b n"]:
    """The columns of the `count` least values of every row, by number; of equal values the first ones.

    They are listed by their number, as published: a truncated list holds the first, not the nearest. Much faster than a stable sort.
    """
    if count == 0:
        return torch.empty(len(values), 0, dtype=torch.int64, device=values.device)
    border = values.topk(count, dim=1, largest=False).values[:, -1:]
    chosen = values <= border
    if int(chosen.sum()) > count * len(values):  # equal values at the border of a row
        below, equal = values < border, values == border
        missing = count - below.sum(1, keepdim=True)
        chosen = below | (equal & (equal.cumsum(1) <= missing))
    return chosen.nonzero()[:, 1].view(len(values), count)


class MarginLoss(nn.Module):
    """``Σ([d_ap − β + α]₊ + [β − d_an + α]₊)`` over the triplets that still contribute, divided by their number.

    Args:
        classes: number of classes, for a β of their own.
        beta: the boundary β between near and far.
        margin: α around it.
        nu: weight of Σβ in the loss.
        class_specific_beta: one β for each class of the anchor.
        pair_count: count a triplet once ("or", as the published code does on today's torch), or each of its two terms ("both", as Wu et al.).
        cutoff, infinity, eps: of `sample_triplets`.
    """

    def __init__(
        self,
        classes: int,
        *,
        beta: float = 1.2,
        margin: float = 0.2,
        nu: float = 0.0,
        class_specific_beta: bool = False,
        pair_count: Literal["or", "both"] = "or",
        cutoff: float = 0.5,
        infinity: float = 1e6,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.margin, self.nu, self.pair_count = margin, nu, pair_count
        self.cutoff, self.infinity, self.eps = cutoff, infinity, eps
        self.class_specific_beta = class_specific_beta
        self.beta = nn.Parameter(torch.full((classes if class_specific_beta else 1,), beta))

    def forward(self, x: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """The loss of a batch of embeddings of unit length; 0 where no triplet contributes."""
        return self.of_triplets(x, labels, self.sample(x, labels))

    def sample(self, x: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Triplets:
        """The triplets of a batch."""
        return sample_triplets(x, labels, cutoff=self.cutoff, infinity=self.infinity, eps=self.eps)

    def of_triplets(self, x: Float[Tensor, "b d"], labels: Int[Tensor, " b"], triplets: Triplets) -> Float[Tensor, ""]:
        """The loss of given triplets."""
        beta = self.beta
        if self.class_specific_beta:
            beta = self.beta[labels[triplets.anchor]]
        anchors = x.index_select(0, triplets.anchor)
        near = distance(anchors, x.index_select(0, triplets.positive))
        far = distance(anchors, x.index_select(0, triplets.negative))
        positive = torch.relu(near - beta + self.margin)
        negative = torch.relu(beta - far + self.margin)
        if self.pair_count == "or":
            count = ((positive > 0) | (negative > 0)).sum()
        else:
            count = (positive > 0).sum() + (negative > 0).sum()
        total = (positive + negative).sum() + self.nu * self.beta.sum()
        # without a host synchronisation: an empty sum over 1 is 0
        return total / count.clamp(min=1)


def distance(a: Float[Tensor, "t d"], b: Float[Tensor, "t d"]) -> Float[Tensor, " t"]:
    """Euclidean distance with 1e-8 under the root."""
    return ((a - b).square().sum(1) + 1e-8).sqrt()
