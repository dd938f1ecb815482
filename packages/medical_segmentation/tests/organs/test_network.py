"""The self-guided network: sizes, limits of its parts, checkpoints, other backbones and dimensions."""

import pytest
import torch

from core_runtime.errors import UserError
from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig, Supervised
from medical_segmentation.organs.model.layers import SemanticModule, VolumeAttention
from medical_segmentation.organs.model.losses import guided_losses
from medical_segmentation.organs.model.official import official_name, official_state, our_name

SMALL = {"n_classes": 3, "backbone": "test_resnet", "width": 8}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GuidedAttentionNet(GuidedConfig(**SMALL)).eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (250, 250), (288, 288), (33, 71)])
def test_the_answer_has_the_size_of_the_image(network, size):
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)


def test_training_gives_all_that_the_losses_need(network):
    network.train()
    outputs = network(torch.randn(2, 1, 48, 40))
    network.eval()
    assert isinstance(outputs, Supervised)
    assert [each.shape for each in (*outputs.first, *outputs.second)] == [(2, 3, 48, 40)] * 8
    losses = guided_losses(outputs, torch.zeros(2, 48, 40, dtype=torch.long))
    expected = losses.segmentation.sum() + 0.25 * losses.guided.sum() + 0.1 * losses.reconstruction.sum()
    assert losses.total.isclose(expected)
    same = outputs._replace(codes=[(first, first) for first, _ in outputs.codes])
    assert not guided_losses(same, torch.zeros(2, 48, 40, dtype=torch.long)).guided.any()


def test_evaluation_is_the_mean_of_the_second_stage(network):
    """Against the training path under frozen norms, where logits are resized one by one."""
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        answer = network(x)
        network.training = True  # the flag of this module alone: its norms stay in evaluation
        supervised = network(x)
        network.training = False
    torch.testing.assert_close(answer, supervised.logits, rtol=1e-4, atol=1e-5)


def test_parameters_of_the_published_form():
    with torch.device("meta"):
        total = sum(p.numel() for p in GuidedAttentionNet(GuidedConfig(unused_layers=True)).parameters())
    assert total == 104_511_475


def test_official_names_go_both_ways():
    with torch.device("meta"):
        network = GuidedAttentionNet(GuidedConfig(unused_layers=True))
    official = official_state(network)
    assert len(official) == 1372
    for name in network.state_dict():
        assert our_name(official_name(name)) == name
    assert our_name("conv_sem_1_1.weight") == "stages.0.guide.3.weight"
    assert our_name("conv8_14.bias") == "stages.1.project.0.bias"
    with pytest.raises(KeyError):
        official_name("nobody.weight")


def test_volumes_and_neighbouring_slices():
    with torch.no_grad():
        solid = GuidedAttentionNet(GuidedConfig(**SMALL, dims=3)).eval()
        assert solid(torch.randn(1, 1, 32, 18, 30)).shape == (1, 3, 32, 18, 30)
        near = GuidedAttentionNet(GuidedConfig(**SMALL, slices=3)).eval()
        assert near(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_an_inflated_backbone_sees_a_volume_of_equal_slices_as_its_slice():
    torch.manual_seed(1)
    flat = GuidedAttentionNet(GuidedConfig(**SMALL)).eval()
    torch.manual_seed(1)
    solid = GuidedAttentionNet(GuidedConfig(**SMALL, dims=3)).eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        middle = solid.backbone(x[..., None, :, :].expand(1, 1, 160, 32, 32).contiguous())[0][:, :, 20]
        torch.testing.assert_close(middle, flat.backbone(x)[0], rtol=1e-3, atol=1e-4)


def test_attention_of_volumes_is_the_core_s_on_flattened_voxels():
    torch.manual_seed(0)
    layer = VolumeAttention(8, position=True)
    layer.gamma.data.fill_(0.7)
    x = torch.randn(2, 8, 2, 3, 4)
    q, k, v = (p(x).flatten(2) for p in (layer.query_conv, layer.key_conv, layer.value_conv))
    expected = 0.7 * (v @ torch.softmax(q.mT @ k, 2).mT).view(x.shape) + x
    torch.testing.assert_close(layer(x), expected)
    layer.gamma.data.zero_()
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_lite0", "test_vit", "swin_s3_tiny_224"])
def test_other_backbones(name):
    with torch.no_grad():
        network = GuidedAttentionNet(GuidedConfig(2, 2, 1, name, 8)).eval()
        assert network(torch.randn(1, 2, 48, 80)).shape == (1, 2, 48, 80)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no network 'resnet_of_dreams'"):
        GuidedAttentionNet(GuidedConfig(backbone="resnet_of_dreams"))
    with pytest.raises(UserError, match="cannot be made three-dimensional"):
        GuidedAttentionNet(GuidedConfig(backbone="convnext_atto", dims=3))
    with pytest.raises(UserError, match="mixer_s16_224 does not take images of any size"):
        GuidedAttentionNet(GuidedConfig(backbone="mixer_s16_224"))
    with pytest.raises(UserError, match="test_vit cannot be made three-dimensional"):
        GuidedAttentionNet(GuidedConfig(backbone="test_vit", dims=3))
    with pytest.raises(ValueError, match="multiples of 4"):
        SemanticModule(4)(torch.randn(1, 4, 6, 8))
    with pytest.raises(ValueError, match="slices odd"):
        GuidedConfig(slices=2)
