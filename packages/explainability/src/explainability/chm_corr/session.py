"""A query against an index: its neighbours, where its cells go, and what it is called, with the cells that a user allows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core_runtime.errors import UserError
from explainability.chm_corr.decision import (
    BEST_CELLS,
    CELLS,
    AxisOrder,
    Decision,
    Support,
    common_mask,
    cross_correlation,
    decide,
    similarity_map,
)
from explainability.chm_corr.features import Backbone, embed
from explainability.chm_corr.index import SCALES, Index, digest_of
from explainability.chm_corr.matching import CHMNet, nearest_cells, prepare
from explainability.chm_corr.transfer import GRID

if TYPE_CHECKING:
    from PIL.Image import Image

Ties = Literal["smallest", "more"]
SHOWN = 5  # support images of the winning class


@dataclass(frozen=True)
class Rules:
    """How a query is decided.

    Attributes:
        neighbours: support images that are compared (N).
        voters: of them, the best that vote (K).
        ties: more: one voter more until the tie breaks (the interactive tool's rule); smallest: the first class of those that tie (the
            published batch rule).
        threshold: of the mask of cells that query and support image have in common.
        axis_order: consistent, or official with the published code's swapped axes.
    """

    neighbours: int = 50
    voters: int = 20
    ties: Ties = "more"
    threshold: float = 0.55
    axis_order: AxisOrder = "consistent"


@dataclass(frozen=True)
class Pairing:
    """Cells of the query and of one support image that speak for the decision.

    Attributes:
        number: of the support image in the index.
        score: by which it was ranked.
        cells: (row, column) in the query, (row, column) in the support image, cosine; the best first.
    """

    number: int
    score: float
    cells: tuple[tuple[tuple[int, int], tuple[int, int], float], ...]


@dataclass
class Session:
    """A query that was compared with its support images once; each edit is answered from that.

    Attributes:
        index: what it was compared with.
        rules: how it is decided.
        numbers: support images, the nearest first.
        cosine: of each with the query, over whole images.
        cells: for each support image the cell (x, y) of each point of the query.
        support: similarities and common masks.
        notes: what the user should know.
        log: of edits: mask, label, votes, seconds.
    """

    index: Index
    rules: Rules
    numbers: Sequence[int]
    cosine: Float[Tensor, " n"]
    cells: Int[Tensor, "n 49 2"]
    support: Support
    notes: tuple[str, ...] = ()
    log: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, mask: Tensor | None = None) -> Decision:
        """The label, with the cells that a user allows (7 × 7 of 0 and 1); None or no cell at all: the model's own rule.

        Raises:
            ValueError: no such mask.
        """
        began = time.perf_counter()
        decision = self.support.predict(mask, ties=self.rules.ties)
        self.log.append(
            {
                "user_mask": None if mask is None else torch.as_tensor(mask).int().tolist(),
                "label": self.index.classes[decision.label],
                "votes": decision.votes,
                "k": decision.k,
                "seconds": round(time.perf_counter() - began, 5),
            }
        )
        return decision

    def nearest(self) -> Decision:
        """kNN on the same neighbours: the most frequent class of the K nearest images."""
        return decide(self.cosine, self.support.labels, self.rules.voters, ties=self.rules.ties)

    def votes(self, decision: Decision) -> dict[str, int]:
        """Class → votes, most first."""
        counts: dict[str, int] = {}
        for place in decision.order[: decision.k].tolist():
            name = self.index.classes[self.support.labels[place]]
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def pairings(self, decision: Decision, mask: Tensor | None = None, count: int = SHOWN) -> list[Pairing]:
        """The cells by which the best images of the winning class were found: the five best, or as many as the user allowed."""
        allowed = None if mask is None or not bool(torch.as_tensor(mask).any()) else torch.as_tensor(mask)
        pairings = []
        for place in decision.order[: decision.k].tolist():
            if self.support.labels[place] != decision.label or len(pairings) == count:
                continue
            similarity = self.support.similarity[place]
            if allowed is None:
                weighed, most = similarity * self.support.mask[place], BEST_CELLS
            else:
                weighed, most = similarity * allowed.to(similarity), int(allowed.sum())
            best = weighed.flatten().topk(min(most, CELLS))
            cells = []
            for value, cell in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                row, column = divmod(cell, GRID)
                # x is the slow index of points
                x, y = self.cells[place, column * GRID + row].tolist()
                if value != 0:
                    cells.append(((row, column), (y, x), value))
            score = weighed.flatten().topk(BEST_CELLS).values.mean() if allowed is None else weighed.mean()
            pairings.append(Pairing(self.numbers[place], float(score), tuple(cells)))
        return pairings

    def facts(self, decision: Decision, mask: Tensor | None = None) -> dict[str, Any]:
        """What is written and shown of a decision."""
        pairs = []
        for pairing in self.pairings(decision, mask):
            cells = [{"query": list(a), "support": list(b), "cosine": round(c, 4)} for a, b, c in pairing.cells]
            entry = self.index.entries[pairing.number]
            pairs.append(
                {
                    "number": pairing.number,
                    "file": entry.file,
                    "class": self.index.classes[entry.label],
                    "score": round(pairing.score, 5),
                    "cells": cells,
                }
            )
        nearest = self.nearest()
        return {
            "label": self.index.classes[decision.label],
            "votes": self.votes(decision),
            "k": decision.k,
            "confidence": decision.confidence,
            "knn": self.index.classes[nearest.label],
            "user_mask": None if mask is None else torch.as_tensor(mask).int().tolist(),
            "support": pairs,
            "notes": list(self.notes),
        }


def check_rules(index: Index, rules: Rules) -> None:
    """Refuses more voters or neighbours than there are.

    Raises:
        UserError: says both numbers.
    """
    if not 1 <= rules.voters <= rules.neighbours:
        raise UserError(
            f"--voters {rules.voters} of --neighbours {rules.neighbours}", "voters are among the neighbours"
        )
    if rules.neighbours > len(index.entries):
        raise UserError(
            f"--neighbours {rules.neighbours}: the index holds {len(index.entries)} pictures",
            f"--neighbours {min(len(index.entries), 50)} --voters {min(20, len(index.entries))} fits it",
        )


@torch.inference_mode()
def compare(
    index: Index, backbone: Backbone, chm: CHMNet | None, image: "Image", content: bytes, rules: Rules
) -> Session:
    """Finds the support images of a query and where its cells go in them.

    Args:
        index: open.
        backbone: that it was made with.
        chm: the same of CHM; None: cells go to the nearest features.
        image: the query.
        content: of its file; pictures of the index with the same content are left out.
        rules: how it is decided.

    Raises:
        UserError: more neighbours than pictures are left.
    """
    check_rules(index, rules)
    cells = backbone.cells(backbone.prepare(image))[0].cpu()
    cosine = index.embeddings @ embed(cells[None])[0]
    digest = digest_of(content)
    same = [number for number, entry in enumerate(index.entries) if entry.digest == digest]
    notes = []
    if same:
        cosine[same] = -torch.inf
        notes.append(f"the query is itself in the index ({index.entries[same[0]].file}): left out of its own support")
        if len(index.entries) - len(same) < rules.neighbours:
            raise UserError(
                f"--neighbours {rules.neighbours}: without the query itself the index holds {len(index.entries) - len(same)}"
            )
    order = cosine.argsort(descending=True, stable=True)[: rules.neighbours]
    numbers = order.tolist()
    supports = index.rows("cells", numbers).float()
    if chm is None:
        places = nearest_cells(cells, supports)
    else:
        of_query = chm.scales_of_query(prepare(image, backbone.pictures.device))
        of_support = [index.rows(name, numbers).to(backbone.pictures.device) for name in SCALES]
        places = chm.cells(of_query, of_support).cpu()
    similarity = similarity_map(cells, supports, places, axis_order=rules.axis_order)
    mask = common_mask(cross_correlation(cells, supports)[0], rules.threshold)
    labels = [index.entries[number].label for number in numbers]
    support = Support(similarity, mask, labels, rules.voters)
    return Session(index, rules, numbers, cosine[order], places, support, tuple(notes))
