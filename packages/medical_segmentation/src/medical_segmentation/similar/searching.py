"""An index of images, opened and asked: the nearest ones to a picture, and a drawing of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from medical_segmentation.similar.model.folder import SimilarModel

HINT = "'medical-segmentation similar index IMAGES --model run/model --out index' makes one"


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """A folder that `similar index` wrote.

    Attributes:
        folder: where it lies.
        names, labels: of its images; labels are empty where there are no classes.
        source: where the images were when they were indexed.
        gallery: (images, coordinates).
        model: that embedded them.
    """

    folder: Path
    names: Sequence[str]
    labels: Sequence[str]
    source: Path
    gallery: Tensor
    model: SimilarModel

    def nearest(self, picture: NDArray[np.uint8], k: int) -> Nearest:
        """The k images that are most similar to a picture (rows, columns, 3).

        Raises:
            UserError: the index holds fewer.
        """
        from medical_segmentation.similar.metrics import nearest

        if k > len(self.gallery):
            raise UserError(
                f"--k {k}: the index holds {len(self.gallery)} images", f"--k {len(self.gallery)} is the most"
            )
        result = self.model([picture])
        distances, numbers = nearest(result.embedding, self.gallery, k)
        rows = []
        for rank, (distance, number) in enumerate(zip(distances[0].tolist(), numbers[0].tolist(), strict=True), 1):
            label = self.labels[number] if self.labels else ""
            rows.append({"rank": rank, "name": self.names[number], "class": label, "distance": distance})
        return Nearest(rows, numbers[0].tolist(), result.attention[0])

    def draw(self, picture: NDArray[np.uint8], title: str, found: Nearest, path: Path) -> None:
        """Draws a picture, where the model looks in it, and its neighbours.

        Raises:
            UserError: the indexed images have moved.
        """
        from medical_segmentation.similar.images import find_images
        from medical_segmentation.similar.proxies import seen_map
        from medical_segmentation.similar.reports.figures import neighbour_sheet

        if not self.source.exists():
            raise UserError(
                f"the indexed images are no longer at {self.source}", "leave out the picture, or index them again"
            )
        images = find_images(self.source)
        near = [images.read(number) for number in found.numbers]
        titles = [title, *(f"{row['class']} {row['distance']:.2f}".strip() for row in found.rows)]
        seen = seen_map(found.attention, (picture.shape[0], picture.shape[1]), self.model.image_size)
        neighbour_sheet([picture], [seen], [near], [titles], [["#5577aa"] * len(near)], path)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The answer to a picture.

    Attributes:
        rows: rank, name, class and distance, nearest first.
        numbers: of the images in the index.
        attention: of the model in the picture.
    """

    rows: Sequence[Mapping[str, Any]]
    numbers: Sequence[int]
    attention: Tensor


def open_index(folder: Path, *, device: str = "cpu") -> ImageIndex:
    """The index in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    where = folder / "index.json"
    if not where.is_file():
        raise UserError(f"{folder} is no index", HINT)
    from safetensors.torch import load_file

    from medical_segmentation.similar.model.folder import load_model

    try:
        described = json.loads(where.read_text(encoding="utf-8"))
        gallery = load_file(folder / "embeddings.safetensors")["embeddings"]
        names, labels, source = described["names"], described["labels"], Path(described["source"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged: {error}", HINT) from None
    if len(gallery) != len(names):
        raise UserError(f"{folder} is damaged: {len(gallery)} embeddings of {len(names)} images", HINT)
    return ImageIndex(folder, names, labels, source, gallery, load_model(folder / "model", device=device))
