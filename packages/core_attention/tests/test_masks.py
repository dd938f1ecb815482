"""Typed masks: what they allow part by part, how they combine, what they refuse, and that no matrix is written that need not be."""

import pytest
import torch

from core_attention.attention import attention
from core_attention.backends import cpu, pieces, sdpa
from core_attention.masks import (
    Additive,
    All,
    Blocks,
    Causal,
    Dense,
    Factorised,
    KeyLengths,
    Mask,
    Part,
    Run,
    Segments,
    Size,
    Window,
    as_mask,
    names,
)

CPU = torch.device("cpu")
SIZE = Size(2, 3, 6, 8)


pytestmark = pytest.mark.usefixtures("unchecked")


def masks():
    g = torch.Generator().manual_seed(0)
    return {
        "causal": Causal(2),
        "window": Window(1, 2, offset=1),
        "window, one side": Window(None, 0),
        "lengths": KeyLengths(torch.tensor([3, 8])),
        "segments": Segments(torch.tensor([[0, 0, 1, 1, -1, 2]]), torch.tensor([[0, 1, 1, 2, 2, -1, 0, 9], [2] * 8])),
        "blocks": Blocks(torch.rand(2, 1, 2, 3, generator=g) > 0.5, (4, 3)),
        "dense": Dense(torch.rand(3, 6, 8, generator=g) > 0.5),
        "additive": Additive(torch.randn(2, 1, 1, 8, generator=g)),
        "factorised": Factorised(torch.randn(2, 1, 6, 2, generator=g), torch.randn(1, 3, 6, 4, generator=g)),
        "all": Causal(4) & KeyLengths(torch.tensor([3, 8])) & Additive(torch.randn(6, 8, generator=g)),
    }


@pytest.mark.parametrize("name", masks())
def test_a_part_is_cut_from_the_whole(name):
    mask = masks()[name]
    mask.check(SIZE)
    rows, heads = torch.tensor([5, 0, 3]), torch.tensor([2, 0])
    for part in (Part(rows=Run(1, 4), keys=Run(2, 7)), Part(batch=Run(1, 2), heads=heads, rows=rows)):
        for kind in ("allowed", "bias"):
            whole, cut = (getattr(mask, kind)(SIZE, p, CPU) for p in (Part(), part))
            if whole is None:
                assert cut is None
                continue
            want = whole.expand(SIZE)
            want = want[1:2] if part.batch else want
            want = want[:, heads] if part.heads is not None else want
            want = want[:, :, rows] if isinstance(part.rows, torch.Tensor) else want[:, :, 1:4]
            want = want[..., 2:7] if part.keys else want
            assert torch.equal(cut.expand(want.shape), want)


def test_masks_combine():
    both = Causal() & Window(2, None) & Causal(-1)
    assert isinstance(both, All)
    assert names(both) == ("Causal", "Window", "Causal")
    assert pieces.tightest(both) == (-2, -1)
    assert names(None) == ()
    assert Causal(3) == Causal(3)
    assert names(as_mask(torch.ones(6, 8, dtype=torch.bool), torch.zeros(6, 8), SIZE)) == ("Dense", "Additive")
    assert as_mask(None, None, SIZE) is None


def test_masks_that_leave_nothing():
    q = torch.randn(1, 2, 9, 8)
    for mask in (Causal(-5) & Window(2, 2), Causal(-9), Window(-9, None), KeyLengths(torch.tensor([0]))):
        for backend in ("sdpa", "reference"):
            assert (attention(q, q, q, mask=mask, backend=backend) == 0).all()


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (lambda: KeyLengths(torch.tensor([1, 2, 3])), r"shape \(2,\): got torch.int64 of shape \(3,\)"),
        (lambda: KeyLengths(torch.tensor([1.0, 2.0])), "one integer per sample.*float32"),
        (lambda: Segments(torch.zeros(2, 5, dtype=torch.long)), r"query ids of shape \(2, 6\): .*\(2, 5\)"),
        (lambda: Segments(torch.zeros(2, 6, dtype=torch.long)), r"key ids of shape \(2, 8\): .*\(2, 6\)"),
        (lambda: Blocks(torch.ones(1, 1, 2, 2, dtype=torch.bool), 3), r"bool of shape \(2, 3, 2, 3\).*\(1, 1, 2, 2\)"),
        (lambda: Dense(torch.ones(6, 7, dtype=torch.bool)), r"\(6, 7\) does not broadcast to .*\(2, 3, 6, 8\)"),
        (lambda: Dense(torch.ones(6, 8)), "is Additive"),
        (lambda: Additive(torch.ones(6, 8, dtype=torch.bool)), "is Dense"),
        (lambda: Additive(torch.ones(2, 2, 6, 8)), r"\(2, 2, 6, 8\) does not broadcast"),
        (lambda: Factorised(torch.zeros(2, 3, 6, 3), torch.zeros(2, 3, 6, 3)), "3 × 3 = 9 keys, but there are 8 keys"),
        (
            lambda: Factorised(torch.zeros(2, 3, 5, 2), torch.zeros(2, 3, 6, 4)),
            r"rows of shape \(2, 3, 5, 2\) does not fit",
        ),
    ],
)
def test_what_does_not_fit_is_quoted(mask, match):
    with pytest.raises(ValueError, match=match):
        (Causal() & mask()).check(SIZE)


def test_tensors_of_the_wrong_kind_are_told_apart():
    with pytest.raises(ValueError, match="scores as bias="):
        as_mask(torch.zeros(6, 8), None, SIZE)
    with pytest.raises(ValueError, match="visible as mask="):
        as_mask(None, torch.ones(6, 8, dtype=torch.bool), SIZE)


N = 2048


@pytest.mark.parametrize(
    ("mask", "most"),
    [
        (Causal(), 0),
        (Segments(torch.arange(N)[None] // 300), 0),
        (Causal() & Segments(torch.arange(N)[None] // 300), 0),
        (KeyLengths(torch.tensor([N, N // 3])), 0),
        (KeyLengths(torch.tensor([N, N - 9])), 2 * N),
        (Window(50, 50), 64 * (64 + 100)),
        (Window(50, 50) & Segments(torch.arange(N)[None] // 300), 64 * (64 + 100)),
        (Window(N, N), 0),
        (Factorised(*(torch.zeros(1, 1, N, n, requires_grad=True) for n in (32, 64))), 0),
    ],
)
def test_no_matrix_is_written_that_need_not_be(mask: Mask, most, monkeypatch):
    sizes = []
    write = pieces.written

    def counted(*args):
        added = write(*args)
        sizes.append(added.numel())
        return added

    for module in (pieces, cpu, sdpa):
        monkeypatch.setattr(module, "written", counted)
    q = torch.randn(2, 1, N, 8, requires_grad=True)
    attention(q, q, q, mask=mask).sum().backward()
    assert max(sizes, default=0) <= most
