"""The results of this group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TilePrediction:
    """The prediction of a model for one tile."""

    file: str
    label: str
    confidence: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class SceneMap:
    """The results of one scene.

    Attributes:
        scene: its name.
        files: by name ("map", "confidence", "attention", "picture").
        shares: share of the mapped area by class name.
        covered: share of the scene's cells that hold data.
        cell: side of a cell of the map, in map units.
        warnings: what the user should know.
    """

    scene: str
    files: Mapping[str, str]
    shares: Mapping[str, float]
    covered: float
    cell: float
    warnings: Sequence[str]
