"""Which heads matter: each head's output is set to 0 and the change of the answer measured (after Li et al., PacificVis 2023).

There is no public code; the operational definitions are ours and stand in the method's page. A pruned head gives 0 before the output
projection, whose bias stays. The tokens that enter a layer are computed once, so pruning a head of layer l costs the layers from l on; and
within layer l nothing of the attention is computed again: the pruned sum is the whole sum less the head's part.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from core_attention import attention
from explainability.vit.backbone import (
    add_attention,
    add_mlp,
    blocks_of,
    check_backbone,
    embed,
    merge,
    project,
    project_keys_values,
    project_queries,
)


@dataclass(frozen=True)
class Importance:
    """What every head's absence changes, per image; see the method's page for each measure.

    Attributes:
        prob_drop: p_y − p'_y; positive: the head helps.
        loss_increase: ln p_y − ln p'_y.
        jsd: Jensen-Shannon divergence of the class probabilities, in bits, 0 to 1.
        cls_shift: 1 − cosine of the class embeddings.
        cls_distance: Euclidean distance of the class embeddings.
        flip: 1 where the predicted class changes, else 0.
        logits: with all heads, (images, classes).
        cls_embedding: with all heads, after the final norm, (images, width).
    """

    prob_drop: Float[Tensor, "images layers heads"]
    loss_increase: Float[Tensor, "images layers heads"]
    jsd: Float[Tensor, "images layers heads"]
    cls_shift: Float[Tensor, "images layers heads"]
    cls_distance: Float[Tensor, "images layers heads"]
    flip: Float[Tensor, "images layers heads"]
    logits: Float[Tensor, "images classes"]
    cls_embedding: Float[Tensor, "images width"]


MEASURES = ("prob_drop", "loss_increase", "jsd", "cls_shift", "cls_distance", "flip")


def jsd(log_p: Float[Tensor, "... classes"], log_q: Float[Tensor, "... classes"]) -> Float[Tensor, "..."]:
    """Jensen-Shannon divergence in bits from logarithms of probabilities: 0 to 1, symmetric, 0 where they are equal."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return (parts.sum(-1) / 2 / math.log(2)).clamp(0, 1)


def classify(model: VisionTransformer, x: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor]:
    """Logits and class embedding from the tokens that leave the last block."""
    tokens = model.norm(x)
    return model.forward_head(tokens), tokens[:, 0]


def _part_of(block: Block, outputs: Float[Tensor, "b heads n width"], heads: slice) -> Float[Tensor, "b some n c"]:
    """The part of some heads in what attention adds."""
    attn: Any = block.attn
    weight = attn.proj.weight.unflatten(1, (attn.num_heads, -1))[:, heads]  # (c, heads, width)
    return torch.einsum("bhnd,chd->bhnc", outputs[:, heads], weight)


def _pools_first_token(model: VisionTransformer) -> bool:
    """Whether the head reads the class token alone, so that no other row of the last block is needed."""
    return model.global_pool == "token"


@torch.no_grad()
def head_importance(
    model: VisionTransformer,
    image: Float[Tensor, "b 3 height width"],
    label: Int[Tensor, " b"] | None = None,
    *,
    heads_at_once: int | None = None,
) -> Importance:
    """The exact measures for every head of every layer.

    Args:
        model: a plain vision transformer of timm, in evaluation mode.
        image: normalised images.
        label: true classes; None: the predicted ones.
        heads_at_once: heads of a layer that are pruned in one batch; None: all.

    Raises:
        ValueError: a part of the model is not known, it norms the heads' outputs together (a head then has no part of its own), or it is
            in training mode.
    """
    check_backbone(model)
    if model.training:
        raise ValueError("importance is measured in evaluation mode: call model.eval() first")
    if not isinstance(blocks_of(model)[0].attn.norm, torch.nn.Identity):
        raise ValueError("this model norms its heads' outputs together, so a head has no part of its own")
    entering, outputs, sums, x = [], [], [], embed(model, image)
    for block in blocks_of(model):
        entering.append(x)
        outputs.append(attention(*project(block.attn, block.norm1(x))))
        sums.append(merge(block.attn, outputs[-1]))
        x = add_mlp(block, add_attention(block, x, sums[-1]))
    logits, cls = classify(model, x)
    log_p = logits.log_softmax(-1)
    if label is None:
        label = logits.argmax(-1)
    columns: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    last = len(blocks_of(model)) - 1
    for layer, block in enumerate(blocks_of(model)):
        rows = slice(0, 1) if layer == last and _pools_first_token(model) else slice(None)
        heads = outputs[layer].shape[1]
        step = heads_at_once or heads
        for first in range(0, heads, step):
            part = _part_of(block, outputs[layer][:, :, rows], slice(first, first + step))
            count = part.shape[1]
            pruned = sums[layer][:, None, rows] - part
            y = add_attention(block, entering[layer][:, None, rows], pruned).flatten(0, 1)
            y = add_mlp(block, y)
            for later in range(layer + 1, last + 1):
                y = _leave(model, later, y)
            new_logits, new_cls = classify(model, y)
            new_logits, new_cls = new_logits.unflatten(0, (-1, count)), new_cls.unflatten(0, (-1, count))
            _measure(columns, log_p, new_logits.log_softmax(-1), cls, new_cls, label)
    shape = (len(blocks_of(model)), -1)
    measured = {name: torch.cat(values, 1).unflatten(1, shape) for name, values in columns.items()}
    return Importance(**measured, logits=logits, cls_embedding=cls)


def _leave(model: VisionTransformer, layer: int, x: Tensor) -> Tensor:
    """The tokens that leave a block; of the last one only the class token where the head reads no other."""
    block = blocks_of(model)[layer]
    if layer < len(blocks_of(model)) - 1 or not _pools_first_token(model):
        return block(x)
    normed = block.norm1(x)
    k, v = project_keys_values(block.attn, normed)
    q = project_queries(block.attn, normed[:, :1])
    return add_mlp(block, add_attention(block, x[:, :1], merge(block.attn, attention(q, k, v))))


def _measure(columns: dict[str, list[Tensor]], log_p: Tensor, log_q: Tensor, z: Tensor, new_z: Tensor, label: Tensor):
    """Adds the measures of some heads, each (images, heads)."""
    of_label = log_p.gather(1, label[:, None])
    new_of_label = log_q.gather(2, label[:, None, None].expand(-1, log_q.shape[1], 1))[..., 0]
    columns["prob_drop"].append(of_label.exp() - new_of_label.exp())
    columns["loss_increase"].append(of_label - new_of_label)
    columns["jsd"].append(jsd(log_p[:, None].expand_as(log_q), log_q))
    columns["cls_shift"].append(1 - F.cosine_similarity(z[:, None], new_z, dim=-1))
    columns["cls_distance"].append((z[:, None] - new_z).norm(dim=-1))
    columns["flip"].append((log_q.argmax(-1) != log_p.argmax(-1)[:, None]).to(log_p.dtype))


def gradient_proxy(
    model: VisionTransformer, image: Float[Tensor, "b 3 height width"], label: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "images layers heads"]:
    """``|∂ loss / ∂ gate|`` of every head at gates of 1, from one backward pass: a preview of the exact measures.

    Args:
        model: as for `head_importance`.
        image: normalised images.
        label: true classes; None: the predicted ones.
    """
    check_backbone(model)
    with torch.enable_grad():
        x = embed(model, image)
        gates = []
        for block in blocks_of(model):
            outputs = attention(*project(block.attn, block.norm1(x)))
            ones = outputs.new_ones(*outputs.shape[:2], 1, 1).requires_grad_()
            gates.append(ones)
            x = add_mlp(block, add_attention(block, x, merge(block.attn, outputs * ones)))
        logits, _ = classify(model, x)
        if label is None:
            label = logits.argmax(-1)
        loss = F.cross_entropy(logits, label, reduction="sum")
        gradients = torch.autograd.grad(loss, gates)
    return torch.stack([gradient[:, :, 0, 0].abs() for gradient in gradients], 1)


@torch.no_grad()
def gated_logits(
    model: VisionTransformer, image: Float[Tensor, "b 3 height width"], gates: Float[Tensor, "layers heads"]
) -> Float[Tensor, "b classes"]:
    """Logits with each head's output times its gate: the definition of pruning, one whole forward pass.

    Raises:
        ValueError: not one gate per head.
    """
    check_backbone(model)
    expected = (len(blocks_of(model)), blocks_of(model)[0].attn.num_heads)
    if tuple(gates.shape) != expected:
        raise ValueError(f"needs gates {expected}, got {tuple(gates.shape)}")
    x = embed(model, image)
    for block, of_layer in zip(blocks_of(model), gates, strict=True):
        outputs = attention(*project(block.attn, block.norm1(x)))
        x = add_mlp(block, add_attention(block, x, merge(block.attn, outputs * of_layer[:, None, None])))
    return classify(model, x)[0]


def cumulative_pruning(
    model: VisionTransformer,
    image: Float[Tensor, "b 3 height width"],
    label: Int[Tensor, " b"],
    importance: Float[Tensor, "layers heads"],
    *,
    most_important_first: bool = False,
) -> Float[Tensor, " steps"]:
    """Accuracy after 0, 1, … all heads are pruned, in the order of their importance. A valid ranking beats a random one.

    Args:
        model: as for `head_importance`.
        image: normalised images.
        label: true classes.
        importance: of each head, larger is more.
        most_important_first: the order.
    """
    order = importance.flatten().argsort(descending=most_important_first, stable=True)
    gates = torch.ones_like(importance)
    accuracies = [(gated_logits(model, image, gates).argmax(-1) == label).double().mean()]
    for head in order.tolist():
        gates.view(-1)[head] = 0
        accuracies.append((gated_logits(model, image, gates).argmax(-1) == label).double().mean())
    return torch.stack(accuracies)
