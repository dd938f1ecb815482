"""Multiply-accumulates are those that torch's own counter finds."""

import pytest
from torch import no_grad
from torch.utils.flop_counter import FlopCounterMode

from core_attention.measuring import bench, cost


@pytest.mark.parametrize("name", ["ela", "rala", "moh", "mvpa", "titans-mag"])
def test_products_are_counted_as_torch_counts_them(name):
    example = bench.example(name, 30)
    with no_grad(), FlopCounterMode(display=False, custom_mapping=cost._UNCOUNTED) as counter:
        example.module(*example.inputs)
    assert cost.profile(example.module, *example.inputs).macs == counter.get_total_flops() // 2 > 0
