"""Low-rank updates (LoRA, Hu et al. 2021) of the language model: ``W + (α / r) B A`` with α = r; merged before the model is saved."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gui_grounding.model.pointer import PointerModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LowRank(nn.Module):
    """``W → W + B A``; B begins with 0, so that nothing changes at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(rank, columns, dtype=weight.dtype, device=weight.device) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(model: PointerModel, rank: int) -> int:
    """Gives every projection of the language model a low-rank update, and says how many got one."""
    count = 0
    for projection in _projections(model):
        parametrize.register_parametrization(projection, "weight", LowRank(projection.weight, rank))
        count += 1
    return count


def merge_low_rank(model: PointerModel) -> None:
    """Adds the updates to the weights and removes them; the model's answers stay."""
    for projection in _projections(model):
        if parametrize.is_parametrized(projection, "weight"):
            parametrize.remove_parametrizations(projection, "weight", leave_parametrized=True)


def _projections(model: PointerModel) -> list[Any]:
    layers = model.backbone.model.language_model.layers
    return [module for name, module in layers.named_modules() if name.rpartition(".")[2] in PROJECTIONS]
