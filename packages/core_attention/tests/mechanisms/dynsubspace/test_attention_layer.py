import pytest
import torch
import torch.nn.functional as F

from core_attention.capture.capture import capture
from core_attention.mechanisms.dynsubspace.attention_layer import AttentionLayer, attention_pool


def test_map_is_between_0_and_1_and_parameters_are_as_published():
    module, x = AttentionLayer(64), torch.randn(2, 64, 7, 8)
    with capture(module) as maps:
        a = module(x)
    assert a.shape == (2, 1, 7, 8)
    assert ((a > 0) & (a < 1)).all()
    assert torch.equal(maps.all("AttentionLayer", "gates")[0], a)
    assert sum(p.numel() for p in AttentionLayer(1024).parameters()) == 1_216_961


def test_narrow_features_and_other_kernels():
    assert AttentionLayer(1)(torch.randn(1, 1, 1, 1)).shape == (1, 1, 1, 1)
    assert AttentionLayer(8, kernel_size=1)(torch.randn(1, 8, 3, 3)).shape == (1, 1, 9, 9)  # pads by 1, as published


@pytest.mark.usefixtures("unchecked")
def test_pooling_under_the_map():
    x, a = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.rand(2, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(attention_pool(x, a), (x * a).mean((2, 3)))
    torch.testing.assert_close(attention_pool(x, torch.ones_like(a)), F.adaptive_avg_pool2d(x, 1).flatten(1))
    torch.testing.assert_close(attention_pool(x, a, normalise=True), (x * a).sum((2, 3)) / a.sum((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 5, 3, 4\) and \(2, 1, 3, 3\)"):
        attention_pool(x, a[..., :3])
