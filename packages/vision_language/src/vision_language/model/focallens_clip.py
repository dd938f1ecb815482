"""FocalLens-CLIP (Hsieh et al. 2025): an instruction enters CLIP's image encoder as condition tokens.

No code was published: how the condition becomes tokens, and their number, are reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class FocalLensConfig:
    """What the network is built from.

    Attributes:
        clip: transformers' configuration of the CLIP model, as a dictionary.
        condition_tokens: K, how many tokens an instruction becomes.
    """

    clip: Mapping[str, Any] = field(default_factory=dict)
    condition_tokens: int = 1


class FocalLensCLIP(nn.Module):
    """``[CLS, patches, condition tokens] → CLIP's blocks → CLS → projection``, unit norm.

    The condition is the instruction's normalised CLIP text embedding, mapped linearly to K tokens without position embeddings. The text
    encoder is frozen and stays in evaluation mode; without an instruction the network is CLIP itself.
    """

    config: FocalLensConfig
    clip: Any  # transformers' CLIPModel

    def __init__(self, config: FocalLensConfig):
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        self.config = config
        self.clip = CLIPModel(CLIPConfig(**config.clip))
        width = self.clip.config.vision_config.hidden_size
        self.width, self.condition_tokens = width, config.condition_tokens
        self.condition_proj = nn.Linear(self.clip.config.projection_dim, config.condition_tokens * width)
        nn.init.normal_(self.condition_proj.weight, std=0.02)
        nn.init.zeros_(self.condition_proj.bias)
        self.freeze_text()

    def freeze_text(self) -> None:
        """No gradient reaches the text encoder."""
        for module in (self.clip.text_model, self.clip.text_projection):
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> FocalLensCLIP:
        super().train(mode)
        self.clip.text_model.eval()
        return self

    def embed_text(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of instructions or answers. They never change in training: compute them once."""
        pooled = self.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.clip.text_projection(pooled), dim=-1)

    def condition(self, instruction: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch tokens width"]:
        """The condition tokens of embedded instructions."""
        return self.condition_proj(instruction).unflatten(-1, (self.condition_tokens, self.width))

    def embed_patches(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """What all instructions of a picture share: patches and class token before the blocks."""
        vision = self.clip.vision_model
        return vision.pre_layrnorm(vision.embeddings(pixels))

    def embed_image(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        instruction: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of pictures under embedded instructions; under none, CLIP's own."""
        return self.embed_from_patches(self.embed_patches(pixels), instruction)

    def embed_from_patches(
        self, patches: Float[Tensor, "batch tokens width"], instruction: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """`embed_image` from `embed_patches`, for several instructions on one picture."""
        vision = self.clip.vision_model
        tokens = patches
        if instruction is not None:
            tokens = torch.cat([patches, vision.pre_layrnorm(self.condition(instruction))], 1)
        hidden = vision.encoder(inputs_embeds=tokens).last_hidden_state
        pooled = vision.post_layernorm(hidden[:, 0])
        return F.normalize(self.clip.visual_projection(pooled), dim=-1)

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100 as in CLIP."""
        return self.clip.logit_scale.exp().clamp(max=100)
