"""Nearest neighbours in safe files: unit vectors with names, and a digest of what they were made from, in one safetensors file.

Search is exact, in chunks, so that neither the file's vectors nor all similarities need be in memory at once. Needs NumPy and safetensors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import writing
from core_runtime.identity import differences, spelled

VECTORS, ABOUT = "vectors", "index"  # the tensor, and the entry of the file's metadata
CHUNK = 65536  # vectors compared at once


@dataclass(frozen=True)
class Index:
    """Vectors by name.

    Attributes:
        names: one for each vector, none twice.
        vectors: (count, dim), float16 or float32, of length 1.
        made_from: what they depend on: model, instruction, options (JSON).
        facts: of each name, for people: where its file is, its label (JSON).
    """

    names: tuple[str, ...]
    vectors: NDArray[Any]
    made_from: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.names) != len(self.vectors):
            raise ValueError(f"{len(self.names)} names for vectors of shape {self.vectors.shape}")
        if self.vectors.dtype not in (np.float16, np.float32):
            raise ValueError(f"vectors are float16 or float32, got {self.vectors.dtype}")
        if len(set(self.names)) < len(self.names):
            raise ValueError("names of an index are all different")

    def nearest(
        self, queries: NDArray[Any], count: int, *, leave_out: Sequence[str | None] = ()
    ) -> list[list[tuple[str, float]]]:
        """The most similar names of each query with their cosine, best first; of equal ones the earlier name.

        Args:
            queries: (queries, dim), of length 1.
            count: how many.
            leave_out: of each query a name that is not answered (itself).

        Raises:
            ValueError: vectors of another size, or not finite.
        """
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries of {queries.shape[1]} numbers, the index has {self.vectors.shape[1]}")
        if not np.isfinite(queries).all():
            raise ValueError("a query is not finite")
        most = min(count + bool(leave_out), len(self.names))
        best = np.full((len(queries), 0), 0.0, np.float32)
        places = np.full((len(queries), 0), 0, np.int64)
        for start in range(0, len(self.names), CHUNK):
            part = queries @ self.vectors[start : start + CHUNK].astype(np.float32).T
            here = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
            best, places = np.concatenate([best, part], 1), np.concatenate([places, here], 1)
            # stable, and earlier names stand first: ties go to them
            order = np.argsort(-best, axis=1, kind="stable")[:, :most]
            best, places = np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)
        answers = []
        for row, (scores, numbers) in enumerate(zip(best, places, strict=True)):
            own = leave_out[row] if leave_out else None
            neighbours = [(self.names[number], float(score)) for score, number in zip(scores, numbers, strict=True)]
            answers.append([pair for pair in neighbours if pair[0] != own][:count])
        return answers


def save_index(index: Index, path: Path) -> Path:
    """Writes an index, whole or not at all."""
    from safetensors.numpy import save_file

    about = {"names": index.names, "made_from": spelled(index.made_from), "facts": spelled(index.facts)}
    with writing(path) as part:
        save_file({VECTORS: np.ascontiguousarray(index.vectors)}, part, metadata={ABOUT: json.dumps(about)})
    return path


def load_index(path: Path, *, made_from: Mapping[str, Any] | None = None) -> Index:
    """Reads an index.

    Args:
        path: the file.
        made_from: what the queries are made with; another is refused.

    Raises:
        UserError: absent, damaged, not an index, or made from something else.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"no such index: {path}", "make one with the verb index")
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            vectors = file.get_tensor(VECTORS)
        index = Index(tuple(about["names"]), vectors, about["made_from"], about["facts"])
    except KeyError:
        raise UserError(f"{path} is not an index of ours", "make one with the verb index") from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}", "make it again") from None
    if not np.isfinite(index.vectors).all():
        raise UserError(f"{path} holds vectors that are not finite", "make it again")
    changed = [] if made_from is None else differences(index.made_from, spelled(made_from))
    if changed:
        raise UserError(
            f"{path} was made with another {', '.join(changed)}", "make it again, or use what it was made with"
        )
    return index


__all__ = ["Index", "load_index", "save_index"]
