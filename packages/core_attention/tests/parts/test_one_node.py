"""A function as one node of a graph: what it computes, its gradients, symbolic lengths, and how few nodes it is."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from core_attention.parts.one_node import _as_json, one_node


def running_products(tensors, settings):
    """A loop over time: what a graph would hold unrolled. The second output counts steps and has no gradient."""
    x, gate, *mask = tensors
    state, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = state * gate.sigmoid() + settings["factor"] * x[:, t]
        if settings["masked"]:
            state = torch.where(mask[0][:, t, None], state, 0)
        out.append(state)
    return [torch.stack(out, 1), torch.full((x.shape[0],), x.shape[1])]


def empty(tensors, settings):
    x = tensors[0]
    return [torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.long)]


in_graph = one_node("test_running_products", running_products, empty)


def run(x, gate, mask=None):
    tensors = [x, gate, *([] if mask is None else [mask])]
    settings = {"factor": 0.5, "masked": mask is not None}
    return in_graph(tensors, settings) if torch.compiler.is_compiling() else running_products(tensors, settings)


def values_and_gradients(function, masked):
    torch.manual_seed(0)
    x, gate = torch.randn(2, 6, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    mask = torch.rand(2, 6) < 0.7 if masked else None
    y, steps = function(x, gate, mask)
    return [y, steps, *torch.autograd.grad((y * torch.randn_like(y)).sum(), (x, gate))]


def graphs_and_nodes():
    counter = CompileCounter()
    compiled = torch.compile(run, backend=counter, fullgraph=True)
    for length in (9, 12, 31, 40):
        x, gate = torch.randn(2, length, 3), torch.randn(3)
        torch.testing.assert_close(compiled(x, gate)[0], run(x, gate)[0])
    return [counter.frame_count, counter.op_count]


def compiled_equals_eager(masked):
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    for ours, expected in zip(values_and_gradients(compiled, masked), values_and_gradients(run, masked), strict=True):
        torch.testing.assert_close(ours, expected)
    return "same"


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_the_function(script, masked):
    assert script(f"print(json.dumps(cases.compiled_equals_eager({masked})))") == "same"


def test_four_lengths_make_two_graphs_of_one_node(script):
    graphs, nodes = script("print(json.dumps(cases.graphs_and_nodes()))")
    assert graphs == 2
    assert nodes <= 2 * 3  # the operator, and reading its two results


def test_torchs_own_checks_of_an_operator():
    x, gate = torch.randn(2, 5, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    operator = torch.ops.core_attention.test_running_products.default
    torch.library.opcheck(operator, ([x, gate], '{"factor": 2.0, "masked": false}'))


def test_settings_are_json():
    settings = {"a": 1, "b": 0.25, "c": None, "d": True, "e": "shared"}
    assert _as_json(settings) == '{"a": 1, "b": 0.25, "c": null, "d": true, "e": "shared"}'
