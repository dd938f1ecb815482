"""FocalLens-MLLM (Hsieh et al. 2025): LLaVA reads the picture, then the instruction, then a read-out token whose state is the embedding.

The picture's features do not depend on the instruction, so several instructions share the picture's part of the sequence in the
key-value cache. No code was published; the read-out token and its projection are reconstruction.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class FocalLensMLLMConfig:
    """What the network is built from.

    Attributes:
        llava: transformers' configuration of the LLaVA model, as a dictionary.
        readout_token: id of the read-out token, the last of every prompt.
        readout_dim: size of the embedding, that of the text encoder it is compared with.
    """

    llava: Mapping[str, Any] = field(default_factory=dict)
    readout_token: int = 0
    readout_dim: int = 768


class FocalLensMLLM(nn.Module):
    """Unit embeddings of (picture, instruction) from the last layer's state at the read-out token."""

    config: FocalLensMLLMConfig
    llava: Any  # transformers' LlavaForConditionalGeneration

    def __init__(self, config: FocalLensMLLMConfig):
        super().__init__()
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        self.config = config
        self.llava = LlavaForConditionalGeneration(LlavaConfig(**config.llava))
        self.readout_proj = nn.Linear(self.llava.config.text_config.hidden_size, config.readout_dim)
        nn.init.normal_(self.readout_proj.weight, std=0.02)
        nn.init.zeros_(self.readout_proj.bias)
        self.llava.model.vision_tower.requires_grad_(False)

    def hidden(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"], pixels: Tensor
    ) -> Float[Tensor, "batch length width"]:
        """Last states after the final norm; padding may stand on either side."""
        positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        output = self.llava.model(input_ids=ids, attention_mask=mask, pixel_values=pixels, position_ids=positions)
        return output.last_hidden_state

    def read_out(self, hidden: Float[Tensor, "batch length width"], ids: Int[Tensor, "batch length"]) -> Tensor:
        """Unit embeddings from the states at each prompt's read-out token.

        Raises:
            ValueError: a prompt without exactly one.
        """
        places = ids == self.config.readout_token
        counts = places.sum(1)
        if not bool((counts == 1).all()):
            raise ValueError(
                f"every prompt ends with one read-out token (id {self.config.readout_token}); "
                f"sample {int((counts != 1).int().argmax())} has {int(counts[counts != 1][0])}: was it cut off?"
            )
        states = hidden[places]
        return F.normalize(self.readout_proj(states), dim=-1)

    def forward(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"], pixels: Tensor
    ) -> Float[Tensor, "batch dim"]:
        """Unit embeddings of prompts with their pictures."""
        return self.read_out(self.hidden(ids, mask, pixels), ids)

    @torch.no_grad()
    def embed_instructions(
        self, prefix: Int[Tensor, "1 prefix"], pixels: Tensor, instructions: list[Int[Tensor, " length"]]
    ) -> Float[Tensor, "instructions dim"]:
        """Several instructions on one picture: the picture's part of the prompt runs once.

        Args:
            prefix: token ids up to and with the picture's tokens.
            pixels: of the picture.
            instructions: token ids of what follows, each ending with the read-out token.
        """
        before = self.llava.model(input_ids=prefix, pixel_values=pixels, use_cache=True)
        count, length = prefix.shape[1], max(len(ids) for ids in instructions)
        rows = prefix.new_zeros(len(instructions), length)
        mask = prefix.new_zeros(len(instructions), length)
        for row, ids in enumerate(instructions):  # padded behind: the read-out sees nothing of it
            rows[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        # a copy of its own: the cache is filled further
        cache = copy.deepcopy(before.cache)
        cache.batch_repeat_interleave(len(instructions))
        visible = torch.cat([mask.new_ones(len(instructions), count), mask], 1)
        positions = count + torch.arange(length, device=rows.device).expand(len(instructions), -1)
        output = self.llava.model.language_model(
            input_ids=rows, attention_mask=visible, position_ids=positions, cache=cache, use_cache=True
        )
        ids = rows.masked_fill(mask == 0, -1)
        return self.read_out(output.last_hidden_state, ids)
