"""The generative objective: which of several embeddings is the next segment's?

The prediction o at (b, t, c) is compared with the encoder's output e at (b, t + 1, c), the positive, and with M negatives drawn from the
batch: cross-entropy over cos(o, e) / τ. Gradient flows through predictions and positives, not through negatives.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 2**22  # numbers of gathered negatives at once: 16 MiB of float32

Law = Literal["uniform", "official"]


def sample_negatives(
    batch: int,
    time: int,
    channels: int,
    count: int,
    *,
    law: Law = "uniform",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Int[Tensor, "batch time channels count"]:
    """Indices of negatives into the batch · time · channels embeddings, never the query's own position.

    Args:
        count: M.
        law: "uniform" over all other positions; "official", as published: uniform on [0, (batch − 1) · channels · time) and one more from
            the own index on, so that negatives hardly ever come from the last of the batch.

    Raises:
        ValueError: no other position to draw from (the official law needs two in a batch).
    """
    total = batch * time * channels
    high = total - 1
    if law == "official":
        high = (batch - 1) * channels * time
    if high < 1:
        raise ValueError(f"no negatives to draw from batch {batch} × time {time} × channels {channels} ({law} law)")
    shape = (batch, time, channels, count)
    draws = torch.randint(high, shape, generator=generator, device=device)
    own = torch.arange(total, device=device).view(batch, time, channels, 1)
    return draws + (draws >= own)  # steps over the own index


def contrastive_logits(
    predicted: Float[Tensor, "batch time channels width"],
    encoded: Float[Tensor, "batch time channels width"],
    negatives: Int[Tensor, "batch time channels count"],
    *,
    temperature: float = 0.1,
) -> Float[Tensor, "queries candidates"]:
    """Logits over 1 + M candidates, the positive first, of every segment but the last, in (batch, time, channel) order.

    Args:
        predicted: o; the last segment's has no next segment and is left out.
        encoded: e; the first segment's is not the next of any and is left out.
        negatives: indices into the flattened `encoded`; those of (b, t + 1, c) belong to the prediction at (b, t, c), whose positive
            is at (b, t + 1, c).
        temperature: τ.

    Negatives that equal the positive get −∞. The gathered negatives are never stored as a whole: they are gathered again for the gradient.

    Raises:
        ValueError: different shapes, or a single segment.
    """
    if predicted.shape != encoded.shape or negatives.shape[:3] != encoded.shape[:3]:
        raise ValueError(
            "predicted, encoded and negatives must fit together; got "
            f"{tuple(predicted.shape)}, {tuple(encoded.shape)} and {tuple(negatives.shape)}"
        )
    if predicted.shape[1] < 2:
        raise ValueError(f"a single segment has no next one: got predictions {tuple(predicted.shape)}")
    queries = F.normalize(predicted[:, :-1].flatten(0, 2), dim=-1)
    positives, indices = encoded[:, 1:].flatten(0, 2), negatives[:, 1:].flatten(0, 2)
    pool = encoded.detach().flatten(0, 2)  # no gradient through negatives
    directions = F.normalize(pool, dim=-1)

    def logits_of_negatives(query: Tensor, positive: Tensor, index: Tensor) -> Tensor:
        logits = torch.einsum("qw,qmw->qm", query, directions[index]) / temperature
        with torch.no_grad():
            # within rounding: a constant signal gives the same embedding everywhere, and cannot be told from itself
            distance = (pool[index] - positive[:, None]).norm(dim=-1)
            same = distance < 1e-8 + 1e-5 * positive.norm(dim=-1, keepdim=True)
        return logits.masked_fill(same, -torch.inf)

    # As many queries at once as fit into CHUNK numbers; checkpoint computes each part again in the backward pass.
    step = max(1, CHUNK // (indices.shape[-1] * pool.shape[-1]))
    chunks = zip(queries.split(step), positives.detach().split(step), indices.split(step), strict=True)
    negative_logits: list[Tensor] = []
    for chunk in chunks:
        logits = checkpoint(logits_of_negatives, *chunk, use_reentrant=False)
        negative_logits.append(logits)  # pyright: ignore[reportArgumentType]
    positive_logits = (queries * F.normalize(positives, dim=-1)).sum(-1, keepdim=True) / temperature
    return torch.cat([positive_logits, torch.cat(negative_logits)], -1)


def contrastive_loss(logits: Float[Tensor, "queries candidates"]) -> Float[Tensor, ""]:
    """Mean cross-entropy with the positive as class 0."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
