"""What torch asks of a module, tried on every mechanism of the registry at a tiny size: `CHECKS` by name.

Dynamo cannot trace through the import hook of the shape checks, so `test_conformance` keeps one process of this script, which reads ``mechanism check``
a line and answers a line of JSON: null where the check holds, or what went wrong. ``python tests/conforming.py --write`` writes the matrix into
``docs/conformance.md``.
"""

import copy
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from core_attention import systems
from core_attention.measuring.example import Example
from core_attention.registry.catalogue import declared
from core_attention.systems import System

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
# beyond the block of 64 that many mechanisms have, and squares, because some inputs are maps
TOKENS, OTHER_TOKENS, LENGTHS = 100, 144, (100, 121, 144, 169)
PLAIN_GRAPHS = 2  # what F.scaled_dot_product_attention makes of many lengths: one static graph, one dynamic


class Failure(Exception):
    """A check that does not hold."""


class Prepared:
    """An example whose module is built for `TOKENS`; other lengths get their inputs alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        torch.manual_seed(0)
        self.example = make(name, TOKENS)
        self.module, self.inputs = self.example.module, self.example.inputs

    def inputs_of(self, tokens: int) -> tuple[Any, ...]:
        torch.manual_seed(tokens)
        return make(self.name, tokens).inputs


def make(name: str, tokens: int) -> Example:
    return declared("examples")[name].load()(tokens)


def outputs_of(value: Any) -> list[Tensor]:
    """The floating tensors of whatever a module returns."""
    leaves = pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def result(function: Callable[..., Any], module: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Outputs, and the gradients of a fixed weighting of them, by name."""
    torch.manual_seed(0)
    module.zero_grad(set_to_none=True)
    given = [x.detach().clone().requires_grad_() if is_float(x) else x for x in inputs]
    outputs = outputs_of(function(*given))
    found = {f"output {i}": x.detach().clone() for i, x in enumerate(outputs)}
    total = sum((x.double() * ramp(x)).sum() for x in outputs if x.requires_grad)
    if isinstance(total, Tensor):
        total.backward()
    found |= {f"gradient of input {i}": x.grad for i, x in enumerate(given) if is_float(x) and x.grad is not None}
    found |= {f"gradient of {n}": p.grad for n, p in module.named_parameters() if p.grad is not None}
    return found


def ramp(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(x.shape)


def is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def same(ours: dict[str, Tensor], expected: dict[str, Tensor], *, relative: float = 1e-4) -> None:
    if ours.keys() != expected.keys():
        raise Failure(f"has {sorted(ours.keys() ^ expected.keys())} on one side only")
    for name, value in expected.items():
        if ours[name].shape != value.shape:
            raise Failure(f"{name} has shape {tuple(ours[name].shape)}, expected {tuple(value.shape)}")
        scale = float(value.abs().max()) if value.numel() else 0.0
        if not torch.allclose(ours[name].float(), value.float(), rtol=relative, atol=relative * max(scale, 1e-3)):
            raise Failure(f"{name} differs by {float((ours[name] - value).abs().max()):.3g} of {scale:.3g}")


def finite(found: dict[str, Tensor]) -> None:
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            raise Failure(f"{name} is not finite")


def eager(case: Prepared) -> None:
    finite(result(case.module, case.module, case.inputs))


def compiled(case: Prepared) -> None:
    expected = result(case.module, case.module, case.inputs)
    function = torch.compile(case.module, backend="aot_eager", fullgraph=True)
    same(result(function, case.module, case.inputs), expected)


def dynamic_length(case: Prepared) -> None:
    """Several lengths make no more graphs than torch's own attention does."""
    graphs = 0

    def counting(graph, inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    function = torch.compile(case.module, backend=counting, fullgraph=True)
    for tokens in LENGTHS:
        inputs = case.inputs_of(tokens)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = pytree.tree_leaves(case.module(*inputs))
            torch.manual_seed(0)
            ours = pytree.tree_leaves(function(*inputs))
        same(dict(enumerate_tensors(ours)), dict(enumerate_tensors(expected)))
    if graphs > PLAIN_GRAPHS:
        raise Failure(f"{len(LENGTHS)} lengths make {graphs} graphs, torch's attention {PLAIN_GRAPHS}")


def enumerate_tensors(values: list[Any]) -> Iterator[tuple[str, Tensor]]:
    return ((f"output {i}", x) for i, x in enumerate(values) if is_float(x))


def exported(case: Prepared) -> None:
    """With every axis dynamic that changes with the number of tokens, and run at another number."""
    other = case.inputs_of(OTHER_TOKENS)

    def axes(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return {i: torch.export.Dim.AUTO for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n}
        if isinstance(a, int) and not isinstance(a, bool) and a != b:
            return torch.export.Dim.AUTO
        if isinstance(a, tuple):
            return tuple(axes(m, n) for m, n in zip(a, b, strict=True))
        return None

    module = case.module.eval()
    dynamic = tuple(axes(a, b) for a, b in zip(case.inputs, other, strict=True))
    program = torch.export.export(module, case.inputs, dynamic_shapes=dynamic, strict=False)
    for inputs in (case.inputs, other):
        with torch.no_grad():
            expected, ours = module(*inputs), program.module()(*inputs)
        same(dict(enumerate_tensors(pytree.tree_leaves(ours))), dict(enumerate_tensors(pytree.tree_leaves(expected))))


def vmapped(case: Prepared) -> None:
    """Outputs, and gradients by `torch.func.grad`, as one sample after another."""
    module = case.module.eval()
    stacked = [torch.stack([x, x.flip(0) * 0.9, x * 1.1]) if is_float(x) else x for x in case.inputs]
    over = tuple(0 if is_float(x) else None for x in stacked)
    of = tuple(i for i, x in enumerate(stacked) if is_float(x))

    def total(*inputs: Any) -> Tensor:
        return sum((x * ramp(x).to(x.dtype)).sum() for x in outputs_of(module(*inputs)))

    with torch.no_grad():
        together = outputs_of(torch.func.vmap(module, in_dims=over)(*stacked))
    gradients = torch.func.vmap(torch.func.grad(total, argnums=of), in_dims=over)(*stacked)
    for i in range(3):
        sample = [x[i] if is_float(x) else x for x in stacked]
        with torch.no_grad():
            alone = outputs_of(module(*sample))
        same(dict(enumerate_tensors([x[i] for x in together])), dict(enumerate_tensors(alone)))
        leaves = [x.requires_grad_() if is_float(x) else x for x in sample]
        expected = torch.autograd.grad(total(*leaves), [leaves[j] for j in of], allow_unused=True)
        expected = [torch.zeros_like(leaves[j]) if x is None else x for j, x in zip(of, expected, strict=True)]
        same(dict(enumerate_tensors([x[i] for x in gradients])), dict(enumerate_tensors(expected)))


def fake(case: Prepared) -> None:
    expected = [tuple(x.shape) for x in outputs_of(case.module(*case.inputs))]
    mode = FakeTensorMode()
    inputs = [mode.from_tensor(x) if isinstance(x, Tensor) else x for x in case.inputs]
    state = {**dict(case.module.named_parameters()), **dict(case.module.named_buffers())}
    state = {name: mode.from_tensor(x) for name, x in state.items()}
    with mode:
        found = outputs_of(torch.func.functional_call(case.module, state, tuple(inputs)))
    if [tuple(x.shape) for x in found] != expected:
        raise Failure(f"shapes {[tuple(x.shape) for x in found]}, expected {expected}")


def autocast(case: Prepared) -> None:
    """Under bf16 forward and backward, finite, and near float32."""
    expected = result(case.module, case.module, case.inputs)

    def under(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return case.module(*inputs)

    found = result(under, case.module, case.inputs)
    finite(found)
    for name in (n for n in expected if n.startswith("output")):
        error = float((found[name].float() - expected[name]).norm()) / max(float(expected[name].norm()), 1e-6)
        if error > 0.1:
            raise Failure(f"{name} is {error:.0%} away from float32")


def step(case: Prepared) -> None:
    case.module.train()
    parameters = [p for p in case.module.parameters() if p.requires_grad]
    outputs = [x for x in outputs_of(case.module(*case.inputs)) if x.requires_grad]
    if parameters and outputs:
        sum(x.float().square().mean() for x in outputs).backward()
        torch.optim.SGD(parameters, lr=1e-3).step()


def deepcopied(case: Prepared) -> None:
    """After a training step."""
    step(case)
    twin = copy.deepcopy(case.module)
    with torch.no_grad():
        ours, expected = (pytree.tree_leaves(m.eval()(*case.inputs)) for m in (twin, case.module))
    same(dict(enumerate_tensors(ours)), dict(enumerate_tensors(expected)), relative=1e-6)


def safetensors(case: Prepared) -> None:
    step(case)
    twin = make(case.name, TOKENS).module
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(case.module, str(path))
        load_model(twin, path)
    with torch.no_grad():
        ours, expected = (pytree.tree_leaves(m.eval()(*case.inputs)) for m in (twin, case.module))
    same(dict(enumerate_tensors(ours)), dict(enumerate_tensors(expected)), relative=1e-6)


def checkpointed(case: Prepared) -> None:
    expected = result(case.module, case.module, case.inputs)
    same(result(lambda *x: checkpoint(case.module, *x, use_reentrant=False), case.module, case.inputs), expected)


def fsdp(case: Prepared) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    expected = result(case.module, case.module, case.inputs)
    case.module.zero_grad(set_to_none=True)
    fully_shard(case.module, mesh=init_device_mesh("cpu", (1,)))
    ours = result(case.module, case.module, case.inputs)
    ours = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in ours.items()}
    same(ours, expected)


def empty_batch(case: Prepared) -> None:
    """No sample gives no sample, no loss, and gradients of 0."""
    whole = [x for x in pytree.tree_leaves(case.module(*case.inputs)) if isinstance(x, Tensor)]
    inputs = tuple(x[:0] if isinstance(x, Tensor) and batched(case, x) else x for x in case.inputs)
    found = result(case.module, case.module, inputs)
    finite(found)
    for i, x in enumerate(whole):
        ours = found.get(f"output {i}")
        wanted = (0, *x.shape[1:]) if x.ndim else ()
        if ours is not None and tuple(ours.shape) != wanted:
            raise Failure(f"output {i} has shape {tuple(ours.shape)}, expected {wanted}")


def batched(case: Prepared, x: Tensor) -> bool:
    return x.shape[0] == 1


def one_token(case: Prepared) -> None:
    torch.manual_seed(0)
    smallest = make(case.name, 1)
    finite(result(smallest.module, smallest.module, smallest.inputs))


CHECKS: dict[str, Callable[[Prepared], None]] = {
    "eager": eager,
    "compile": compiled,
    "dynamic length": dynamic_length,
    "export": exported,
    "vmap": vmapped,
    "FakeTensor": fake,
    "autocast": autocast,
    "deepcopy": deepcopied,
    "safetensors": safetensors,
    "checkpointing": checkpointed,
    "FSDP2": fsdp,
    "empty batch": empty_batch,
    "one token": one_token,
}


SLOW = {"compile", "dynamic length", "export"}  # seconds a cell


def system_of(name: str) -> System:
    """The system that declares an example."""
    return systems.system(declared("examples")[name].slug)


def limits(name: str) -> Mapping[str, str]:
    """The checks that a mechanism is declared not to pass, and why."""
    return system_of(name).limits.get(name, {})


def limit(name: str, check: str) -> str | None:
    return limits(name).get(check)


def problem(name: str, check: str) -> str | None:
    """What is wrong with a mechanism under a check; None if nothing is."""
    torch.compiler.reset()
    warnings.simplefilter("ignore")
    try:
        CHECKS[check](Prepared(name))
    except Exception as error:
        return "".join(traceback.format_exception(error)[-8:])[-4000:] if not isinstance(error, Failure) else str(error)
    return None


def table() -> str:
    """The matrix as Markdown, from what is declared: the tests hold every cell to it."""
    checks = list(CHECKS)
    lines = ["| mechanism | " + " | ".join(checks) + " |", "|---|" + "---|" * len(checks)]
    notes: list[str] = []
    for name in declared("examples"):
        cells = []
        for check in checks:
            reason = limit(name, check)
            if reason is not None and reason not in notes:
                notes.append(reason)
            cells.append("yes" if reason is None else f"no ({notes.index(reason) + 1})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def write() -> None:
    begin, end = "<!-- conformance -->", "<!-- end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--write"]:
        write()
        return
    for line in sys.stdin:
        name, check = line.strip().split(" ", 1)
        print(json.dumps(problem(name, check)), flush=True)


if __name__ == "__main__":
    main()
