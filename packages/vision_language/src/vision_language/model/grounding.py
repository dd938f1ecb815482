"""A grounding network with all that stands around it: pictures and sentences in, `Grounding` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core_runtime.errors import UserError
from vision_language.model.grounding_network import GroundingNetwork
from vision_language.model.masks import box_of, mask_of, peak_of
from vision_language.model.sentences import SentenceEncoder, usable_sentence, words_of
from vision_language.results import Grounding

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prepared:
    """What a model expects.

    Attributes:
        side: pixels of the square that pictures are resized to.
        encoder: name of the sentence encoder.
    """

    side: int = 448
    encoder: str = "hashed-words"


def to_pixels(image: Image, side: int) -> Tensor:
    """A picture as (3, side, side) in 0…1, unnormalised; its proportions are not kept."""
    from PIL import Image as Pillow

    resized = image.convert("RGB").resize((side, side), Pillow.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1)


@dataclass
class Grounder:
    """Sentence attention, ready to be asked."""

    network: GroundingNetwork
    encoder: SentenceEncoder
    prepared: Prepared
    engine: str = "sentence-attention"

    @torch.inference_mode()
    def heat(self, image: Image, sentences: Sequence[str]) -> Tensor:
        """Probabilities (sentences, height, width) at the picture's own size; the backbone runs once."""
        device = next(self.network.parameters()).device
        pixels = to_pixels(image, self.prepared.side)[None].to(device)
        vectors = self.encoder.encode(sentences).to(device)
        assert self.network.backbone is not None
        features = self.network.backbone(self.network.init_norm(pixels))
        spread = [feature.expand(len(sentences), -1, -1, -1) for feature in features]
        logits = self.network.decode(spread, vectors, pixels.shape[-2:])
        if not bool(logits.isfinite().all()):
            raise UserError("the model's answers are not finite", "its weights are damaged: train again")
        sized = F.interpolate(logits, size=(image.height, image.width), mode="bilinear", align_corners=False)
        return sized[:, 0].sigmoid()

    def ground(self, image: Image, sentences: Sequence[str], *, threshold: float | None = None) -> list[Grounding]:
        """Where each sentence points; and each of its words alone."""
        asked = [usable_sentence(sentence) for sentence in sentences]
        groundings = []
        for sentence in asked:
            words = list(dict.fromkeys(words_of(sentence)))
            texts = [sentence, *words] if len(words) > 1 else [sentence]
            maps = self.heat(image, texts).float().cpu().numpy()
            heat = maps[0]
            mask = mask_of(heat, 0.5 if threshold is None else threshold)
            notes = (
                () if mask.any() else ("no pixel is likely to be meant: the sentence may not be about this picture",)
            )
            small = dict(zip(words, maps[1:] if len(words) > 1 else maps, strict=True))
            groundings.append(
                Grounding(sentence, self.engine, heat, mask, peak_of(heat, mask), box_of(mask), small, notes)
            )
        return groundings
