"""Stochastic depth (Huang et al. 2016): in training a sample skips a residual branch."""

from jaxtyping import Float
from torch import Tensor


def stochastic_depth(
    branch: Float[Tensor, " batch *rest"], rate: float, training: bool
) -> Float[Tensor, " batch *rest"]:
    """Leaves out a sample's branch with probability `rate` and scales the others up by 1 / (1 − rate); nothing outside training."""
    if not training or rate == 0:
        return branch
    # one number per sample, whatever the rank of the branch
    keep = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(1 - rate)
    return branch * keep / (1 - rate)
