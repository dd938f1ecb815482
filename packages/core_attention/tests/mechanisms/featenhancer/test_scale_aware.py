import pytest
import torch

from core_attention.capture.capture import capture
from core_attention.mechanisms.featenhancer.scale_aware import ScaleAwareFeatureAggregation, definition, scale_blend


def pair(seed=0, c=24, size=(2, 3)):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, *size, generator=g, dtype=torch.float64) for _ in range(2)]


def stacked(q, k, heads):
    """The definition: a softmax over the two scales of a stack."""
    b, c, h, w = q.shape
    s = torch.stack([q, k], 1).view(b, 2, heads, c // heads, h, w)
    logits = (s * k.view(b, 1, heads, c // heads, h, w)).sum(3) / (c // heads) ** 0.5
    weights = logits.softmax(1)
    return (weights[:, :, :, None] * s).sum(1).view(b, c, h, w), weights[:, 1]


@pytest.mark.parametrize("heads", [1, 8, 24])
def test_blend_is_a_softmax_over_two(heads):
    q, k = (t.requires_grad_() for t in pair())
    (y, w), (want, w_want) = scale_blend(q, k, heads), stacked(q, k, heads)
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(w, w_want)
    for one, other in zip(
        torch.autograd.grad(y.pow(2).sum(), (q, k)), torch.autograd.grad(want.pow(2).sum(), (q, k)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_equal_scales_zero_keys_and_large_keys():
    q, k = pair()
    y, w = scale_blend(q, q, 8)
    assert (w == 0.5).all()
    torch.testing.assert_close(y, q)
    y, w = scale_blend(q, torch.zeros_like(q), 8)
    assert (w == 0.5).all()
    torch.testing.assert_close(y, q / 2)
    _, w = scale_blend(q, 1e3 * k, 8)
    assert (w > 0.999).all()
    changed = q.clone()
    changed[..., 0, 0] += 1
    assert torch.equal(scale_blend(changed, k, 8)[1][..., 1, 1], scale_blend(q, k, 8)[1][..., 1, 1])


def test_large_keys_stay_finite_in_half_precision():
    q, k = (t.half() for t in pair())
    y, w = scale_blend(q, 300 * k, 8)
    assert y.isfinite().all()
    assert w.isfinite().all()


@pytest.mark.parametrize("size", [(15, 15), (33, 128), (39, 50)])
def test_keeps_every_size_from_15(size):
    torch.manual_seed(0)
    module = ScaleAwareFeatureAggregation()
    x = torch.randn(1, 24, *size)
    quarter = torch.randn(1, 24, *((n - 7) // 4 + 1 for n in size))
    with capture(module) as maps:
        y = module(x, quarter)
    torch.testing.assert_close(y, definition(module, x, quarter))
    assert maps.all("ScaleAwareFeatureAggregation", "weights.key")[0].shape[:2] == (1, 8)
    torch.testing.assert_close(module(torch.cat([x, x]), torch.cat([quarter, quarter]))[1:], y, rtol=1e-4, atol=1e-5)


def test_parameters():
    count = sum(p.numel() for p in ScaleAwareFeatureAggregation().parameters())
    assert count == 24 * 24 * 49 + 2 * 24 * 24 * 9 + 3 * 24


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    module = ScaleAwareFeatureAggregation()
    with pytest.raises(ValueError, match=r"at least 15×15, got \(1, 24, 14, 40\)"):
        module(torch.zeros(1, 24, 14, 40), torch.zeros(1, 24, 2, 9))
    with pytest.raises(ValueError, match=r"\(1, 24, 3, 9\) beside \(1, 24, 15, 40\), got \(1, 24, 4, 9\)"):
        module(torch.zeros(1, 24, 15, 40), torch.zeros(1, 24, 4, 9))
    with pytest.raises(ValueError, match="channels 24 and num_heads 5"):
        ScaleAwareFeatureAggregation(num_heads=5)
