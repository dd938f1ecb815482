"""The largest of some scores."""

import torch

from core_attention.parts.largest import largest


def test_best_first_and_of_equal_ones_the_first():
    found = largest(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]]), 4)
    assert found.index.tolist() == [[1, 3, 2, 4]]
    assert found.values.tolist() == [[3.0, 3.0, 2.0, 2.0]]
    assert largest(torch.zeros(2, 3), 9).index.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_an_exported_graph_has_no_stable_sort():
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return largest(x, 2).index

    x = torch.tensor([[1.0, 3.0, 2.0]])
    program = torch.export.export(Module(), (x,))
    assert program.module()(x).tolist() == [[1, 2]]
    assert "sort" not in str(program.graph)
