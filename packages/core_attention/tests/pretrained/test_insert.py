import copy
import pickle
from functools import partial

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn

import core_attention
from core_attention.measuring.cost import profile
from core_attention.mechanisms.ela.attention import ELA
from core_attention.mechanisms.eurosat_bmta.squeeze_excitation import SqueezeExcitation
from core_attention.pretrained.insert import places, replace
from core_attention.registry.catalogue import declared

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    return tv.resnet18(num_classes=5).eval()


def test_as_in_the_docstring(resnet):
    assert core_attention.insert(resnet, "ela", after="layer*.bn2") is resnet
    found = core_attention.inserted(resnet)
    assert [one.place for one in found] == [f"layer{s}.{b}.bn2" for s in range(1, 5) for b in range(2)]
    assert str(found[0]) == "layer1.0.bn2: ela, 64 channels, 448 parameters"
    assert [one.channels for one in found[::2]] == [64, 128, 256, 512]


def test_attention_applies_right_after_the_module_and_removal_restores(resnet):
    want, before = resnet(X), set(resnet.state_dict())
    core_attention.insert(resnet, "ela", after="layer1.0.bn2", variant="B")
    attention = resnet.layer1[0].bn2.ela
    assert isinstance(attention, ELA)
    nn.init.zeros_(attention.gn.weight)  # y = x / 4
    block, x = resnet.layer1[0], torch.randn(1, 64, 8, 8)
    branch = nn.functional.batch_norm(
        block.conv2(torch.relu(block.bn1(block.conv1(x)))),
        *(getattr(block.bn2, name) for name in ("running_mean", "running_var", "weight", "bias")),
    )
    torch.testing.assert_close(block(x), torch.relu(branch / 4 + x))
    assert not torch.allclose(resnet(X), want)
    assert core_attention.remove(resnet) is resnet
    assert torch.equal(resnet(X), want)
    assert set(resnet.state_dict()) == before
    assert not resnet.layer1[0].bn2._forward_hooks
    assert core_attention.inserted(resnet) == []


def test_existing_parameters_keep_their_names(resnet):
    state = resnet.state_dict()
    core_attention.insert(resnet, "se", after="layer*.bn2")
    missing, unexpected = resnet.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(".bn2.se." in key for key in missing)
    assert isinstance(resnet.layer1[0].bn2, nn.BatchNorm2d)


def test_copies_pickles_and_reloads(resnet):
    core_attention.insert(resnet, "ulsam", after="layer*.bn2")
    want = resnet(X)
    twin = copy.deepcopy(resnet)
    assert torch.equal(twin(X), want)
    nn.init.zeros_(resnet.layer1[0].bn2.ulsam.conv_point.weight)
    nn.init.ones_(twin.layer1[0].bn2.weight)
    assert torch.equal(pickle.loads(pickle.dumps(twin))(X), twin(X))
    again = core_attention.insert(tv.resnet18(num_classes=5), "ulsam", after="layer*.bn2").eval()
    again.load_state_dict(twin.state_dict())
    assert torch.equal(again(X), twin(X))


def test_trains(resnet):
    core_attention.insert(resnet.train(), "balanced", after="residual")
    resnet(X).sum().backward()
    assert all(p.grad is not None for p in resnet.parameters())


@pytest.mark.usefixtures("unchecked")
def test_compiles_in_one_graph(resnet):
    core_attention.insert(resnet, "ela", after="layer4.1.bn2")
    torch._dynamo.reset()
    block, x = resnet.layer4[1], torch.randn(1, 512, 3, 3)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-4)


NETWORKS = {
    "torchvision resnet18": (partial(tv.resnet18, weights=None), {"residual": 8}),
    "torchvision resnet50": (partial(tv.resnet50, weights=None), {"residual": 16}),
    "timm resnet18": (partial(timm.create_model, "resnet18"), {"residual": 8}),
    "timm resnet26": (partial(timm.create_model, "resnet26"), {"residual": 8}),
    "torchvision mobilenet_v2": (partial(tv.mobilenet_v2, weights=None), {"residual": 17, "depthwise": 17}),
    "timm mobilenetv2": (partial(timm.create_model, "mobilenetv2_100"), {"residual": 17, "depthwise": 17}),
    "torchvision mobilenet_v3": (partial(tv.mobilenet_v3_small, weights=None), {"residual": 11, "depthwise": 11}),
    "timm mobilenetv1": (partial(timm.create_model, "mobilenetv1_100"), {"residual": 13, "depthwise": 13}),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_usual_places(name):
    make, want = NETWORKS[name]
    model = make().eval()
    found = places(model)
    assert {place: len(names) for place, names in found.items()} == want
    for place in want:
        core_attention.insert(model, "ela", after=place, strict=False)
        assert [one.place for one in core_attention.inserted(model)] == found[place]
        assert model(X).isfinite().all()
        core_attention.remove(model)


def test_depthwise_place_is_after_the_activation():
    model = tv.mobilenet_v2()
    core_attention.insert(model, "se", after="depthwise")
    block = model.features[3].conv[1]  # the small Sequential of depthwise convolution, norm and activation
    seen = []
    block.se.register_forward_pre_hook(lambda module, args: seen.append(args[0].min()))
    model.eval()(X)
    assert seen[0] >= 0
    timms = timm.create_model("mobilenetv2_100").eval()
    core_attention.insert(timms, "se", after="depthwise")
    timms.blocks[1][0].bn2.se.register_forward_pre_hook(lambda module, args: seen.append(args[0].min()))
    timms(X)
    assert seen[1] >= 0


@pytest.mark.parametrize("mechanism", list(declared("inserts")))
def test_every_mechanism_fits_a_residual_network(resnet, mechanism):
    core_attention.insert(resnet, mechanism, after=["layer1.*.bn2", "layer2.*.bn2"])
    assert len(core_attention.inserted(resnet)) == 4
    assert resnet(X).shape == (2, 5)


def test_own_classes_names_and_given_channels(resnet):
    core_attention.insert(
        resnet, partial(SqueezeExcitation, reduction=4), after="layer1.0.relu", channels=64, name="gate"
    )
    core_attention.insert(resnet, SqueezeExcitation, after="layer1.0.bn2")
    assert [(one.name, one.channels) for one in core_attention.inserted(resnet)] == [
        ("gate", 64),
        ("squeezeexcitation", 64),
    ]
    core_attention.remove(resnet, name="gate")
    assert len(core_attention.inserted(resnet)) == 1


def test_dtype_device_and_mode_follow_the_network(resnet):
    core_attention.insert(resnet.double(), "ela", after="layer1.0.bn2")
    assert resnet.layer1[0].bn2.ela.conv.weight.dtype == torch.float64
    assert not resnet.layer1[0].bn2.ela.training


def test_patterns_do_not_reach_into_what_was_inserted(resnet):
    core_attention.insert(resnet, "coordinate", after="layer1.0.bn2")
    core_attention.insert(resnet, "se", after="layer1.0.bn*")
    assert [one.place for one in core_attention.inserted(resnet) if one.name == "se"] == [
        "layer1.0.bn1",
        "layer1.0.bn2",
    ]


def test_errors_say_what_is_near_and_change_nothing(resnet):
    before = [name for name, _ in resnet.named_modules()]
    for arguments, message in [
        (
            {"mechanism": "ela", "after": "layer1.0.bm2"},
            r"no module of ResNet is called 'layer1.0.bm2'; near: .*layer1\.0\.bn2",
        ),
        ({"mechanism": "elan", "after": "layer*.bn2"}, r"unknown mechanism 'elan' \(did you mean 'ela'\?\)"),
        ({"mechanism": "ela", "after": "layer1.0.relu"}, r"layer1\.0\.relu \(ReLU\) does not say how many channels"),
        ({"mechanism": "ulsam", "after": "*.bn2", "num_splits": 3}, r"at layer1\.0\.bn2 \(64 channels\)"),
        ({"mechanism": "ela", "after": "depthwise"}, r"called 'depthwise'"),
    ]:
        with pytest.raises(ValueError, match=message):
            core_attention.insert(resnet, **arguments)
        assert [name for name, _ in resnet.named_modules()] == before
    core_attention.insert(resnet, "ela", after="layer1.0.bn2")
    with pytest.raises(ValueError, match="already has a 'ela'"):
        core_attention.insert(resnet, "ela", after="layer*.bn2")


def test_a_map_of_other_channels_is_an_error_with_both_shapes(resnet):
    core_attention.insert(resnet, "se", after="layer1.0.relu", channels=32)
    with pytest.raises(ValueError, match=r"\(batch, 32, height, width\), got \(2, 64, 8, 8\)"):
        resnet(X)


def test_mobilenet_with_blocks_replaced_by_ulsam_has_the_published_size():
    """ULSAM's replace (14, 17): 3,067,904 parameters, 12.5 to 13 % fewer multiply-accumulates; works at 224 and 96."""
    full = profile(tv.mobilenet_v2(), torch.randn(1, 3, 224, 224))
    assert (full.parameters, round(full.macs / 1e6)) == (3_504_872, 301)
    model = replace(tv.mobilenet_v2(), "ulsam", at=["features.13", "features.16"])
    slim = profile(model, torch.randn(1, 3, 224, 224))
    assert slim.parameters == 3_067_904
    assert 0.125 < 1 - slim.macs / full.macs < 0.13
    assert model.eval()(torch.randn(1, 3, 96, 96)).shape == (1, 1000)
    for block in (2, 11):  # of stride 2; from 64 to 96 channels
        with pytest.raises(ValueError, match=rf"features\.{block} takes"):
            replace(model, "ulsam", at=f"features.{block}")


MOBILENET = (3.4, 300.01)  # millions of parameters and multiply-accumulates as published for version 2
ROWS = {  # positions replaced → the same of the published table
    (14, 17): (2.96, 261.88),
    (14,): (3.28, 277.34),
    (17,): (3.08, 284.54),
    (16, 17): (2.77, 269.07),
    (13, 14, 16, 17): (2.54, 224.0),
}


@pytest.mark.parametrize("positions", list(ROWS))
def test_every_row_of_the_published_table_of_replacements(positions):
    """What a row saves, as the published pairs say it; their figures are rounded, of parameters to 0.01 M and of the network to 0.1 M."""
    x = torch.randn(1, 3, 224, 224)
    full = profile(tv.mobilenet_v2(), x)
    slim = profile(replace(tv.mobilenet_v2(), "ulsam", at=[f"features.{p - 1}" for p in positions]), x)
    parameters, macs = ROWS[positions]
    assert abs((full.parameters - slim.parameters) / 1e6 - (MOBILENET[0] - parameters)) < 0.025
    assert abs((full.macs - slim.macs) / 1e6 - (MOBILENET[1] - macs)) < 0.6


def test_insertion_costs_what_the_table_says():
    """MobileNetV2 with one attention after a late block: + 0.01 to 0.03 M multiply-accumulates in the published table."""
    x, model = torch.randn(1, 3, 224, 224), tv.mobilenet_v2()
    full = profile(model, x)
    core_attention.insert(model, "ulsam", after="features.14")
    more = profile(model, x)
    assert more.parameters - full.parameters == 812
    assert 0.005 < (more.macs - full.macs) / 1e6 < 0.03


def test_mobilenet_version_1_with_a_block_replaced():
    """One of the five 512 → 512 blocks at 14×14: 4.2 M and 569 M become 3.9 M and 517 M."""
    x, model = torch.randn(1, 3, 224, 224), timm.create_model("mobilenetv1_100")
    full = profile(model, x)
    slim = profile(replace(model, "ulsam", at="blocks.3.3"), x)
    assert [round(n / 1e6, 1) for n in (full.parameters, slim.parameters)] == [4.2, 4.0]
    assert (full.parameters - slim.parameters) == 512 * 512 + 512 * 9 + 4 * 512 - 2572
    assert [round(n / 1e6) for n in (full.macs, slim.macs)] == [569, 517]


@pytest.mark.parametrize(("variant", "factor"), [("T", 7), ("B", 9), ("S", 42), ("L", 58)])
def test_parameters_of_ela_in_a_residual_network(variant, factor):
    model = tv.resnet18()
    bare = profile(model, X[:1])
    core_attention.insert(model, "ela", after="layer*.bn2", variant=variant)
    full = profile(model, X[:1])
    channels = 2 * (64 + 128 + 256 + 512)
    assert full.parameters - bare.parameters == factor * channels
    kernel = {7: 5, 9: 7, 42: 40, 58: 56}[factor]  # K · C / groups
    sides = [8, 8, 4, 4, 2, 2, 1, 1]
    strips = sum(2 * side * c for side, c in zip(sides, [64, 64, 128, 128, 256, 256, 512, 512], strict=True))
    assert full.macs - bare.macs == kernel * strips


def test_profile_restores_the_mode_and_counts_shared_parameters_once():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.BatchNorm1d(4), layer)
    cost = profile(model, torch.randn(1, 4))
    assert (cost.parameters, cost.macs) == (28, 32)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("after", ["features.3.conv.1", "features.3.conv.1.1", "features.3", "features.3.conv"])
def test_attention_runs_once_whatever_holds_it(after):
    """A Sequential runs its children by itself; others do not."""

    class Closed(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.runs = 0

        def forward(self, x):
            self.runs += 1
            return 0 * x

    model = tv.mobilenet_v2().eval()
    before = model(X)
    core_attention.insert(model, Closed, after=after)
    after_it = model(X)
    assert model.get_submodule(f"{after}.closed").runs == 1
    assert not torch.equal(after_it, before)
    core_attention.remove(model)
    assert torch.equal(model(X), before)


def test_a_second_attention_does_not_look_at_the_first():
    model = tv.mobilenet_v2().eval()
    core_attention.insert(model, "cbam", after="depthwise")  # its last convolution has one channel
    core_attention.insert(model, "coordinate", after="residual")  # it has norms of its own
    before = places(model)
    core_attention.insert(model, "ela", after="depthwise", strict=False)
    channels = {one.place: one.channels for one in core_attention.inserted(model) if one.name == "cbam"}
    assert {one.place: one.channels for one in core_attention.inserted(model) if one.name == "ela"} == channels
    assert places(model) == before == places(tv.mobilenet_v2())
    assert model(X).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripting_says_what_works_instead(resnet):
    core_attention.insert(resnet, "ela", after="layer1.0.bn2")
    with pytest.raises(AttributeError, match=r"torch\.jit\.script cannot read .* 'ela'.*torch\.export"):
        torch.jit.script(resnet)
    torch.jit.script(core_attention.remove(resnet))


def test_containers_are_refused():
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Conv2d(3, 4, 1)])})
    with pytest.raises(ValueError, match="a is a ModuleList, a container"):
        core_attention.insert(model, "se", after="a")
