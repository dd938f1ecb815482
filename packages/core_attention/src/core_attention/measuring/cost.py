"""Parameters and multiply-accumulates of a network, as papers report them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from core_attention.factorised import tiles as factorised_tiles


def _attention_on_cpu(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


# torch counts its fused attention on CUDA and leaves out the one on the CPU, and cannot look into an operator of ours
_UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
    torch.ops.core_attention.factorised: factorised_tiles.flops,
}


class _Counter(TorchDispatchMode):
    """Sums what torch's flop counter knows of each operator that runs.

    It is that counter without its tree of modules, and without loading torch's compiler, which takes as long as torch itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known = flop_registry | {op: shape_wrapper(count) for op, count in _UNCOUNTED.items()}
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        out = func(*args, **options)
        count = self.known.get(func.overloadpacket)
        if count is not None:
            self.flops += count(*args, **options, out_val=out)
        return out


@dataclass(frozen=True)
class Cost:
    """What a network weighs and what one forward takes.

    Args:
        parameters: elements of all parameters, shared ones once.
        macs: multiply-accumulates of convolutions and products of matrices; papers print them as "FLOPs". Elementwise products,
            means and norms are not counted, here as there.
    """

    parameters: int
    macs: int


def profile(model: nn.Module, *inputs: Any, **options: Any) -> Cost:
    """Counts the parameters of `model` and the multiply-accumulates of ``model(*inputs)``, in evaluation mode.

    Args:
        model: any module; its mode is restored.
        inputs: what it is called with; a batch of 1 gives the figure of papers.
        options: keyword arguments of the call.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _Counter() as counter:
            model(*inputs, **options)
    finally:
        for module, mode in training.items():
            module.training = mode
    return Cost(sum(p.numel() for p in model.parameters()), counter.flops // 2)
