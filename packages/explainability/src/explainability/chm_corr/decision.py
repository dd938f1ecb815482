"""From correspondences to a label: support images are ranked by how well their patches match the query's, and the best vote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from explainability.chm_corr.transfer import GRID

CELLS = GRID * GRID
BEST_CELLS = 5

AxisOrder = Literal["consistent", "official"]


def similarity_map(
    query: Float[Tensor, "c 7 7"],
    support: Float[Tensor, "n c 7 7"],
    cells: Int[Tensor, "n 49 2"],
    *,
    axis_order: AxisOrder = "consistent",
) -> Float[Tensor, "n 7 7"]:
    """Cosine of each query cell with the support cell that it goes to, at [row, column].

    Args:
        query: features of the query.
        support: features of the support images.
        cells: for each point the target cell (x, y), from `target_cells`.
        axis_order: ``"consistent"``: cell (r, c) goes where the point at x of c and y of r goes. ``"official"``: as published, where x
            and y are swapped on both sides.
    """
    query = query / query.norm(dim=0, keepdim=True).clamp(min=1e-8)
    support = support / support.norm(dim=1, keepdim=True).clamp(min=1e-8)
    index = torch.arange(len(support), device=support.device)[:, None]
    x, y = cells[..., 0], cells[..., 1]
    if axis_order == "official":
        matched = support[index, :, x, y]
        return torch.einsum("nkc,ck->nk", matched, query.flatten(1)).view(-1, GRID, GRID)
    if axis_order != "consistent":
        raise ValueError(f"axis_order is 'consistent' or 'official', got {axis_order!r}")
    matched = support[index, :, y, x].view(-1, GRID, GRID, support.shape[1])  # [x, y]: x is the slow index of points
    return torch.einsum("nxyc,cyx->nyx", matched, query)


def reverse_map(similarity: Float[Tensor, "n 7 7"], cells: Int[Tensor, "n 49 2"]) -> Float[Tensor, "n 7 7"]:
    """The official map as the support image sees it: at each target cell the similarity of the last query cell that went there; else 0."""
    reverse = torch.zeros_like(similarity)
    index = torch.arange(len(similarity), device=similarity.device)
    flat = similarity.flatten(1)
    for point in range(CELLS):  # in order, so that the last stays
        reverse[index, cells[:, point, 0], cells[:, point, 1]] = flat[:, point]
    return reverse


def cross_correlation(
    query: Float[Tensor, "c 7 7"], support: Float[Tensor, "n c 7 7"]
) -> tuple[Float[Tensor, "n 7 7"], Float[Tensor, "n 7 7"]]:
    """How much each cell has in common with the other image's cells in sum: maps over the query, and over each support image."""
    q = query.flatten(1).T
    s = support.flatten(2).mT
    q = q / (CELLS * q.mean(0).norm()).clamp(min=1e-30)
    s = s / (CELLS * s.mean(1, keepdim=True).norm(dim=2, keepdim=True)).clamp(min=1e-30)
    of_query = torch.einsum("kc,nc->nk", q, s.sum(1))
    of_support = torch.einsum("nkc,c->nk", s, q.sum(0))
    return of_query.view(-1, GRID, GRID), of_support.view(-1, GRID, GRID)


def common_mask(of_query: Float[Tensor, "n 7 7"], threshold: float) -> Float[Tensor, "n 7 7"]:
    """1 where the min-max of the cross-correlation reaches the threshold. A constant map is 0 throughout."""
    low, high = of_query.amin((1, 2), keepdim=True), of_query.amax((1, 2), keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (of_query - low) / torch.where(span > 0, span, 1), torch.zeros_like(of_query))
    return (scaled >= threshold).to(of_query)


def score_common(similarity: Float[Tensor, "n 7 7"], mask: Float[Tensor, "n 7 7"]) -> Float[Tensor, " n"]:
    """Mean of the five largest entries of similarity · mask, zeros among them."""
    return (similarity * mask).flatten(1).topk(BEST_CELLS, 1).values.mean(1)


def score_user(similarity: Float[Tensor, "n 7 7"], mask: Float[Tensor, "7 7"]) -> Float[Tensor, " n"]:
    """Mean over all 49 cells of similarity · mask."""
    return (similarity * mask).flatten(1).mean(1)


@dataclass(frozen=True)
class Decision:
    """A vote.

    Attributes:
        label: most frequent among the best.
        votes: for it.
        k: how many voted; more than asked for where a tie was broken by more.
        order: support images, the best first.
    """

    label: int
    votes: int
    k: int
    order: Int[Tensor, " n"]

    @property
    def confidence(self) -> float:
        """Its share of the votes."""
        return self.votes / self.k


def decide(
    scores: Float[Tensor, " n"],
    labels: Sequence[int] | Tensor,
    k: int = 20,
    *,
    ties: Literal["smallest", "more"] = "smallest",
) -> Decision:
    """The label that most of the k best have.

    Args:
        scores: of the support images.
        labels: theirs.
        k: how many vote.
        ties: ``"smallest"``: the smallest label of those that tie (the published batch rule). ``"more"``: k grows by one until the tie
            breaks, and the smallest wins where it never does (the interactive tool's rule).

    Raises:
        ValueError: k is not between 1 and the number of support images.
    """
    numbers = [int(label) for label in labels]
    if not 1 <= k <= len(numbers):
        raise ValueError(f"k is between 1 and the {len(numbers)} support images, got {k}")
    order = scores.argsort(descending=True, stable=True)
    ranked = [numbers[index] for index in order.tolist()]
    while True:
        votes: dict[int, int] = {}
        for label in ranked[:k]:
            votes[label] = votes.get(label, 0) + 1
        most = max(votes.values())
        best = sorted(label for label, count in votes.items() if count == most)
        if len(best) == 1 or ties == "smallest" or k == len(ranked):
            return Decision(best[0], most, k, order)
        k += 1


@dataclass(frozen=True)
class Support:
    """A query against its support set, all that an edit needs. Nothing of it changes with an edit.

    Attributes:
        similarity: of each support image, over the query's cells.
        mask: the common mask of each.
        labels: of the support images.
        k: how many vote.
    """

    similarity: Float[Tensor, "n 7 7"]
    mask: Float[Tensor, "n 7 7"]
    labels: Sequence[int]
    k: int = 20

    def predict(self, user_mask: Tensor | None = None, *, ties: Literal["smallest", "more"] = "more") -> Decision:
        """The label, with the cells that a person allows; None or no cell at all: the model's own rule.

        Raises:
            ValueError: the mask is not 7 × 7 of 0 and 1.
        """
        if user_mask is None:
            return decide(score_common(self.similarity, self.mask), self.labels, self.k, ties=ties)
        mask = torch.as_tensor(user_mask)
        if mask.shape != (GRID, GRID) or not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"a mask is {GRID} × {GRID} cells of 0 and 1, got {tuple(mask.shape)}")
        if not bool(mask.any()):
            return self.predict(None, ties=ties)
        return decide(score_user(self.similarity, mask.to(self.similarity)), self.labels, self.k, ties=ties)
