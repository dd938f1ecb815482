"""Prompt-CAM: one prompt per class, so that a class's attention shows what spoke for it (Chowdhury et al., CVPR 2025).

A frozen vision transformer gets C learnable rows per block, ahead of its own tokens. The rows of the last block are scored by one vector
that all classes share, ``s_c = w · Z_c + b``: whatever tells classes apart has to come from what a class's prompt attends to. Trained are
the prompts, w and b, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_attention import attention
from explainability.vit.backbone import (
    add_attention,
    add_mlp,
    attention_weights,
    blocks_of,
    check_backbone,
    embed,
    grid_of,
    merge,
    project,
    project_keys_values,
    project_queries,
)

Variant = Literal["deep", "shallow"]


def prompt_bound(patch: tuple[int, int], width: int) -> float:
    """Prompts start uniform in ±√(6 / (3 · patch area + width)), as in visual prompt tuning."""
    return math.sqrt(6 / (3 * patch[0] * patch[1] + width))


class PromptCAM(nn.Module):
    """A frozen backbone with class prompts. ``model(image)`` → logits (batch, classes).

    In the deep variant prompts have outputs in the last block alone. So in all others they are only keys and values, which do not depend
    on the image, and in the last one only their rows are computed (`definition` computes everything, as published).

    Args:
        backbone: a plain vision transformer of timm; it is frozen.
        classes: number of classes, C.
        variant: ``"deep"`` (as published in code): new prompts in every block. ``"shallow"`` (in the paper): the class prompts enter
            before the first block and flow through all.
        num_generic_prompts: prompts of each block before the last, which stand for no class; None: as many as classes. Deep only.
        dropout: of the prompts in training.

    Raises:
        ValueError: the backbone has a part that is not known, or sizes are impossible.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        *,
        variant: Variant = "deep",
        num_generic_prompts: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        if classes < 1:
            raise ValueError(f"needs at least one class, got {classes}")
        if variant not in ("deep", "shallow"):
            raise ValueError(f"variant is 'deep' or 'shallow', got {variant!r}")
        if variant == "shallow" and num_generic_prompts is not None:
            raise ValueError("num_generic_prompts belongs to the deep variant: the shallow one has class prompts alone")
        if num_generic_prompts is not None and num_generic_prompts < 0:
            raise ValueError(f"num_generic_prompts is 0 or more, got {num_generic_prompts}")
        self.backbone = check_backbone(backbone)
        self.backbone.requires_grad_(False)
        self.classes, self.variant = classes, variant
        width, depth = self.backbone.embed_dim, len(blocks_of(self.backbone))
        bound = prompt_bound(self.backbone.patch_embed.patch_size, width)
        # with as many generic prompts as classes all blocks share one array, as in published checkpoints
        rows = depth if variant == "deep" and num_generic_prompts is None else 1
        self.prompts = nn.Parameter(torch.empty(rows, classes, width).uniform_(-bound, bound))
        self.generic_prompts = None
        if num_generic_prompts is not None:
            generic = torch.empty(depth - 1, num_generic_prompts, width).uniform_(-bound, bound)
            self.generic_prompts = nn.Parameter(generic)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def block_prompts(self, layer: int, batch: int) -> Float[Tensor, "one_or_b prompts c"]:
        """The prompts of a block; with a batch axis of 1 unless dropout tells samples apart."""
        last = len(blocks_of(self.backbone)) - 1
        if self.generic_prompts is not None and layer < last:
            prompts = self.generic_prompts[layer]
        elif self.variant == "shallow" or self.generic_prompts is not None:
            prompts = self.prompts[0]
        else:
            prompts = self.prompts[layer]
        if self.training and self.dropout.p > 0:
            return self.dropout(prompts.expand(batch, -1, -1))
        return prompts[None]

    @torch.no_grad()
    def keep_prompts(self) -> None:
        """Computes the prompts' keys and values once for all images to come: they depend on no image.

        To be called when the weights are final; `train` forgets them. Calls with gradients do not use them.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.training:
            raise ValueError("prompts are kept in evaluation mode: call model.eval() first")
        self._kept = []
        if self.variant == "deep":
            layers = range(len(blocks_of(self.backbone)) - 1)
            self._kept = [self._prompt_keys_values(layer, 1) for layer in layers]

    def _prompt_keys_values(self, layer: int, batch: int) -> tuple[Tensor, Tensor]:
        if self._kept and not torch.is_grad_enabled():
            return self._kept[layer]
        block = blocks_of(self.backbone)[layer]
        return project_keys_values(block.attn, block.norm1(self.block_prompts(layer, batch)))

    def train(self, mode: bool = True):
        """As torch's; what `keep_prompts` computed is forgotten where training begins."""
        if mode:
            self._kept = []
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        # to another device or precision
        self._kept = []
        return super()._apply(fn, recurse)

    def enter_last(self, image: Float[Tensor, "b 3 height width"]) -> tuple[Tensor, Tensor]:
        """What enters the last block: class prompts (1 or batch, C, width) and the other tokens (batch, tokens, width)."""
        x = embed(self.backbone, image)
        batch, last = x.shape[0], len(blocks_of(self.backbone)) - 1
        if self.variant == "shallow":
            prompts = self.block_prompts(0, batch).expand(batch, -1, -1)
            x = torch.cat([prompts, x], 1)
            for block in blocks_of(self.backbone)[:last]:
                x = block(x)
            return x[:, : self.classes], x[:, self.classes :]
        for layer, block in enumerate(blocks_of(self.backbone)[:last]):
            q, k, v = project(block.attn, block.norm1(x))
            k_prompt, v_prompt = self._prompt_keys_values(layer, batch)
            k = torch.cat([k_prompt.expand(batch, -1, -1, -1), k], 2)
            v = torch.cat([v_prompt.expand(batch, -1, -1, -1), v], 2)
            x = add_attention(block, x, merge(block.attn, attention(q, k, v)))
            x = add_mlp(block, x)
        return self.block_prompts(last, batch), x

    def last_keys_values(self, prompts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the last block, those of the prompts first."""
        block = blocks_of(self.backbone)[-1]
        k, v = project_keys_values(block.attn, block.norm1(x))
        k_prompt, v_prompt = project_keys_values(block.attn, block.norm1(prompts))
        batch = (x.shape[0], -1, -1, -1)
        return torch.cat([k_prompt.expand(batch), k], 2), torch.cat([v_prompt.expand(batch), v], 2)

    def score(self, prompts: Tensor, outputs: Float[Tensor, "b heads rows width"]) -> Float[Tensor, "b rows"]:
        """Scores of rows of the last block from their prompts and their heads' outputs."""
        block = blocks_of(self.backbone)[-1]
        z = add_attention(block, prompts, merge(block.attn, outputs))
        z = self.backbone.norm(add_mlp(block, z))
        return self.head(z)[..., 0]

    def forward(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b classes"]:
        """Logits of the classes."""
        prompts, x = self.enter_last(image)
        block = blocks_of(self.backbone)[-1]
        k, v = self.last_keys_values(prompts, x)
        q = project_queries(block.attn, block.norm1(prompts)).expand(x.shape[0], -1, -1, -1)
        return self.score(prompts, attention(q, k, v))

    def last_attention(
        self, image: Float[Tensor, "b 3 height width"], *, classes: list[int] | None = None
    ) -> Float[Tensor, "b heads rows keys"]:
        """Softmax weights of the last block; columns are the C prompts, CLS and registers, patches.

        Args:
            image: as for the model.
            classes: the rows of these classes; None: all rows, those of CLS, registers and patches too.
        """
        prompts, x = self.enter_last(image)
        block = blocks_of(self.backbone)[-1]
        k, _ = self.last_keys_values(prompts, x)
        if classes is None:
            rows = torch.cat([prompts.expand(x.shape[0], -1, -1), x], 1)
        else:
            rows = prompts[:, classes]
        q = project_queries(block.attn, block.norm1(rows)).expand(x.shape[0], -1, -1, -1)
        return attention_weights(q, k)

    def class_maps(
        self, image: Float[Tensor, "b 3 height width"], classes: list[int]
    ) -> Float[Tensor, "b classes heads rows columns"]:
        """What the prompts of classes attend to among the patches, per head; not normalised over the patches."""
        weights = self.last_attention(image, classes=classes)
        patches = weights[..., self.classes + self.backbone.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(-1, grid_of(self.backbone, image))

    def definition(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b classes"]:
        """The logits as published: prompts are tokens of every block, and their outputs are thrown away but for the last."""
        x = embed(self.backbone, image)
        batch = x.shape[0]
        if self.variant == "shallow":
            x = torch.cat([self.block_prompts(0, batch).expand(batch, -1, -1), x], 1)
            x = self.backbone.blocks(x)
        else:
            count = 0
            for layer, block in enumerate(blocks_of(self.backbone)):
                prompts = self.block_prompts(layer, batch).expand(batch, -1, -1)
                x = block(torch.cat([prompts, x[:, count:]], 1))
                count = prompts.shape[1]
        return self.head(self.backbone.norm(x)[:, : self.classes])[..., 0]
