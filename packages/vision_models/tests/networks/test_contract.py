"""What timm asks of a network, asked of every family at a small size."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import vision_models  # noqa: F401 - registers the networks
from vision_models.networks import create, names


def is_plain(name: str) -> bool:
    return name.startswith(("dhvt", "sparsifiner", "t2t"))


@pytest.mark.parametrize("size", [(64, 64), (75, 52)])
def test_any_size_classes_and_channels(name, options, size):
    model = create(name, num_classes=7, in_chans=4, **options).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 4, *size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_features_only_gives_the_maps_of_the_stages(name, options):
    model = timm.create_model(name, features_only=True, **options).eval()
    maps = model(torch.randn(2, 3, 80, 64))
    assert len(maps) == (5 if "ulsam" in name else 3 if is_plain(name) else 4)
    for out, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        side = [math.ceil(80 / reduction), math.ceil(64 / reduction)]
        assert out.shape == (2, channels, *side)
    if not is_plain(name) and "ulsam" not in name:
        assert model.feature_info.reduction() == [4, 8, 16, 32]


def test_sizes_are_rounded_up(name, options):
    if is_plain(name):
        return  # their patches are cut without overlap, and the rest is left out
    model = timm.create_model(name, features_only=True, **options).eval()
    for out, reduction in zip(model(torch.randn(1, 3, 33, 70)), model.feature_info.reduction(), strict=True):
        assert out.shape[2:] == (math.ceil(33 / reduction), math.ceil(70 / reduction))


def test_chosen_features_leave_out_what_comes_after(name, options):
    whole = timm.create_model(name, **options).eval()
    model = timm.create_model(name, features_only=True, out_indices=[0], **options).eval()
    model.model.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    (out,) = model(x)
    assert torch.equal(out, whole.forward_intermediates(x, indices=[0], intermediates_only=True)[0])
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


def test_intermediates_end_where_the_head_begins(name, options):
    model = timm.create_model(name, num_classes=5, **options).eval()
    x = torch.randn(2, 3, 64, 48)
    last, maps = model.forward_intermediates(x)
    torch.testing.assert_close(model.forward_head(last), model(x))
    torch.testing.assert_close(last, model.forward_features(x))
    early = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early[0], maps[0])
    with pytest.raises((ValueError, AssertionError), match=r"[Oo]utput"):
        model.forward_intermediates(x, output_fmt="CHWN")


def test_the_classifier_can_be_replaced_and_taken_away(name, options):
    model = timm.create_model(name, num_classes=5, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), hidden)
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    assert model.num_classes == 9
    assert isinstance(model.get_classifier(), torch.nn.Linear | torch.nn.Conv2d)
    model.reset_classifier(0, "")
    assert model(x).ndim == (3 if is_plain(name) else 4)


def test_checkpointing_changes_no_gradient(name, options):
    model = timm.create_model(name, num_classes=3, **options).train()
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enabled)
        model(x).square().sum().backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][key], gradient, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_channels_last_and_bf16_change_little(name, options):
    model = timm.create_model(name, num_classes=3, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = model(x)
        fast = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.isfinite().all()
    # what these choose may be other regions, keys or heads; and MobileNetV2 without training magnifies
    if not name.startswith(("biformer", "sparsifiner", "moh", "mobilenet")):
        torch.testing.assert_close(half.float(), plain, rtol=0.1, atol=0.1)


def test_a_local_folder_restores_the_network(name, options, tmp_path):
    model = timm.create_model(name, num_classes=4, **options).eval()
    config = {"architecture": name, "num_classes": 4, "model_args": json.loads(json.dumps(options))}
    config["pretrained_cfg"] = {
        "num_classes": 4,
        "input_size": [3, 64, 64],
        "first_conv": None,
        "classifier": model.pretrained_cfg["classifier"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))
    assert loaded.num_classes == 4


def test_the_learning_rate_can_decay_from_layer_to_layer(name, options):
    from timm.optim import param_groups_layer_decay

    model = timm.create_model(name, num_classes=3, **options)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    order = [scales[id(parameter)] for parameter in model.get_classifier().parameters()]
    assert set(order) == {1.0} == {max(scales.values())}
    assert min(scales.values()) == scales[id(next(model.parameters()))] < 0.5


def test_tokens_and_tables_do_not_decay(name, options):
    model = timm.create_model(name, num_classes=3, **options)
    if "ulsam" in name:
        return  # timm's own network
    undecayed = model.no_weight_decay()
    assert undecayed <= {name for name, _ in model.named_parameters()}
    if is_plain(name):
        assert "cls_token" in undecayed
    elif name.startswith("moh"):
        kinds = ("query_embedding", "relative_pos_bias_local", "cpb_fc1.weight", "temperature")
        assert all(any(kind in entry for entry in undecayed) for kind in kinds)
    else:
        assert not undecayed


def test_other_pictures_are_refused_with_their_shape(name, options):
    if "ulsam" in name:
        return  # timm's own network
    model = create(name, num_classes=3, **options)
    with pytest.raises(ValueError, match=r"\(2, 1, 64, 64\)"):
        model(torch.randn(2, 1, 64, 64))


# MoH-ViT computes coordinates from numbers, which tensors without numbers do not have
@pytest.mark.slow
@pytest.mark.parametrize("published", [name for name in names() if not name.startswith("moh")])
def test_every_published_size_keeps_the_contract(published):
    with FakeTensorMode(), torch.no_grad():
        model = timm.create_model(published, num_classes=7, in_chans=1).eval()
        assert model(torch.empty(2, 1, 224, 192)).shape == (2, 7)
        features = timm.create_model(published, features_only=True).eval()
        channels, reductions = features.feature_info.channels(), features.feature_info.reduction()
        for out, width, reduction in zip(features(torch.empty(2, 3, 224, 192)), channels, reductions, strict=True):
            assert out.shape == (2, width, 224 // reduction, 192 // reduction)


@pytest.mark.slow
def test_exported_for_any_batch_they_are_the_same(small):
    script = Path(__file__).with_name("exporting.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} ok" for name in small]


@pytest.mark.slow
def test_onnx_files_for_any_batch_are_the_same(small):
    pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    script = Path(__file__).with_name("exporting.py")
    done = subprocess.run([sys.executable, "-W", "ignore", script, "onnx"], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.endswith("ok")] == [f"{name} ok" for name in small]
