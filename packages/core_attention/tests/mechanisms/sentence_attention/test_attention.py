import pytest
import torch

from core_attention.mechanisms.sentence_attention.attention import SentenceAttention


def made(**options):
    torch.manual_seed(0)
    return SentenceAttention(6, 10, **options).double()


TEXT = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MAP = torch.randn(2, 10, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_gate_is_positive_sums_to_one_and_does_not_see_the_image():
    module = made()
    g = module.gate(TEXT)
    assert (g > 0).all()
    torch.testing.assert_close(g.sum(1), torch.ones(2, dtype=g.dtype))
    torch.testing.assert_close(module(MAP, TEXT) / MAP, g[..., None, None].expand_as(MAP))
    torch.testing.assert_close(module(2 * MAP, TEXT), 2 * module(MAP, TEXT))


def test_zero_weights_divide_by_the_channels_unless_rescaled():
    for rescale in (False, True):
        module = made(rescale=rescale)
        torch.nn.init.zeros_(module.attention[3].weight)
        torch.nn.init.constant_(module.attention[3].bias, 0.4)
        torch.testing.assert_close(module(MAP, TEXT), MAP if rescale else MAP / 10)


def test_gate_folds_into_a_following_1x1_convolution():
    module, weight = made(), torch.randn(3, 10, dtype=torch.float64)
    folded = torch.einsum("oc,bc,bchw->bohw", weight, module.gate(TEXT), MAP)
    torch.testing.assert_close(torch.einsum("oc,bchw->bohw", weight, module(MAP, TEXT)), folded)


def test_image_in_the_gate():
    module = made(use_image=True)
    assert module.attention[0].in_features == 16
    assert not torch.allclose(module.gate(TEXT, MAP), module.gate(TEXT, MAP + 1))
    with pytest.raises(ValueError, match="use_image"):
        module.gate(TEXT)


@pytest.mark.parametrize(("backbone", "count"), [("b0", 3_759_104), ("b7", 4_546_048)])
def test_parameters_as_published(backbone, count):
    channels = {"b0": (16, 24, 40, 112, 320), "b7": (32, 48, 80, 224, 640)}[backbone]
    assert sum(p.numel() for c in channels for p in SentenceAttention(384, c).parameters()) == count


@pytest.mark.usefixtures("unchecked")
def test_errors_quote_shapes():
    with pytest.raises(ValueError, match=r"\(batch, 6\), got \(2, 5\)"):
        made()(MAP, TEXT[:, :5])
    with pytest.raises(ValueError, match=r"one sentence per map.*\(2, 10, 4, 5\).*\(1, 6\)"):
        made()(MAP, TEXT[:1])
    with pytest.raises(ValueError, match=r"\(batch, 10, height, width\), got \(2, 9, 4, 5\)"):
        made()(MAP[:, :9], TEXT)
