"""``medical-segmentation similar find``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Threads, resolve_device, use_threads
from medical_segmentation.similar.images import read_picture
from medical_segmentation.similar.searching import open_index


@dataclass(frozen=True)
class Neighbours(Outcome):
    """The most similar images.

    Attributes:
        rows: rank, name, class and distance, nearest first.
        picture: the query, where the model looks, and the neighbours.
    """

    rows: Sequence[Mapping[str, Any]]
    picture: Path | None

    def facts(self) -> dict[str, Any]:
        return {"neighbours": list(self.rows), "picture": self.picture}

    def lines(self) -> Iterable[str]:
        for row in self.rows:
            label = f" ({row['class']})" if row["class"] else ""
            yield f"{row['rank']}. {row['name']}{label}, distance {row['distance']:.3f}"
        if self.picture is not None:
            yield f"Picture: {self.picture}"


def find(
    image: Path,
    /,
    *,
    index: Path = Path("index"),
    k: Annotated[int, AtLeast(1)] = 5,
    picture: Path | None = None,
    device: Device = "auto",
    threads: Threads = None,
) -> Neighbours:
    """Finds the images of an index that are most similar to one, and shows where the model looks.

    Example: medical-segmentation similar find case.png --index index --picture similar.png

    Args:
        image: a picture, a DICOM image, or a volume (its middle slice).
        index: folder that 'index' wrote.
        k: how many.
        picture: also draw query, attention and neighbours.
    """
    if not image.exists():
        raise UserError(f"no such file: {image}")
    query = read_picture(image)
    use_threads(threads)
    opened = open_index(index, device=resolve_device(device))
    found = opened.nearest(query, k)
    if picture is not None:
        opened.draw(query, image.name, found, picture)
    return Neighbours(found.rows, picture)
