"""The largest of some scores, with one rule for ties."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Largest(NamedTuple):
    """Scores and their places, best first."""

    values: Float[Tensor, "*lead count"]
    index: Int[Tensor, "*lead count"]


def largest(scores: Float[Tensor, "*lead candidates"], count: int) -> Largest:
    """The `count` largest along the last axis (all, if there are fewer), best first; of equal ones the first.

    An exported graph has a top-k instead of a stable sort, which ONNX does not know; ONNX breaks ties in the same way.
    """
    if torch.compiler.is_exporting():
        values, index = scores.topk(min(count, scores.shape[-1]), dim=-1)
        return Largest(values, index)
    values, index = scores.sort(dim=-1, descending=True, stable=True)
    return Largest(values[..., :count], index[..., :count])
