"""Model folders of embeddings, and images as the network takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import choose_model, seal, warn_if_changed
from core_runtime.terminal import track
from medical_segmentation.similar.images import ImageSet
from medical_segmentation.similar.model.embedding import Embedded, EmbeddingNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
ADVICE = "train one with 'medical-segmentation similar train IMAGES --out run', or 'similar models convert' an official checkpoint"
_MADE_BY = "'medical-segmentation similar train' makes a model folder"


@dataclass(frozen=True, eq=False)
class SimilarModel:
    """An embedding ready to use.

    Attributes:
        network: the embedding.
        image_size: pixels of a side that it sees.
        classes: of its training images.
        provenance: how the weights were made.
    """

    network: EmbeddingNet
    image_size: int
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    path: Path | None = None

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[NDArray[np.uint8]]) -> Embedded:
        """Embeddings and attention maps of pictures (rows, columns, 3)."""
        device = next(self.network.parameters()).device
        batch = torch.stack([centre_crop(picture, self.image_size) for picture in pictures])
        return Embedded(*(part.cpu() for part in self.network(batch.to(device))))

    def embed(
        self, images: ImageSet, numbers: Sequence[int], *, batch: int = 64, unreadable: dict[int, str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings and penultimate features of images, in order.

        Args:
            images, numbers: which images.
            batch: how many at a time.
            unreadable: gets the images that cannot be read, and why; they have no embedding.

        Returns:
            (images, size) and (images, channels).

        Raises:
            UserError: an image cannot be read, and `unreadable` is None; or none can.
        """
        embeddings, features = [], []
        places = range(0, len(numbers), batch)
        for begin in track(places, "Embedding", len(places)):
            pictures = []
            for number in numbers[begin : begin + batch]:
                try:
                    pictures.append(images.read(number))
                except UserError as error:
                    if unreadable is None:
                        raise
                    unreadable[number] = f"{error.message} ({error.hint})" if error.hint else error.message
            if not pictures:
                continue
            result = self(pictures)
            embeddings.append(result.embedding)
            features.append(result.penultimate)
        if not embeddings:
            raise UserError(
                f"{images.source}: no image can be read; {next(iter((unreadable or {}).values()), 'there is none')}"
            )
        return torch.cat(embeddings), torch.cat(features)


def normalised(pixels: Tensor) -> Tensor:
    """Values 0…255 → ImageNet's mean 0 and deviation 1; (3, rows, columns)."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def centre_crop(picture: NDArray[np.uint8], size: int) -> Tensor:
    """The shorter side resized to 256/224 of `size`, then the middle: the published test transform."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()
    shorter = round(size * 256 / 224)
    scale = shorter / min(pixels.shape[1:])
    sides = tuple(max(shorter, round(side * scale)) for side in pixels.shape[1:])
    resized = F.interpolate(pixels[None], size=sides, mode="bilinear", align_corners=False, antialias=True)[0]
    top, left = ((side - size) // 2 for side in sides)
    return normalised(resized[:, top : top + size, left : left + size])


def save_model(
    network: EmbeddingNet, folder: Path, *, image_size: int, classes: Sequence[str], provenance: Mapping[str, Any]
) -> Path:
    """Writes a model folder; its learners stand in its configuration and among its weights."""
    network.config = replace(network.config, learners=tuple(network.learners))
    return seal(
        save_folder(
            network, folder, preprocessing={"image_size": image_size, "classes": list(classes)}, provenance=provenance
        )
    )


def load_model(model: str | Path | None, *, device: str = "cpu") -> SimilarModel:
    """The model of ``--model``.

    Raises:
        UserError: none was given, or it does not hold an embedding of this group.
    """
    folder = choose_model(None if model is None else str(model), advice=ADVICE)
    where = f"{folder}/config.json"
    settings: dict[str, Any] = {"where": where, "hint": _MADE_BY}
    try:
        described = read_config(folder)
        if described["class"] != EmbeddingNet.__name__:
            raise UserError(f"{folder} holds {described['class']}, which is no embedding", _MADE_BY)
        network = load_strictly(folder, EmbeddingNet)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(str(error), _MADE_BY) from None
    check_names(described, "preprocessing", ("image_size", "classes"), **settings)
    loaded = SimilarModel(
        network.to(device).eval(),
        read_field(described, "preprocessing.image_size", int, low=16, high=4096, **settings),
        tuple(read_names(described, "preprocessing.classes", **settings)),
        read_field(described, "provenance", dict, **settings),
        Path(folder),
    )
    warn_if_changed(described, Path(folder))
    return loaded
