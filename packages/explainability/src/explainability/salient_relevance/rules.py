"""Rules of layer-wise relevance propagation, each as one formula on one layer (Bach et al. 2015; Montavon et al. 2017).

Every rule has the same form: with a modified layer ``z = f'(x)``, relevance goes back as ``x ⊙ ∂/∂x Σ z ⊙ (R / z)``, the fraction held
constant. So a rule is the choice of f' (which weights, with a bias or not) and of what stabilises the denominator, and autograd does
convolutions of any stride, dilation and groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
Apply = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # input, weight, bias → output
EPSILON = 1e-9


@dataclass(frozen=True)
class Rule:
    """How relevance passes through a linear layer.

    Args:
        name: which formula: ``"z"``, ``"epsilon"``, ``"z+"``, ``"gamma"``, ``"alpha-beta"``, ``"flat"``, ``"w2"``, ``"zB"``.
        epsilon: stabiliser of the denominator, with its sign unless `plain_epsilon`.
        gamma: weight of the positive part (``"gamma"``).
        alpha: of ``"alpha-beta"``; beta is alpha − 1.
        low: smallest value that an input can have (``"zB"``).
        high: largest.
        bias: whether the denominator holds the bias (``"z"``, ``"epsilon"``, ``"gamma"``, ``"alpha-beta"``).
        plain_epsilon: add the stabiliser as it is, also to negative denominators, as published.
    """

    name: Literal["z", "epsilon", "z+", "gamma", "alpha-beta", "flat", "w2", "zB"]
    epsilon: float = EPSILON
    gamma: float = 0.25
    alpha: float = 2.0
    low: float = -3.0
    high: float = 3.0
    bias: bool = True
    plain_epsilon: bool = False

    def describe(self) -> str:
        """The rule with the numbers that it uses."""
        used = {
            "epsilon": f"epsilon {self.epsilon:g}",
            "gamma": f"gamma {self.gamma:g}",
            "alpha-beta": f"alpha {self.alpha:g}, beta {self.alpha - 1:g}",
            "zB": f"zB [{self.low:g}, {self.high:g}]",
        }
        return used.get(self.name, self.name)


def application(layer: Layer) -> Apply:
    """What a layer does, with its weights left open."""
    if isinstance(layer, nn.Linear):
        return F.linear
    if layer.padding_mode != "zeros":
        raise ValueError(f"relevance through padding_mode {layer.padding_mode!r} is not defined here; use zeros")
    convolution: Callable = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(layer)]

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolution(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return apply


def stabilised(z: Tensor, rule: Rule) -> Tensor:
    """``z + ε sign z``, where sign 0 is 1."""
    if rule.plain_epsilon:
        return z + rule.epsilon
    return z + torch.where(z < 0, -rule.epsilon, rule.epsilon)


def _share(x: Tensor, z: Tensor, relevance: Tensor, rule: Rule) -> Tensor:
    """``∂/∂x Σ z ⊙ (R / z)`` with the fraction held constant."""
    fraction = (relevance / stabilised(z.detach(), rule)).detach()
    return torch.autograd.grad(z, x, fraction)[0]


def propagate(layer: Layer, x: Tensor, relevance: Tensor, rule: Rule) -> Tensor:
    """Relevance of a layer's inputs from that of its outputs; the layer is not changed. See `propagate_linear`."""
    return propagate_linear(application(layer), x, layer.weight, layer.bias, relevance, rule)


@torch.enable_grad()
def propagate_linear(
    apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor, rule: Rule
) -> Tensor:
    """Relevance of the input of a linear operation.

    Args:
        apply: the operation, linear in its input and in its weight.
        x: its input.
        weight: its weight.
        bias: its bias.
        relevance: of its output, of that shape.
        rule: which rule.

    Raises:
        ValueError: no such rule.
    """
    x = x.detach().requires_grad_()
    weight = weight.detach()
    bias = None if bias is None or not rule.bias else bias.detach()
    if rule.name in ("z", "epsilon"):
        return x.detach() * _share(x, apply(x, weight, bias), relevance, rule)
    if rule.name == "z+":
        return x.detach() * _share(x, apply(x, weight.clamp(min=0), None), relevance, rule)
    if rule.name == "gamma":
        bias = None if bias is None else bias + rule.gamma * bias.clamp(min=0)
        z = apply(x, weight + rule.gamma * weight.clamp(min=0), bias)
        return x.detach() * _share(x, z, relevance, rule)
    if rule.name == "alpha-beta":
        return _alpha_beta(apply, x, weight, bias, relevance, rule)
    if rule.name == "flat":
        flat = torch.ones_like(x, requires_grad=True)
        return _share(flat, apply(flat, torch.ones_like(weight), None), relevance, rule)
    if rule.name == "w2":
        flat = torch.ones_like(x, requires_grad=True)
        return _share(flat, apply(flat, weight.square(), None), relevance, rule)
    if rule.name == "zB":
        return _box(apply, x, weight, relevance, rule)
    raise ValueError(f"no rule {rule.name!r}")


def _alpha_beta(apply: Apply, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor, rule: Rule) -> Tensor:
    """α of what speaks for the output, less β of what speaks against; contributions count, so inputs of both signs are split."""
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    total = torch.zeros_like(x)
    signs = [(rule.alpha, positive, negative, 1.0)]
    if rule.alpha != 1:
        signs.append((1 - rule.alpha, negative, positive, -1.0))
    for factor, of_positive, of_negative, sign in signs:
        above = x.detach().clamp(min=0).requires_grad_()
        below = x.detach().clamp(max=0).requires_grad_()
        kept_bias = None if bias is None else (bias.clamp(min=0) if sign > 0 else bias.clamp(max=0))
        z = apply(above, of_positive, kept_bias) + apply(below, of_negative, None)
        fraction = (relevance / stabilised(z.detach(), rule)).detach()
        # where nothing speaks this way there is nothing to share out
        fraction = torch.where(z.detach() == 0, torch.zeros_like(fraction), fraction)
        of_above, of_below = torch.autograd.grad(z, (above, below), fraction)
        total = total + factor * (above.detach() * of_above + below.detach() * of_below)
    return total.detach()


def _box(apply: Apply, x: Tensor, weight: Tensor, relevance: Tensor, rule: Rule) -> Tensor:
    """zᴮ for pixels in a box: ``z = W x − W⁺ low − W⁻ high``."""
    low = torch.full_like(x, rule.low, requires_grad=True)
    high = torch.full_like(x, rule.high, requires_grad=True)
    z = apply(x, weight, None)
    z = z - apply(low, weight.clamp(min=0), None) - apply(high, weight.clamp(max=0), None)
    fraction = (relevance / stabilised(z.detach(), rule)).detach()
    parts = torch.autograd.grad(z, (x, low, high), fraction)
    # the gradients with respect to low and high carry the minus signs of z
    return sum(value.detach() * part for value, part in zip((x, low, high), parts, strict=True))  # pyright: ignore[reportReturnType]


@torch.enable_grad()
def propagate_max_pool(pool: nn.MaxPool2d, x: Tensor, relevance: Tensor, *, overwrite: bool = False) -> Tensor:
    """Winner takes all. Windows that overlap and share a winner add up; `overwrite` lets the last one win, as published.

    ``R ← x ⊙ (R / (y + 1e-9))`` at the winners.
    """
    x = x.detach()
    outputs, winners = F.max_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
    )
    fraction = relevance / (outputs + EPSILON)
    flat = torch.zeros_like(x).flatten(2)
    if overwrite:
        for batch, channel in torch.cartesian_prod(*(torch.arange(size) for size in x.shape[:2])).tolist():
            # in row-major order of the windows, so that the last one stays
            for index, value in zip(winners[batch, channel].flatten(), fraction[batch, channel].flatten(), strict=True):
                flat[batch, channel, index] = value
    else:
        flat = flat.scatter_add(2, winners.flatten(2), fraction.flatten(2))
    return x * flat.view_as(x)
