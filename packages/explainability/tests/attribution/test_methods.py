import gc
import resource

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from explainability.attribution.attentions import RawAttention, Rollout
from explainability.attribution.attribution import Attribution, scaled
from explainability.attribution.gradients import GradCAM, IntegratedGradients
from explainability.attribution.layout import grids, infer_layout
from explainability.attribution.lrp import LRP
from explainability.attribution.methods import METHODS, attribute
from explainability.salient_relevance.relprop import relprop
from explainability.salient_relevance.rules import Rule

from ..backbones import tiny_vit


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("size", "options"), [((32, 32), {}), ((32, 48), {"reg_tokens": 2}), ((16, 40), {"global_pool": "avg"})]
)
def test_shapes_of_transformers(size, options):
    model = tiny_vit(size, num_classes=3, **options)
    x = images(2, 3, *size)
    for method in METHODS:
        if method == "own":
            with pytest.raises(ValueError, match="has no map of its own"):
                attribute(model, x, method)
            continue
        if options.get("global_pool") == "avg" and method in ("attention", "rollout"):
            continue
        attribution = attribute(model, x, method, torch.tensor([0, 2]))
        assert attribution.upsampled().shape == (2, *size), method
        assert attribution.target.tolist() == [0, 2]
        assert attribution.to_quantus().shape == (2, 1, *size)
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "densenet121"])
def test_relevance_goes_through_networks_of_torchvision(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    x = images(1, 3, 64, 64)
    before = model(x)
    attribution = LRP(model, "epsilon").attribute(x, 3)
    assert attribution.values.shape == x.shape
    assert attribution.values.isfinite().all()
    assert torch.equal(model(x), before)
    assert all(p.requires_grad for p in model.parameters())


def test_swin_has_channels_last():
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, window_size=7, embed_dim=12, depths=(1, 1), num_heads=(1, 2)
    ).eval()
    x = images(1, 3, 56, 56)
    attribution = GradCAM(model).attribute(x)
    assert attribution.values.shape == (1, 7, 7)
    with pytest.raises(ValueError, match="windows or several resolutions"):
        Rollout(model).attribute(x)
    assert LRP(model, "epsilon").attribute(x).values.isfinite().all()


def test_integrated_gradients_of_a_linear_model_are_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = images(2, 3, 4, 4)
    attribution = IntegratedGradients(model, 7).attribute(x, 1)
    expected = model[1].weight[1].view(3, 4, 4) * x
    assert torch.allclose(attribution.values, expected, atol=1e-5)
    assert max(map(abs, attribution.meta["delta"])) < 1e-4
    chunked = IntegratedGradients(model, 7).attribute(x, 1, internal_batch_size=3)
    assert torch.allclose(chunked.values, attribution.values, atol=1e-6)


def test_completeness_of_a_network():
    model = tiny_vit(num_classes=3)
    attribution = IntegratedGradients(model, 200).attribute(images(1, 3, 32, 32))
    assert abs(attribution.meta["delta"][0]) < 1e-2


def test_relevance_is_relprop_on_a_sequence():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 49, 4)]
    model = nn.Sequential(*layers).double().eval()
    x = images(2, 3, 16, 16).double()
    general = LRP(model, "salient-relevance").attribute(x)
    layered = relprop(list(model), x, convolution=Rule("z"), linear=Rule("z+"))
    assert torch.allclose(general.values, layered.relevance, atol=1e-8)
    lines = [(module, rule) for module, _, rule, _, _ in LRP(model).describe()]
    assert lines == []  # of a call that has not been made


def test_folded_batch_normalisation_changes_nothing():
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3)]
    plain = nn.Sequential(convolution, norm, *tail).eval()
    folded = nn.Sequential(torch.nn.utils.fusion.fuse_conv_bn_eval(convolution.eval(), norm.eval()), *tail).eval()
    x = images(2, 3, 8, 8)
    for composite in ("epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1"):
        a, b = (LRP(model, composite).attribute(x).values for model in (plain, folded))
        assert torch.allclose(a, b, atol=1e-4), composite


def test_reused_activations_functional_sums_and_identity():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 2, bias=False)
            self.act, self.same = nn.ReLU(), nn.Identity()

        def forward(self, x):
            x = self.act(self.a(x.flatten(1)))
            return self.b(self.same(self.act(x + self.act(self.a(x)))))

    torch.manual_seed(0)
    attribution = LRP(Odd().eval(), "epsilon").attribute(images(1, 6))
    assert attribution.meta["relevance"] == pytest.approx(attribution.meta["explained"], rel=1e-3)


def test_operations_without_a_rule_are_named():
    class Strange(nn.Module):
        def forward(self, x):
            return torch.cdist(x.flatten(1), x.flatten(1))

    with pytest.raises(ValueError, match=r"no rule for torch\S*cdist"):
        LRP(Strange().eval()).attribute(images(2, 3, 4, 4))


def test_frozen_models_without_gradients_and_compiled_ones():
    model = tiny_vit(num_classes=3).requires_grad_(False)
    x = images(1, 3, 32, 32)
    expected = GradCAM(model).attribute(x).values
    with torch.no_grad():
        assert torch.equal(GradCAM(model).attribute(x).values, expected)
    with torch.inference_mode():
        assert torch.equal(GradCAM(model).attribute(x).values, expected)
        LRP(model).attribute(x)
    assert torch.equal(GradCAM(torch.compile(model, backend="eager")).attribute(x).values, expected)


def test_layers_that_lead_nowhere_and_targets_out_of_range():
    model = tiny_vit(num_classes=3)
    x = images(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"no path leads from the places of layer blocks\.2\.norm2"):
        GradCAM(model, "blocks.2.norm2").attribute(x)
    with pytest.raises(ValueError, match=r"near it: blocks\.1\.norm1"):
        GradCAM(model, "block.1.norm1").attribute(x)
    for method in ("gradcam", "ig", "lrp", "rollout"):
        with pytest.raises(ValueError, match="classes 0 to 2"):
            attribute(model, x, method, 7)
    with pytest.raises(ValueError, match="no attention was seen"):
        RawAttention(torchvision.models.resnet18().eval()).attribute(images(1, 3, 64, 64))
    assert hooks(model) == 0


def test_nothing_stays_after_an_exception():
    model = tiny_vit(num_classes=3)

    def fail(module, args):
        raise RuntimeError("inside")

    handle = model.blocks[2].mlp.register_forward_pre_hook(fail)
    for method in ("gradcam", "lrp", "attention"):
        with pytest.raises(RuntimeError, match="inside"):
            attribute(model, images(1, 3, 32, 32), method)
    handle.remove()
    assert hooks(model) == 0
    assert all(p.requires_grad for p in model.parameters())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize("calls", [20, pytest.param(250, marks=pytest.mark.slow)])
def test_repeated_calls_keep_nothing(calls):
    model = tiny_vit(num_classes=3)
    x = images(1, 3, 32, 32)

    def run(times):
        for _ in range(times):
            attribute(model, x, "gradcam")
            attribute(model, x, "lrp")
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = run(10)
    assert run(calls) - before < 20


def test_rollout_is_the_product_of_matrices():
    from core_attention import capture

    model = tiny_vit(num_classes=3)
    x = images(1, 3, 32, 32)
    with torch.no_grad(), capture(model) as maps:
        model(x)
    product = torch.eye(17)
    for layer in maps:
        mixed = 0.5 * maps[layer][0].mean(0) + 0.5 * torch.eye(17)
        product = mixed / mixed.sum(-1, keepdim=True) @ product
    assert torch.allclose(Rollout(model).attribute(x).values[0].flatten(), product[0, 1:], atol=1e-6)


def test_layouts():
    assert infer_layout((1, 197, 768), (224, 224)).prefix == 1
    assert infer_layout((1, 261, 768), (224, 224)).prefix == 5
    assert (infer_layout((1, 25, 8), (32, 48)).rows, infer_layout((1, 25, 8), (32, 48)).columns) == (4, 6)
    assert infer_layout((1, 7, 7, 96), (224, 224), None).kind in ("channels last", "channels first")
    assert infer_layout((1, 99, 8), (32, 32), None, (7, 14)).prefix == 1
    with pytest.raises(ValueError, match=r"shape \(1, 200, 8\).*--grid"):
        infer_layout((1, 200, 8), (32, 48))
    assert grids(17, 32, 32) == [(1, 4, 4), (8, 3, 3)]


def test_maps_for_the_eye_hold_no_nan():
    for values in (torch.zeros(1, 4, 4), torch.full((1, 4, 4), float("nan")), -torch.rand(1, 4, 4)):
        for scaling in ("minmax", "absmax", "percentile", "none"):
            assert scaled(values, scaling).isfinite().all()


def test_interchange(tmp_path):
    values = images(2, 3, 8, 8)
    attribution = Attribution.from_captum(values, 1)
    attribution.save(tmp_path / "a.npz")
    read = np.load(tmp_path / "a.npz")
    assert np.array_equal(read["values"], values.numpy())
    assert attribution.boxes()[0][2] <= 8
