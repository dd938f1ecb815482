"""The parameters that score an instance, as the streamed routine and its Triton kernel take them."""

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """The weights of one call in the working dtype; None where a part is absent."""

    project: Tensor | None
    gate: Tensor | None
    gate_bias: Tensor | None
    score: Tensor
    score_bias: Tensor | None
