"""What is handed to FlexAttention means the same as our masks: index by index here, by its eager form in `slow`."""

import subprocess
import sys

import pytest
import torch

from core_attention.backends import flex
from core_attention.masks import (
    Additive,
    Blocks,
    Causal,
    Dense,
    Factorised,
    KeyLengths,
    Part,
    Segments,
    Size,
    Window,
    parts,
)


def masks():
    g = torch.Generator().manual_seed(0)
    return {
        "none": None,
        "causal": Causal(3),
        "window": Window(4, 2),
        "window left": Window(4, None),
        "lengths": KeyLengths(torch.tensor([5, 30])),
        "segments": Segments(torch.arange(30)[None] // 7, torch.arange(36)[None] // 9),
        "blocks": Blocks(torch.rand(1, 4, 3, 4, generator=g) > 0.3, (10, 9)),
        "dense": Dense(torch.rand(2, 1, 30, 36, generator=g) > 0.3),
        "additive": Additive(torch.randn(4, 30, 36, generator=g)) & Causal(6),
        "factorised": Factorised(torch.randn(2, 4, 30, 6, generator=g), torch.randn(1, 4, 30, 6, generator=g)),
    }


SIZE = Size(2, 4, 30, 36)


@pytest.mark.parametrize("name", masks())
def test_indexed_masks_mean_the_same(name):
    index = torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij")
    for mask in parts(masks()[name]):
        if isinstance(mask, Additive | Factorised):
            torch.testing.assert_close(
                flex.added(mask)(*index), mask.bias(SIZE, Part(), torch.device("cpu")).expand(SIZE)
            )
        else:
            assert torch.equal(
                flex.visible(mask, torch.device("cpu"))(*index),
                mask.allowed(SIZE, Part(), torch.device("cpu")).expand(SIZE),
            )


EAGER = """
import importlib.util, sys, warnings
import torch
from torch.nn.attention.flex_attention import flex_attention
from core_attention.attention import attention
from core_attention.backends import flex
from core_attention.masks import Blocks

warnings.simplefilter("ignore")  # it warns that it is not compiled
spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)

cuda = len(sys.argv) > 2
torch.set_default_device("cuda" if cuda else "cpu")

def check(mask, *shapes):
    q, k, v = (torch.randn(shape, requires_grad=cuda) for shape in shapes)
    got = flex.run(q, k, v, mask=mask, scale=0.3, return_lse=True, call=None if cuda else flex_attention)
    want = attention(q, k, v, mask=mask, scale=0.3, backend="reference", return_lse=True)
    if cuda:
        got, want = ([*found, *torch.autograd.grad(found[0].square().sum(), (q, k, v))] for found in (got, want))
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours, theirs, rtol=1e-2 if cuda else 1e-4, atol=1e-2 if cuda else 1e-5)

for mask in cases.masks().values():
    check(mask, (2, 4, 30, 16), (2, 2, 36, 16), (2, 2, 36, 16))
big = Blocks(torch.tensor([[[[True, False, True], [False, True, False]]]]), 128)  # becomes FlexAttention's own blocks
check(big, (1, 2, 256, 16), (1, 2, 384, 16), (1, 2, 384, 16))
print("equal")
"""


@pytest.mark.slow
def test_flex_attention_itself_agrees():
    """In its eager CPU form, forward only; in a process whose functions it can look into (the shape checks of the tests wrap them)."""
    done = subprocess.run([sys.executable, "-c", EAGER, __file__], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.gpu
def test_compiled_on_the_device():
    """Forward and gradients."""
    done = subprocess.run([sys.executable, "-c", EAGER, __file__, "cuda"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
