"""DoRA adapters of a fused query-key-value projection, on queries and values, as MapSAM uses them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def dora_weight(
    weight: Float[Tensor, "out width"],
    magnitude: Float[Tensor, "1 width"],
    a: Float[Tensor, "out rank"],
    b: Float[Tensor, "rank width"],
) -> Float[Tensor, "out width"]:
    """``m · V / ‖V‖`` with ``V = W + A B``; the norm is over the outputs (dim 0), so `magnitude` has one entry per input feature.

    Gradients flow through the norm. (PEFT's DoRA normalises over the other axis: its adapters do not fit.)
    """
    v = weight + a @ b
    return magnitude * (v / v.norm(dim=0, keepdim=True))


class DoRAQKV(nn.Module):
    """A frozen fused projection (3 D × D) with adapters on its query and value parts; the key part is unchanged.

    Starts as the projection itself: magnitudes are the column norms, A is N(0, 1) / √rank, B is 0.

    Args:
        linear: the projection; its weight and bias are used, not copied.
        rank: of the adapters.
    """

    def __init__(self, linear: nn.Linear, *, rank: int):
        super().__init__()
        width = linear.in_features
        if linear.out_features != 3 * width:
            raise ValueError(
                f"DoRAQKV needs a fused projection of {3 * width} × {width}, got {linear.out_features} × {width}"
            )
        self.weight, self.bias = linear.weight, linear.bias
        with torch.no_grad():
            norm_q, norm_v = (linear.weight[i : i + width].norm(dim=0, keepdim=True) for i in (0, 2 * width))
        self.m_q, self.m_v = nn.Parameter(norm_q.clone()), nn.Parameter(norm_v.clone())
        self.lora_A_q = nn.Parameter(torch.randn(width, rank) / math.sqrt(rank))
        self.lora_A_v = nn.Parameter(torch.randn(width, rank) / math.sqrt(rank))
        # zeros: the adapter changes nothing until it is trained
        self.lora_B_q = nn.Parameter(torch.zeros(rank, width))
        self.lora_B_v = nn.Parameter(torch.zeros(rank, width))

    def merged_weight(self) -> Float[Tensor, "three_width width"]:
        """The weight of the equivalent plain projection."""
        q, k, v = self.weight.chunk(3)
        return torch.cat(
            [
                dora_weight(q, self.m_q, self.lora_A_q, self.lora_B_q),
                k,
                dora_weight(v, self.m_v, self.lora_A_v, self.lora_B_v),
            ]
        )

    def reset_magnitudes(self) -> None:
        """Sets the magnitudes to the norms of the current weight (after a SAM checkpoint was loaded)."""
        q, _, v = self.weight.detach().chunk(3)
        with torch.no_grad():
            self.m_q.copy_(q.norm(dim=0, keepdim=True))
            self.m_v.copy_(v.norm(dim=0, keepdim=True))

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... three_width"]:
        return F.linear(x, self.merged_weight(), self.bias)

    def merged(self) -> nn.Linear:
        """The equivalent plain projection, for inference."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None)
        linear = linear.to(self.weight.device, self.weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(self.merged_weight())
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear
