"""SAT: a spatial token that learns from image labels alone where the object is (Wu, Zhai, Cao, Luo, Zha, ICCV 2023).

The token stands behind the patches. In every block its query gives each key a gate, the sigmoid of its logits averaged over heads; in the
last blocks the gates weigh the attention of all rows, after the softmax and without a new normalisation. Weighing columns of the
attention is weighing rows of the values, ``(A · m) V = A (m ⊙ V)``, so the fused kernel stays and no array of tokens by tokens is made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from core_attention import attention
from explainability.vit.backbone import (
    add_attention,
    add_mlp,
    blocks_of,
    check_backbone,
    embed,
    grid_of,
    merge,
    project,
)

AVERAGED_BLOCKS = 3


class Located(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: (batch, classes).
        map: in (0, 1), how much each patch belongs to the object.
        gates: of the last three blocks, of all keys: CLS, patches, the spatial token.
        patches: patch tokens after the final norm.
    """

    logits: Float[Tensor, "b classes"]
    map: Float[Tensor, "b rows columns"]
    gates: Float[Tensor, "blocks b keys"]
    patches: Float[Tensor, "b patches c"]


class Losses(NamedTuple):
    """The parts of the loss.

    Attributes:
        total: their sum, each with weight 1.
        classification: cross-entropy.
        area: mean of each image's map.
        norm: of each image, the mean of M (1 − M) of its smoothed map.
    """

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    area: Float[Tensor, " b"]
    norm: Float[Tensor, " b"]


def smoothing_kernel() -> Float[Tensor, "1 1 3 3"]:
    """A 3×3 kernel like a Gaussian, of sum 1: corners, edges, centre from the normal distribution function.

    The outer product of the differences of Φ on four points over ±(6 + 13/6), normalised.
    """
    half = 6 + 13 / 6
    points = torch.linspace(-half, half, 4, dtype=torch.float64)
    differences = torch.special.ndtr(points).diff()
    root = torch.outer(differences, differences).sqrt()
    return (root / root.sum())[None, None].float()


def gate(q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b n"]:
    """``m = σ(mean over heads of q_loc kᵀ / √d)``: the gates that the last token's query gives to all keys."""
    scores = torch.einsum("bhd,bhnd->bhn", q[:, :, -1], k) * q.shape[-1] ** -0.5
    return scores.mean(1).sigmoid()


def gated_attention(q: Tensor, k: Tensor, v: Tensor, m: Float[Tensor, "b n"]) -> Float[Tensor, "b heads n d"]:
    """``(softmax(q kᵀ / √d) · m) v`` with m per key."""
    return attention(q, k, v * m[:, None, :, None])


class SAT(nn.Module):
    """A DeiT with a spatial token. ``model(image)`` → logits (batch, classes); `locate` gives the map too.

    Args:
        backbone: a plain vision transformer of timm with CLS alone before the patches; all of it is trained.
        classes: number of classes.
        spatial_blocks: blocks whose attention is gated; None: the last three. The map is the mean of the last three blocks' gates,
            whichever are gated.

    Raises:
        ValueError: the backbone has a part that is not known, or registers; or a block that is not there.
    """

    def __init__(self, backbone: nn.Module, classes: int, *, spatial_blocks: Sequence[int] | None = None):
        super().__init__()
        self.backbone = check_backbone(backbone)
        if self.backbone.num_prefix_tokens != 1:
            raise ValueError(f"needs a backbone with CLS alone, this one has {self.backbone.num_prefix_tokens} tokens")
        depth, width = len(blocks_of(self.backbone)), self.backbone.embed_dim
        if spatial_blocks is None:
            spatial_blocks = range(max(depth - AVERAGED_BLOCKS, 0), depth)
        unknown = [block for block in spatial_blocks if not 0 <= block < depth]
        if unknown:
            raise ValueError(f"spatial blocks {unknown}: this backbone has blocks 0 to {depth - 1}")
        self.spatial_blocks = frozenset(spatial_blocks)
        self.loc_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.loc_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.smoothing = nn.Parameter(smoothing_kernel(), requires_grad=False)
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def locate(self, image: Float[Tensor, "b 3 height width"]) -> Located:
        """Logits, map, gates and patch tokens."""
        x = embed(self.backbone, image)
        location = (self.loc_token + self.loc_embed).expand(x.shape[0], -1, -1)
        x = torch.cat([x, location], 1)
        gates = []
        first_averaged = len(blocks_of(self.backbone)) - AVERAGED_BLOCKS
        for number, block in enumerate(blocks_of(self.backbone)):
            q, k, v = project(block.attn, block.norm1(x))
            spatial = number in self.spatial_blocks
            if spatial or number >= first_averaged:
                m = gate(q, k)
                if number >= first_averaged:
                    gates.append(m)
            outputs = gated_attention(q, k, v, m) if spatial else attention(q, k, v)
            x = add_mlp(block, add_attention(block, x, merge(block.attn, outputs)))
        grid = grid_of(self.backbone, image)
        stacked = torch.stack(gates)
        patches = self.backbone.norm(x)[:, 1:-1]
        feature_map = patches.transpose(1, 2).unflatten(2, grid)
        logits = self.head(feature_map).mean((2, 3))
        located = stacked[:, :, 1:-1].mean(0).unflatten(1, grid)
        return Located(logits, located, stacked, patches)

    def forward(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b classes"]:
        """Logits of the classes."""
        return self.locate(image).logits

    def losses(self, located: Located, label: Int[Tensor, " b"], *, area: float = 0.25) -> Losses:
        """Cross-entropy + |mean area of the batch − λ| + mean of M_s (1 − M_s).

        The absolute value is taken once, of the batch's mean: single images may cover more and others less.

        Args:
            located: a forward pass.
            label: class of each image.
            area: λ, the share of an image that objects cover on average.
        """
        smoothed = F.conv2d(located.map[:, None], self.smoothing.to(located.map.dtype), padding=1)[:, 0]
        classification = F.cross_entropy(located.logits, label)
        areas = located.map.mean((1, 2))
        norms = (smoothed * (1 - smoothed)).mean((1, 2))
        total = classification + (areas.mean() - area).abs() + norms.mean()
        return Losses(total, classification, areas, norms)
