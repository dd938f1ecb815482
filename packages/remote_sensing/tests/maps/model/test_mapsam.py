"""MapSAM: adapters, prompts, masked attention, checkpoints; the acceptance checks of the specification."""

import dataclasses

import pytest
import torch
from torch import nn

from core_attention.systems import StateError
from remote_sensing.maps.metrics import image_measures
from remote_sensing.maps.model.checkpoints import adapter_state, load_adapter, load_sam, save_adapter
from remote_sensing.maps.model.dora import DoRAQKV
from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig, mapsam_config, pick_points, semantic_vector
from remote_sensing.maps.model.sam import Sam, SamConfig, decoder_attention

SMALL = MapSamConfig(
    image_size=64,
    embed_dim=24,
    depth=10,
    num_heads=2,
    mlp_ratio=2.0,
    global_attn_indexes=(4, 9),
    window_size=3,
    prompt_dim=32,
    mask_in_chans=8,
    decoder_mlp_dim=48,
    decoder_heads=4,
    iou_head_hidden_dim=24,
    rank=3,
)


def small(**changed) -> MapSAM:
    torch.manual_seed(0)
    return MapSAM(dataclasses.replace(SMALL, **changed)).eval()


def test_parameter_counts():
    with torch.device("meta"):
        network = MapSAM().freeze_encoder()
        assert sum(p.numel() for p in network.parameters()) == 91_158_993
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 3_880_145
        assert sum(p.numel() for p in MapSAM(mapsam_config(rank=0)).parameters()) == 90_993_105
        assert sum(p.numel() for p in network.image_encoder.parameters()) == 87_278_848 + 165_888
        assert sum(p.numel() for p in network.mask_decoder.parameters()) == 3_637_377
        assert len([k for k in network.state_dict() if k.startswith("spgen") or "lora" in k]) > 0
        assert sum(p.numel() for p in MapSAM(mapsam_config("vit_l", rank=0)).parameters()) == 308_814_033
        assert sum(p.numel() for p in MapSAM(mapsam_config("vit_h", rank=0)).parameters()) == 636_767_185
        assert len(adapter_keys(network)) == 231


def adapter_keys(network):
    from remote_sensing.maps.model.mapsam import is_adapter

    return [k for k in network.state_dict() if is_adapter(k)]


def test_adapters_start_as_nothing_and_merge_exactly():
    torch.manual_seed(0)
    linear = nn.Linear(16, 48)
    x = torch.randn(2, 5, 16)
    expected = linear(x)
    adapted = DoRAQKV(linear, rank=3)
    torch.testing.assert_close(adapted(x), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        adapted.lora_B_q.normal_()
        adapted.lora_B_v.normal_()
        adapted.m_q.mul_(1.3)
    assert not torch.allclose(adapted(x), expected)
    torch.testing.assert_close(adapted.merged()(x), adapted(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="48"):
        DoRAQKV(nn.Linear(16, 32), rank=2)


def test_only_adapters_and_heads_learn():
    network = small().train().freeze_encoder()
    made = network(torch.rand(1, 3, 64, 64))
    (made.logits.sum() + made.coarse.sum()).backward()
    for name, p in network.image_encoder.named_parameters():
        learns = name.rpartition(".")[2].startswith(("m_", "lora_"))
        assert p.requires_grad == learns
        assert (p.grad is not None) == learns, name


def test_a_batch_is_its_images_one_by_one():
    network = small(num_classes=2).double()
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    together, alone = network(x), [network(x[i : i + 1]) for i in range(3)]
    for i, one in enumerate(alone):
        torch.testing.assert_close(together.logits[i : i + 1], one.logits)
        assert torch.equal(together.points[i : i + 1], one.points)
        assert torch.equal(together.allowed[1][i : i + 1], one.allowed[1])


def test_merged_network_equals():
    network = small()
    with torch.no_grad():
        for block in network.image_encoder.blocks:
            block.attn.qkv.lora_B_q.normal_(0, 0.1)
    x = torch.rand(1, 3, 64, 64)
    expected = network(x).logits
    torch.testing.assert_close(network.merged()(x).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["double", "standard"])
def test_masked_attention_in_its_limits(dtype, form):
    from segment_anything.modeling.transformer import Attention

    torch.manual_seed(0)
    layer = Attention(16, 4, 2).to(dtype)
    q, k, v = (torch.randn(2, n, 16).to(dtype) for n in (7, 25, 25))
    nothing = torch.zeros(2, 25, dtype=torch.bool)
    made = decoder_attention(layer, q, k, v, nothing, form)
    assert bool(made.isfinite().all())
    plain = decoder_attention(layer, q, k, v)
    loose = {"rtol": 2e-2, "atol": 2e-2} if dtype in (torch.float16, torch.bfloat16) else {}
    if form == "standard":
        torch.testing.assert_close(made, plain, **loose)
        torch.testing.assert_close(decoder_attention(layer, q, k, v, ~nothing, form), plain, **loose)
    else:
        uniform = layer.out_proj(layer.v_proj(v).mean(1, keepdim=True)).expand_as(made)
        torch.testing.assert_close(made, uniform, **(loose or {"rtol": 1e-5, "atol": 1e-6}))
    with pytest.raises(ValueError, match="form"):
        decoder_attention(layer, q, k, v, nothing, "other")


def test_points_break_ties_toward_the_first():
    flat = torch.zeros(1, 1, 4, 5)
    points, labels = pick_points(flat)
    assert points[0].tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]]
    flat[0, 0, 2, 3], flat[0, 0, 3, 1] = 2, 2
    flat[0, 0, 1, 4] = -1
    points, labels = pick_points(flat)
    assert points[0].tolist() == [[3, 2], [1, 3], [4, 1], [0, 0]]
    assert labels.tolist() == [[1, 1, 0, 0]]


def test_no_foreground_has_no_semantic_vector():
    embedding = torch.randn(2, 8, 3, 3)
    coarse = torch.full((2, 1, 3, 3), -1.0)
    coarse[1, 0, 1, 2] = 1
    made = semantic_vector(embedding, coarse)
    assert torch.equal(made[0], torch.zeros(1, 8))
    torch.testing.assert_close(made[1, 0], embedding[1, :, 1, 2])


def sam_state(variant="vit_b", size=1024):
    """A state dict of SAM's shapes without its weights."""
    from remote_sensing.maps.model.sam import VARIANTS

    with torch.device("meta"):
        shapes = Sam(SamConfig(image_size=size, **VARIANTS[variant])).state_dict()
    return {k: torch.zeros(1).expand(v.shape) for k, v in shapes.items()}


@pytest.mark.parametrize("variant", ["vit_b", "vit_l", "vit_h"])
@pytest.mark.parametrize("size", [512, 1024])
def test_sam_checkpoints_have_a_place_for_every_key(variant, size):
    """On the meta device: which keys go where, and their shapes at both sizes."""
    from remote_sensing.maps.model.checkpoints import resized_tables

    config = mapsam_config(variant, image_size=size)
    with torch.device("meta"):
        ours = {k: v.shape for k, v in MapSAM(config).state_dict().items()}
    given = resized_tables(sam_state(variant), size // 16, config.global_attn_indexes)
    new = ("mask_decoder.mask_tokens.", "mask_decoder.output_hypernetworks_mlps.", "mask_decoder.iou_prediction_head.")
    assert all(ours[k] == v.shape for k, v in given.items() if not k.startswith(new))


def small_sam(size=128) -> Sam:
    names = {f.name for f in dataclasses.fields(SamConfig)} & {f.name for f in dataclasses.fields(SMALL)}
    sizes = {n: getattr(SMALL, n) for n in names - {"image_size", "pixel_mean", "pixel_std"}}
    torch.manual_seed(1)
    return Sam(SamConfig(image_size=size, **sizes)).eval()


def test_a_sam_checkpoint_starts_mapsam_as_plain_sam(tmp_path):
    sam = small_sam(64)
    network = small()
    load_sam(network, {f"module.{k}": v for k, v in sam.state_dict().items()})
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network(x).embedding, sam.embed(x), rtol=1e-4, atol=1e-5)
    larger = small_sam(128)
    load_sam(network, larger.state_dict(), init_mask_token="sam0")
    assert torch.equal(network.mask_decoder.mask_tokens.weight[0], larger.mask_decoder.mask_tokens.weight[0])
    window = "image_encoder.blocks.1.attn.rel_pos_h"
    assert torch.equal(network.state_dict()[window], larger.state_dict()[window])
    state = larger.state_dict()
    state["image_encoder.extra"] = torch.zeros(1)
    state.pop("image_encoder.neck.0.weight")
    with pytest.raises(StateError, match=r"missing image_encoder\.neck\.0\.weight; unexpected image_encoder\.extra"):
        load_sam(network, state)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_adapter_files_round_trip(tmp_path, ending):
    network, other = small(), small()
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.01 * torch.randn_like(p))
    path = save_adapter(network, tmp_path / f"adapter{ending}")
    load_adapter(other, path)
    assert all(torch.equal(v, adapter_state(other)[k]) for k, v in adapter_state(network).items())
    state = {f"module.sam.{k}": v for k, v in adapter_state(network).items()}
    load_adapter(other, state)
    with pytest.raises(StateError, match="missing"):
        load_adapter(other, dict(list(state.items())[1:]))


@pytest.mark.parametrize("size", [(65, 64), (64, 80)])
def test_images_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match="64 × 64"):
        small()(torch.rand(1, 3, *size))
    with pytest.raises(ValueError, match="16"):
        MapSAM(dataclasses.replace(SMALL, image_size=50))
    with pytest.raises(ValueError, match="10 blocks"):
        MapSAM(dataclasses.replace(SMALL, depth=8))


def test_encoder_attention_a_few_rows_at_a_time_is_the_same(monkeypatch):
    from remote_sensing.maps.model import sam

    network = small()
    x = torch.rand(1, 3, 64, 64)
    expected = network(x).embedding
    monkeypatch.setattr(sam, "_BIAS_ELEMENTS", 1)
    torch.testing.assert_close(network(x).embedding, expected)


def test_measures_of_empty_images():
    none, some = torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4, dtype=torch.long)
    assert image_measures(none, none)[0].tolist() == [0, 0, 0, 0]
    assert image_measures(none, none, empty="one")[0].tolist() == [1, 1, 1, 1]
    assert bool(image_measures(none, none, empty="skip").isnan().all())
    assert image_measures(some, some)[0].tolist() == [1, 1, 1, 1]
