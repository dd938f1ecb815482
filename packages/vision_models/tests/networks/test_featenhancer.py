"""The enhancer, and detectors behind it."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from vision_models.networks.featenhancer import EnhancedDetector, FeatEnHancer
from vision_models.networks.featenhancer.official import layouts
from vision_models.networks.layouts import read_checkpoint


class TinyBackbone(nn.Module):
    """One convolution of stride 16, in place of a network."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def fcos() -> FCOS:
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    return FCOS(TinyBackbone(), num_classes=3, anchor_generator=anchors, min_size=64, max_size=96, score_thresh=0.0)


def pictures() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two pictures of different sizes, with a box each."""
    images = [torch.rand(3, 48, 70), torch.rand(3, 64, 40)]
    targets = [{"boxes": torch.tensor([[4.0, 6.0, 30.0, 40.0]]), "labels": torch.tensor([1])} for _ in images]
    return images, targets


def identical(enhancer: FeatEnHancer) -> FeatEnHancer:
    """An enhancer that corrects nothing."""
    nn.init.zeros_(enhancer.ue_conv9.weight)
    nn.init.zeros_(enhancer.ue_conv9.bias)
    return enhancer


def by_concatenation(model: FeatEnHancer, x: torch.Tensor) -> torch.Tensor:
    """The network as the paper draws it, with every pair of maps side by side."""
    relu, cat = nn.functional.relu, torch.cat

    def features(x: torch.Tensor) -> torch.Tensor:
        f1 = relu(model.e_conv1(x))
        f2 = relu(model.e_conv2(f1))
        f3 = relu(model.e_conv3(f2))
        f4 = relu(model.e_conv4(f3))
        f5 = relu(model.e_conv5(cat([f3, f4], 1)))
        f6 = relu(model.e_conv6(cat([f2, f5], 1)))
        return model.e_conv7(cat([f1, f6], 1))

    quarter = model.quarter_conv(x)
    eighth = features(model.hexa_conv(quarter))
    full = model.scale_aware_aggregation(relu(features(x)), relu(features(quarter)))
    skip = nn.functional.interpolate(eighth, size=x.shape[2:], mode="bilinear", align_corners=True)
    steps = model.ue_conv9(model.ue_conv8(cat([full, skip], 1))).tanh()
    return x + sum(steps.split(3, 1))


@pytest.mark.parametrize("size", [(15, 15), (33, 128), (40, 52)])
def test_shapes_are_kept_and_the_form_without_copies_is_the_same(size):
    model, x = FeatEnHancer(bounded_start=False), torch.rand(2, 3, *size)
    y = model(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, by_concatenation(model, x))


def test_gradients_are_those_of_the_plain_form():
    model, x = FeatEnHancer(bounded_start=False), torch.rand(1, 3, 20, 24)
    gradients = []
    for run in (model, lambda x: by_concatenation(model, x)):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_corrections_are_bounded_and_start_small():
    x = torch.rand(1, 3, 32, 32)
    found = FeatEnHancer(bounded_start=False).corrections(x)
    assert found.steps.shape == (1, 8, 3, 32, 32)
    assert found.steps.abs().max() <= 1
    torch.testing.assert_close(found.enhanced, x + found.steps.sum(1))
    assert (FeatEnHancer()(x) - x).abs().max() < 1
    assert torch.equal(identical(FeatEnHancer())(x), x)


def test_small_pictures_and_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"at least 15 × 15 pixels, got \(1, 3, 14, 20\)"):
        FeatEnHancer()(torch.rand(1, 3, 14, 20))
    with pytest.raises(ValueError, match=r"batch, 3, height"):
        FeatEnHancer()(torch.rand(1, 4, 20, 20))
    with pytest.raises(ValueError, match="24 channels of the corrections, got 5"):
        FeatEnHancer(5)
    assert FeatEnHancer(4)(torch.rand(1, 4, 20, 20)).shape == (1, 4, 20, 20)


def test_it_is_built_on_the_cpu_and_computes_where_it_is_moved():
    model = FeatEnHancer()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert model.to("meta")(torch.empty(1, 3, 16, 20, device="meta")).device.type == "meta"
    assert model.to_empty(device="cpu").double()(torch.zeros(1, 3, 16, 20).double()).dtype == torch.float64


def test_pictures_of_a_batch_do_not_see_each_other():
    model, x = FeatEnHancer(), torch.rand(3, 3, 24, 32)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_the_enhancer_of_a_detectors_checkpoint_is_found():
    source, model = FeatEnHancer(bounded_start=False), FeatEnHancer()
    state = {f"feat_enhancer.{key}": tensor for key, tensor in source.state_dict().items()}
    checkpoint = {"model": state | {"backbone.stem.weight": torch.zeros(1)}}
    model.load_state_dict(read_checkpoint(checkpoint, model, layouts))
    x = torch.rand(1, 3, 20, 20)
    assert torch.equal(model(x), source(x))


def test_an_enhancer_that_corrects_nothing_changes_no_detection():
    detector = fcos().eval()
    images, _ = pictures()
    expected = detector(images)
    for enhancer in (None, identical(FeatEnHancer())):
        for ours, theirs in zip(EnhancedDetector(enhancer, detector)(images), expected, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_detector_itself_stays_as_it_was():
    detector = fcos().eval()
    images, _ = pictures()
    bare = detector(images)
    enhanced = EnhancedDetector(FeatEnHancer(bounded_start=False), detector).eval()(images)
    assert not torch.equal(enhanced[0]["scores"], bare[0]["scores"])
    assert torch.equal(detector(images)[0]["scores"], bare[0]["scores"])
    assert enhanced[0]["boxes"][:, 2].max() <= 70


def test_a_detection_loss_reaches_every_parameter_of_the_enhancer():
    model = EnhancedDetector(FeatEnHancer(), fcos()).train()
    images, targets = pictures()
    sum(model(images, targets).values()).backward()
    for name, parameter in model.feat_enhancer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_detectors_in_two_stages_are_taken_too():
    anchors = AnchorGenerator(((32,),), ((1.0,),))
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0"], 7, 2)
    detector = FasterRCNN(TinyBackbone(), 3, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_roi_pool=pool)
    model = EnhancedDetector(FeatEnHancer(), detector)
    images, targets = pictures()
    assert set(model.train()(images, targets)) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    assert len(model.eval()(images)) == 2


def test_padding_is_cleared_on_request():
    class Brighter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    detector = fcos().eval()
    seen = []
    detector.backbone.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images, _ = pictures()
    for clear in (False, True):
        EnhancedDetector(Brighter(), detector, clear_padding=clear)(images)
    kept, cleared = seen
    # the second picture, 64 × 40, becomes 96 × 60 in a batch that is 96 wide
    assert (kept[1, :, :, 60:] == 1).all()
    assert (cleared[1, :, :, 60:] == 0).all()
    assert torch.equal(cleared[1, :, :, :60], kept[1, :, :, :60])


def test_transformers_detectors_get_enhanced_pixel_values():
    class Detector(nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, pixel_mask=None, labels=None):
            return {"pixel_values": pixel_values, "labels": labels}

    enhancer, x = FeatEnHancer(bounded_start=False), torch.rand(1, 3, 20, 24)
    mask = torch.ones(1, 20, 24)
    mask[:, :, 20:] = 0
    model = EnhancedDetector(enhancer, Detector())
    out = model(pixel_values=x, pixel_mask=mask, labels=[7])
    assert torch.equal(out["pixel_values"], enhancer(x))
    assert out["labels"] == [7]
    cleared = EnhancedDetector(enhancer, Detector(), clear_padding=True)(x, pixel_mask=mask)["pixel_values"]
    assert torch.equal(cleared, enhancer(x) * mask[:, None])


def test_what_is_no_detector_is_refused():
    with pytest.raises(TypeError, match="Linear is no detector"):
        EnhancedDetector(FeatEnHancer(), nn.Linear(1, 1))
