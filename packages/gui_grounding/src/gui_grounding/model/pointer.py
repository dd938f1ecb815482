"""The whole network: Qwen2.5-VL or Qwen2-VL as transformers has it, and the pointer head on its two ends, by composition.

The head's keys are the vision tower's outputs (what is put in place of the image tokens), its queries the language model's final hidden
states at ``<|pointer_pad|>``. A subclass of transformers' class would lose its key conversion, and load an old checkpoint with random
weights; so the network holds the class, and the keys are ours to check.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gui_grounding.model.backbone import build_backbone, text_width
from gui_grounding.model.head import PointerHead
from gui_grounding.model.losses import PointerLoss, pointer_loss

if TYPE_CHECKING:
    from transformers import Cache

IGNORED = -100  # label of a token that the language model is not asked for


@dataclass(frozen=True)
class PointerConfig:
    """Sizes and constants of a `PointerModel`.

    Attributes:
        backbone: transformers' configuration of Qwen2.5-VL or Qwen2-VL, flat or nested, with its ``model_type``.
        pointer_start, pointer_pad, pointer_end: ids of the special tokens.
        heads, dropout: of the pointer head.
        suppress: whether the loss suppresses attention outside the target (V2P), or not (GUI-Actor).
        lm_weight, pointer_weight: of the parts of the loss; a negative `lm_weight` leaves the language model's loss out.
    """

    backbone: dict[str, Any]
    pointer_start: int
    pointer_pad: int
    pointer_end: int
    heads: int = 8
    dropout: float = 0.1
    suppress: bool = True
    lm_weight: float = 1.0
    pointer_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads is {self.heads}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected 0 to 1")


@dataclass(frozen=True)
class Screen:
    """One encoded screenshot, which serves any number of instructions.

    Attributes:
        embeddings: (cells, width) outputs of the vision tower.
        keys: (cells, inner) K' of the pointer head.
        grid: (3,) time, rows and columns in patches of 14 pixels.
    """

    embeddings: Tensor
    keys: Tensor
    grid: Tensor


@dataclass(frozen=True)
class PointerOutput:
    """What one pass gives.

    Attributes:
        hidden: (batch, tokens, width) after the final norm.
        position_ids: (3, batch, tokens): time, row, column.
        image_embeddings: (cells, width) of each screenshot.
        logits: (targets, cells) of the pointer head, of each sample.
        loss, lm_loss, pointer_loss: None without labels; `lm_loss` also where its weight is negative.
        parts: KL and suppression of each sample with pointers.
        keys: K' of the head for each sample.
    """

    hidden: Tensor
    position_ids: Tensor
    image_embeddings: Sequence[Tensor]
    logits: Sequence[Tensor]
    loss: Tensor | None = None
    lm_loss: Tensor | None = None
    pointer_loss: Tensor | None = None
    parts: Sequence[PointerLoss] = field(default_factory=list)
    keys: Sequence[Tensor] = field(default_factory=list)


class PointerModel(nn.Module):
    """`Qwen2_5_VLForConditionalGenerationWithPointer` of V2P and GUI-Actor, for Qwen2.5-VL and Qwen2-VL."""

    def __init__(self, config: PointerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.head = PointerHead(text_width(self.backbone), heads=config.heads, dropout=config.dropout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PointerModel":
        """As torch's, but rotary frequencies keep float32: in bfloat16 far positions would be told apart no longer."""
        tables = [module for module in self.modules() if "inv_freq" in module._buffers]
        exact = [{name: buffer for name, buffer in m._buffers.items() if buffer is not None} for m in tables]
        super()._apply(fn, recurse)
        for module, buffers in zip(tables, exact, strict=True):
            for name, buffer in buffers.items():
                moved = module._buffers[name]
                assert moved is not None
                module._buffers[name] = buffer.to(moved.device)
        return self

    @property
    def image_token(self) -> int:
        return self.backbone.config.image_token_id

    def encode_images(self, pixel_values: Tensor, grids: Int[Tensor, "images 3"]) -> Sequence[Tensor]:
        """(cells, width) outputs of the vision tower, of each image."""
        return self.backbone.model.get_image_features(pixel_values, grids).pooler_output

    def encode_screen(self, pixel_values: Tensor, grid: Int[Tensor, "1 3"]) -> Screen:
        """One screenshot, once for all of its instructions."""
        (embeddings,) = self.encode_images(pixel_values, grid)
        return Screen(embeddings, self.head.keys(embeddings), grid[0])

    def embed(
        self, input_ids: Int[Tensor, "batch tokens"], images: Sequence[Tensor]
    ) -> Float[Tensor, "batch tokens width"]:
        """Token embeddings with the images in place of their tokens.

        Raises:
            ValueError: a sample has another number of image tokens than its image has cells.
        """
        is_image = input_ids == self.image_token
        expected = [len(image) for image in images]
        if is_image.sum(1).tolist() != expected:
            raise ValueError(
                f"{is_image.sum(1).tolist()} image tokens in the samples, expected {expected}, one image each"
            )
        embedded = self.backbone.get_input_embeddings()(input_ids)
        joined = torch.cat(list(images)).to(embedded.dtype)
        return embedded.masked_scatter(is_image[..., None], joined)

    def positions(
        self, input_ids: Tensor, grids: Tensor, attention_mask: Tensor | None = None
    ) -> Int[Tensor, "3 batch tokens"]:
        """Time, row and column of every token. Padding on the right counts on, padding on the left is 1, as published."""
        kinds = (input_ids == self.image_token).int()
        positions, _ = self.backbone.model.get_rope_index(
            input_ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=attention_mask
        )
        if attention_mask is None:
            return positions
        there = attention_mask.bool()
        begun = there.cumsum(-1) > 0
        beyond = (~there & begun).cumsum(-1)
        last = positions.masked_fill(~there, 0).amax(-1, keepdim=True)
        return torch.where(there, positions, torch.where(begun, last + beyond, 1))

    def read(
        self, embedded: Tensor, positions: Tensor, attention_mask: Tensor | None = None, cache: "Cache | None" = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Final hidden states of the language model; a cache is read and extended."""
        output = self.backbone.model.language_model(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=attention_mask,
            cache=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
        pixel_values: Float[Tensor, "patches values"],
        grids: Int[Tensor, "images 3"],
        *,
        labels: Int[Tensor, "batch tokens"] | None = None,
        targets: Sequence[Tensor | None] | None = None,
        image_of: Sequence[int] | None = None,
    ) -> PointerOutput:
        """A batch, each sample with one screenshot; padding may stand on either side.

        Args:
            input_ids: tokens; as many image tokens as the screenshot has cells.
            attention_mask: 1 for tokens, 0 for padding.
            pixel_values: patches of all screenshots, one after the other.
            grids: time, rows and columns of each screenshot in patches.
            labels: next-token targets of the language model, `IGNORED` where it is not asked.
            targets: (targets, cells) labels of each sample; None for one without pointer tokens.
            image_of: which screenshot each sample asks about, so that several share one; None: each its own.

        Raises:
            ValueError: image tokens, targets and pointer tokens that do not fit together.
        """
        images = self.encode_images(pixel_values, grids)
        owners = list(range(len(images))) if image_of is None else list(image_of)
        embedded = self.embed(input_ids, [images[owner] for owner in owners])
        positions = self.positions(input_ids, grids[owners], attention_mask)
        hidden = self.read(embedded, positions, attention_mask)
        keys = [self.head.keys(image) for image in images]
        logits = []
        for sample, owner in enumerate(owners):
            queries = hidden[sample, input_ids[sample] == self.config.pointer_pad]
            logits.append(self.head.logits(queries, keys[owner]))
        output = PointerOutput(hidden, positions, images, logits, keys=[keys[owner] for owner in owners])
        if labels is None and targets is None:
            return output
        return self._with_losses(output, input_ids, attention_mask, labels, targets)

    def lm_logits(self, hidden: Tensor) -> Float[Tensor, "batch tokens vocabulary"]:
        """The language model's next-token logits."""
        return self.backbone.lm_head(hidden)

    def _with_losses(
        self,
        output: PointerOutput,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None,
        targets: Sequence[Tensor | None] | None,
    ) -> PointerOutput:
        """The output with the loss of both parts."""
        total = output.hidden.new_zeros(())
        lm_loss = pointer = None
        parts: list[PointerLoss] = []
        if labels is not None and self.config.lm_weight >= 0:
            shown = self.lm_logits(output.hidden[:, :-1]).float()
            lm_loss = F.cross_entropy(shown.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            total = total + self.config.lm_weight * lm_loss
        if targets is not None:
            losses = []
            for sample, target in enumerate(targets):
                logits = output.logits[sample]
                count = 0
                if target is not None:
                    count = len(target)
                if len(logits) != count:
                    raise ValueError(f"sample {sample} has {len(logits)} pointer tokens and {count} targets")
                if target is None or not count:
                    losses.append(self._idle_loss(output, sample, attention_mask))
                    continue
                part = pointer_loss(logits, target.to(logits.device), suppress=self.config.suppress)
                parts.append(part)
                losses.append(part.total)
            pointer = torch.stack(losses).mean()
            total = total + self.config.pointer_weight * pointer
        return replace(output, loss=total, lm_loss=lm_loss, pointer_loss=pointer, parts=parts)

    def _idle_loss(self, output: PointerOutput, sample: int, attention_mask: Tensor) -> Tensor:
        """0, with a gradient through the head: of several processes each must run it, whether or not its sample has a pointer."""
        last = int(attention_mask[sample].nonzero()[-1])
        logits = self.head.logits(output.hidden[sample, last : last + 1], output.keys[sample])
        label = torch.zeros_like(logits)
        label[:, :4] = 1
        return pointer_loss(logits, label, suppress=self.config.suppress).total * 0.0


def config_from_published(config: Mapping[str, Any], *, suppress: bool = True) -> PointerConfig:
    """Ours from the ``config.json`` of a published checkpoint (transformers' fields and the pointer tokens' ids).

    Raises:
        ValueError: the pointer tokens are not in it: it is a plain Qwen2-VL.
    """
    backbone = dict(config)
    ids = {}
    for name in ("start", "pad", "end"):
        token = backbone.pop(f"pointer_{name}_token_id", None)
        if isinstance(token, list) and len(token) == 1:
            token = token[0]
        if not isinstance(token, int):
            raise ValueError(
                f"the configuration has no pointer_{name}_token_id: it is not a checkpoint with a pointer head"
            )
        ids[f"pointer_{name}"] = token
    return PointerConfig(
        backbone=backbone,
        **ids,
        suppress=suppress,
        lm_weight=float(backbone.pop("lm_loss_weight", 1.0)),
        pointer_weight=float(backbone.pop("pointer_loss_weight", 1.0)),
    )


__all__ = [
    "IGNORED",
    "PointerConfig",
    "PointerModel",
    "PointerOutput",
    "Screen",
    "config_from_published",
]
