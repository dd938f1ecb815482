"""Published layouts: read strictly, written back exactly; and equal to timm's networks where timm has them."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from core_attention.systems import StateError, load_strictly
from vision_models.networks import create
from vision_models.networks.catalogue import BY_NAME
from vision_models.networks.converting import layouts_of, load_checkpoint, published_state
from vision_models.networks.featenhancer import FeatEnHancer
from vision_models.networks.layouts import read_checkpoint, unwrap
from vision_models.networks.moh import dit
from vision_models.networks.registering import named


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every tensor of its state drawn anew, so that two that are mixed up are noticed."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.05)
    return model.eval()


def test_every_layout_is_read_and_written_exactly(name, options):
    model = randomised(create(name, num_classes=5, in_chans=3, **options))
    x = torch.randn(1, 3, 64, 64)
    for layout in layouts_of(name, model):
        state = published_state(name, model, layout.name)
        fresh = create(name, num_classes=5, **options)
        load_strictly(fresh, read_checkpoint(state, fresh, named(BY_NAME[name].layouts)))
        again = published_state(name, fresh, layout.name)
        assert state.keys() == again.keys(), layout.name
        assert all(torch.equal(state[key], again[key]) for key in state), layout.name
        if not any(layout.lacks(key) for key in model.state_dict()):
            torch.testing.assert_close(fresh.eval()(x), model(x), msg=layout.name)


def test_a_file_says_how_many_classes_and_channels_it_has(small, tmp_path):
    name, options = "biformer_stl_nchw", small["biformer_stl_nchw"]
    model = randomised(create(name, num_classes=6, in_chans=2, **options))
    state = published_state(name, model, "biformer_stl_nchw")
    assert state["stages.0.blocks.0.attn.qkv_linear.weight"].shape == (48, 16, 1, 1)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "biformer.safetensors")
    loaded = load_checkpoint(name, tmp_path / "biformer.safetensors", **options).eval()
    x = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


def test_training_checkpoints_give_their_averaged_weights():
    weights, averaged = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    assert unwrap({"model": weights, "model_ema": averaged, "epoch": 3}) == averaged
    assert unwrap({"state_dict": weights}) == weights
    assert unwrap({"ema": averaged, "opt": {"state": {}}, "model": weights}) == averaged


def test_training_checkpoints_of_what_is_no_backbone(tmp_path):
    sizes = {"depth": 1, "num_heads": [6], "shared": [3], "routed": [2], "input_size": 8}
    generator = randomised(dit.create("moh_dit_s2_90", **sizes))
    averaged = published_state("moh_dit_s2_90", generator, "official")
    raw = {key: torch.zeros_like(tensor) for key, tensor in averaged.items()}
    torch.save({"model": raw, "ema": averaged, "opt": {}}, tmp_path / "dit.pt")
    again = load_checkpoint("moh_dit_s2_90", tmp_path / "dit.pt", **sizes)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in generator.state_dict().items())

    enhancer = randomised(FeatEnHancer())
    for layout in ("official", "detector"):
        state = published_state("featenhancer", enhancer, layout)
        torch.save({"model": state}, tmp_path / "enhancer.pth")
        again = load_checkpoint("featenhancer", tmp_path / "enhancer.pth")
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in enhancer.state_dict().items())
    with pytest.raises(ValueError, match=r"none of our networks: .*featenhancer.*moh_dit_b2_75"):
        load_checkpoint("moh_dit_s4", tmp_path / "dit.pt")


def test_the_release_of_t2t_gives_its_averaged_weights(small, tmp_path):
    options = small["t2t_vit_t_14"]
    model = randomised(create("t2t_vit_t_14", num_classes=5, **options))
    torch.save({"state_dict_ema": published_state("t2t_vit_t_14", model, "t2t")}, tmp_path / "t2t.pth.tar")
    x = torch.randn(1, 3, 64, 64)
    again = load_checkpoint("t2t_vit_t_14", tmp_path / "t2t.pth.tar", **options).eval()
    torch.testing.assert_close(again(x), model(x))


def test_what_is_missing_or_too_much_is_named(small, tmp_path):
    name, options = "ravlt_t", small["ravlt_t"]
    model = create(name, num_classes=5, **options)
    state = published_state(name, model, "official")
    del state["layers.0.blocks.0.attn.lepe.bias"]
    save_file(state | {"some.other": torch.zeros(2)}, tmp_path / "broken.safetensors")
    with pytest.raises(StateError, match=r"missing: layers\.0\.blocks\.0\.attn\.lepe\.bias; unexpected: some\.other"):
        load_checkpoint(name, tmp_path / "broken.safetensors", **options)


def test_a_detectors_backbone_is_found_under_its_prefix(small):
    name, options = "ravlt_t", small["ravlt_t"]
    model = randomised(create(name, num_classes=5, dense=True, **options))
    state = published_state(name, model, "detector")
    assert "backbone.extra_norms.3.norm.weight" in state
    fresh = create(name, num_classes=5, dense=True, **options).eval()
    checkpoint = {"state_dict": state | {"rpn_head.rpn_conv.weight": torch.zeros(1)}}
    load_strictly(fresh, read_checkpoint(checkpoint, fresh, named(BY_NAME[name].layouts)))
    x = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(fresh(x), model(x), strict=True):
        assert torch.equal(ours, theirs)


def test_a_dense_deit_lacks_exactly_the_predictors():
    model = create("sparsifiner_s", num_classes=5, embed_dim=24, depth=2, num_heads=3, img_size=64)
    deit = timm.create_model("deit_small_patch16_224", num_classes=5, embed_dim=24, depth=2, num_heads=3, img_size=64)
    missing = model.state_dict().keys() - deit.state_dict().keys()
    assert missing == {key for key in model.state_dict() if "mask_predictor" in key}
    own = {key: tensor.clone() for key, tensor in model.state_dict().items() if key in missing}
    load_strictly(model, read_checkpoint({"model": deit.state_dict()}, model, named(BY_NAME["sparsifiner_s"].layouts)))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[key] if key in own else deit.state_dict()[key]), key


PAIRS = {
    "suite_davit_tiny": ("davit_tiny", "timm"),
    "suite_davit_base_fl": ("davit_base_fl", "timm_named"),
    "suite_mambaout_femto": ("mambaout_femto", "timm"),
    "suite_mambaout_base_wide_rw": ("mambaout_base_wide_rw", "timm"),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", [(64, 64), (75, 54)])
def test_the_same_weights_give_timms_scores(name, size, small):
    peer, layout = PAIRS[name]
    ours = randomised(create(name, num_classes=5, **small[name]))
    theirs = timm.create_model(peer, num_classes=5, **small[name]).eval()
    theirs.load_state_dict(published_state(name, ours, layout))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    maps = zip(ours.forward_intermediates(x)[1], theirs.forward_intermediates(x)[1], strict=True)
    for one, other in maps:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_timm_reads_what_is_written_for_florence(small):
    from timm.models.davit import _convert_florence2

    ours = randomised(create("suite_davit_base_fl", num_classes=0, **small["suite_davit_base_fl"]))
    theirs = timm.create_model("davit_base_fl", **small["suite_davit_base_fl"]).eval()
    state = published_state("suite_davit_base_fl", ours, "florence2")
    missing, unexpected = theirs.load_state_dict(_convert_florence2(state, theirs), strict=False)
    assert set(missing) == {"head.norm.weight", "head.norm.bias"}
    assert not unexpected
    x = torch.randn(1, 3, 75, 54)
    torch.testing.assert_close(ours.forward_features(x), theirs.forward_features(x), rtol=1e-4, atol=1e-5)
