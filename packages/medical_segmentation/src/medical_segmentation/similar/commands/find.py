"""``medical-segmentation similar find``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Device, Threads, resolve_device, use_threads
from medical_segmentation.similar.images import find_images, read_picture

_HINT = "'medical-segmentation similar index IMAGES --model run/model --out index' makes one"


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
    where = index / "index.json"
    if not where.is_file():
        raise UserError(f"{index} is no index", _HINT)
    from safetensors.torch import load_file

    from medical_segmentation.similar.metrics import nearest
    from medical_segmentation.similar.model.folder import load_model

    use_threads(threads)
    try:
        described = json.loads(where.read_text(encoding="utf-8"))
        gallery = load_file(index / "embeddings.safetensors")["embeddings"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{index} is damaged: {error}", _HINT) from None
    if len(gallery) != len(described["names"]):
        raise UserError(f"{index} is damaged: {len(gallery)} embeddings of {len(described['names'])} images", _HINT)
    if k > len(gallery):
        raise UserError(f"--k {k}: the index holds {len(gallery)} images", f"--k {len(gallery)} is the most")
    model = load_model(index / "model", device=resolve_device(device))
    result = model([query])
    distances, numbers = nearest(result.embedding, gallery, k)
    labels = described["labels"]
    rows = []
    for rank, (distance, number) in enumerate(zip(distances[0].tolist(), numbers[0].tolist(), strict=True), 1):
        label = labels[number] if labels else ""
        rows.append({"rank": rank, "name": described["names"][number], "class": label, "distance": distance})
    if picture is not None:
        from medical_segmentation.similar.proxies import seen_map
        from medical_segmentation.similar.reports.figures import neighbour_sheet

        source = Path(described["source"])
        if not source.exists():
            raise UserError(f"the indexed images are no longer at {source}", "leave out --picture, or index them again")
        images = find_images(source)
        near = [images.read(number) for number in numbers[0].tolist()]
        titles = [image.name, *(f"{row['class']} {row['distance']:.2f}".strip() for row in rows)]
        seen = seen_map(result.attention[0], (query.shape[0], query.shape[1]), model.image_size)
        neighbour_sheet([query], [seen], [near], [titles], [["#5577aa"] * k], picture)
    return Neighbours(rows, picture)
