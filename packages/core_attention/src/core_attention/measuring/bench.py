"""What one layer costs: multiply-accumulates, memory, and time against its definition and softmax attention.

Everything is measured on the example that a mechanism declares in its `System`, in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.measuring.clock import paired, peak_memory, ratio, size
from core_attention.measuring.cost import profile
from core_attention.measuring.example import Example
from core_attention.parts.placing import Device, placed
from core_attention.registry import catalogue


class SoftmaxAttention(nn.Module):
    """The peer of every mechanism: projections to q, k, v, torch's fused softmax attention, one projection out."""

    @placed
    def __init__(self, dim: int, num_heads: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) → the same."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def example(name: str, tokens: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Example:
    """The example of a mechanism, in evaluation mode, made under seed 0.

    Raises:
        ValueError: `tokens` is not positive, or no system declares an example of this name.
    """
    if tokens <= 0:
        raise ValueError(f"expected a positive number of tokens, got {tokens}")
    entry = catalogue.find("examples", name)
    if entry is None:
        known = list(catalogue.declared("examples"))
        raise ValueError(f"unknown mechanism {name!r}{catalogue.nearest(name, known)}: one of {', '.join(known)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = entry.load()(tokens)
    inputs = tuple(_placed(item, device, dtype) for item in built.inputs)
    return Example(built.module.eval().to(device, dtype), inputs, built.tokens, built.reference, built.softmax)


def memory(name: str, tokens: int, *, which: str = "module", threads: int = 1) -> int:
    """Bytes that one forward takes on the CPU at its peak beyond inputs and weights, in a fresh process."""
    setup = (
        f"from core_attention.measuring.bench import example, contestants\n"
        f"contestants(example({name!r}, 16))[{which!r}]()\n"  # a first call loads libraries
        f"run = contestants(example({name!r}, {tokens}))[{which!r}]"
    )
    return peak_memory(setup, "run()", threads=threads)


def contestants(made: Example, *, backward: bool = False) -> dict[str, Callable[[], Any]]:
    """What is timed: the module, its reference, and softmax attention of the same width and heads, as far as declared."""
    runs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {"module": (made.module, made.inputs)}
    if made.reference is not None:
        runs["reference"] = (made.reference, made.inputs)
    if made.softmax is not None:
        width, heads = made.softmax
        like = next(item for item in made.inputs if isinstance(item, Tensor) and item.is_floating_point())
        peer = SoftmaxAttention(width, heads).eval().to(like.device, like.dtype)
        runs["softmax"] = (peer, (torch.randn(1, made.tokens, width).to(like),))
    return {name: _call(function, inputs, backward) for name, (function, inputs) in runs.items()}


def bench(
    name: str,
    tokens: Sequence[int],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    backward: bool = False,
    rounds: int = 7,
    with_memory: bool = False,
) -> list[dict[str, Any]]:
    """Times a mechanism against its reference and softmax attention at each number of tokens.

    The module must agree with its reference before either is timed.

    Returns:
        one row per number of tokens, ready for a table.

    Raises:
        RuntimeError: the module and its reference disagree.
    """
    rows = []
    for count in tokens:
        built = example(name, count, device=device, dtype=dtype)
        difference = _difference(built)
        runs = contestants(built, backward=backward)
        times = paired(runs, rounds=rounds)
        row: dict[str, Any] = {"tokens": built.tokens, "ms": f"{1000 * times['module'].median:.3g}"}
        for peer in ("reference", "softmax"):
            if peer in times:
                row[f"time / {peer}"] = ratio(times["module"], times[peer])
        if difference is not None:
            row["difference"] = f"{difference:.1e}"
        row["MACs"] = f"{profile(built.module, *built.inputs).macs:.3g}"
        if with_memory:
            row["memory"] = size(memory(name, count))
            row |= {f"memory of {peer}": size(memory(name, count, which=peer)) for peer in runs if peer != "module"}
        rows.append(row)
    return rows


def _difference(made: Example) -> float | None:
    """Largest difference from the reference relative to its largest value."""
    if made.reference is None:
        return None
    with torch.no_grad():
        ours, theirs = _first_tensor(made.module(*made.inputs)), _first_tensor(made.reference(*made.inputs))
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    allowed = {torch.float64: 1e-10, torch.float32: 1e-3}.get(ours.dtype, 5e-2)
    if not difference <= allowed:
        raise RuntimeError(f"the module differs from its reference by {difference:.2g} of its largest value")
    return difference


def _call(function: Callable[..., Any], inputs: tuple[Any, ...], backward: bool) -> Callable[[], Any]:
    leaves = [item for item in inputs if isinstance(item, Tensor) and item.is_floating_point()]
    if backward:
        leaves += list(function.parameters()) if isinstance(function, nn.Module) else []

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)
        _wait(leaves)

    def both() -> None:
        for leaf in leaves:
            leaf.requires_grad_()
        output = _first_tensor(function(*inputs))
        torch.autograd.grad(output.sum(), leaves, allow_unused=True)
        _wait(leaves)

    return both if backward else forward


def _wait(tensors: list[Tensor]) -> None:
    if tensors and tensors[0].is_cuda:
        torch.cuda.synchronize(tensors[0].device)


def _first_tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def _placed(item: Any, device: str, dtype: torch.dtype) -> Any:
    if not isinstance(item, Tensor):
        return item
    return item.to(device, dtype) if item.is_floating_point() else item.to(device)
