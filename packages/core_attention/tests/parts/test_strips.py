"""The shared strip routines: equal to their definitions, forward and backward, in every layout and precision."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from core_attention.parts.strips import gated, strip_attention, strip_conv, strip_gate, strip_means


def inputs(b=2, c=3, h=5, w=4, dtype=torch.float64, offset=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(b, c, h, w), (b, c, h), (b, c, w)] + ([(b, c)] if offset else [])
    return [torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("size", [(2, 3, 5, 4), (1, 1, 1, 1), (2, 4, 1, 7), (2, 4, 7, 1), (0, 4, 3, 3)])
def test_gate_is_its_definition(size, offset):
    given = inputs(*size, offset=offset)
    y, want = strip_gate(*given), gated(*given, *([] if offset else [None]))
    torch.testing.assert_close(y, want)
    probe = torch.randn_like(y)
    for one, other in zip(torch.autograd.grad(y, given, probe), torch.autograd.grad(want, given, probe), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("offset", [True, False])
def test_gradients_of_first_and_second_order(offset):
    given = inputs(1, 2, 3, 2, offset=offset)
    assert gradcheck(strip_gate, given)
    assert gradgradcheck(strip_gate, given)


def gates(rows, columns):
    return torch.sigmoid(rows), torch.tanh(columns), torch.sin(rows.mean(2))


def test_one_backward_pass_for_means_and_gate():
    x = inputs(2, 3, 4, 5)[0]
    torch.testing.assert_close(strip_attention(x, gates), gated(x, *gates(*strip_means(x))))
    assert gradcheck(lambda x: strip_attention(x, gates), (x,))
    assert gradgradcheck(lambda x: strip_attention(x, gates), (x,))


def test_only_the_gradients_asked_for():
    x, rows, columns, offset = inputs()
    strip_gate(x.detach(), rows, columns, offset).sum().backward()
    assert x.grad is None
    assert rows.grad is not None
    strip_gate(x, rows.detach(), columns.detach(), offset.detach()).sum().backward()
    torch.testing.assert_close(x.grad, rows[..., None] * columns[:, :, None] + offset[..., None, None])


@pytest.mark.parametrize("offset", [True, False])
def test_memory_format_stays(offset):
    x, *strips = inputs(2, 8, 5, 6, offset=offset)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = strip_gate(last, *strips)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, gated(x, *strips, *([] if offset else [None])), check_stride=False)
    (dx,) = torch.autograd.grad(y.sum(), last)
    assert dx.is_contiguous(memory_format=torch.channels_last)


def test_not_contiguous():
    x, *strips = inputs(2, 3, 5, 4)
    odd = torch.randn(2, 6, 10, 8, dtype=torch.float64)[:, ::2, ::2, ::2].requires_grad_()
    y = strip_attention(odd, gates)
    torch.testing.assert_close(y, gated(odd, *gates(*strip_means(odd))))
    torch.testing.assert_close(strip_gate(x.mT, strips[1], strips[0]), gated(x.mT, strips[1], strips[0], None))


def test_gates_of_another_precision_are_cast():
    x, *strips = inputs(dtype=torch.float32)
    assert strip_gate(x.bfloat16(), *strips).dtype == torch.bfloat16


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_convolution_with_and_without_gradients(groups, kernel):
    torch.manual_seed(0)
    z, weight = torch.randn(2, 6, 4), torch.randn(6, 6 // groups, kernel)
    want = torch.nn.functional.conv1d(z, weight, padding=kernel // 2, groups=groups)
    torch.testing.assert_close(strip_conv(z, weight, groups=groups), want)
    torch.testing.assert_close(strip_conv(z, weight.requires_grad_(), groups=groups), want)
