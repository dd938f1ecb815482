"""What each paper says of its network (the acceptance checks of its specification), on small ones."""

import math

import pytest
import timm
import torch
from torch import nn

from core_attention.mechanisms.ulsam.attention import ULSAM
from core_attention.parts.saying import say_once
from vision_models.networks import create
from vision_models.networks.mambaout.network import GatedCNNBlock, MambaOut, sequence_ratio
from vision_models.networks.moh.transnext import TransNeXt
from vision_models.networks.scatterbrain.network import T2TViT
from vision_models.networks.sparsifiner.network import Sparsifiner


def shared_weights(source: nn.Module, target: nn.Module) -> nn.Module:
    """The target with the weights of the source, in evaluation."""
    target.load_state_dict(source.state_dict())
    return target.eval()


# BiFormer


def test_both_codes_of_biformer_agree_where_regions_fit(small):
    options = dict(small["biformer_stl_nchw"]) | {"topks": (1, 2, 4, -1), "n_win": 2}
    masked = create("biformer_stl_nchw", num_classes=3, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    for pad_mode in ("nchw", "legacy"):
        other = shared_weights(masked, create("biformer_stl_nchw", num_classes=3, pad_mode=pad_mode, **options))
        torch.testing.assert_close(other(x), masked(x))


def test_padding_of_biformer_by_each_code_is_another(small):
    options = dict(small["biformer_tiny"]) | {"n_win": 3}
    masked = create("biformer_tiny", num_classes=3, **options).eval()
    x = torch.randn(1, 3, 64, 64)
    for pad_mode in ("nchw", "legacy"):
        other = shared_weights(masked, create("biformer_tiny", num_classes=3, pad_mode=pad_mode, **options))
        assert (other(x) - masked(x)).abs().max() > 1e-6
    refusing = shared_weights(masked, create("biformer_tiny", num_classes=3, pad_mode="refuse", **options))
    with pytest.raises(ValueError, match="multiples of n_win = 3"):
        refusing(x)


def test_biformer_with_more_regions_than_there_are_takes_them_all_and_says_so_once(small, caplog):
    say_once.cache_clear()  # other tests of this process said it too
    options = dict(small["biformer_tiny"]) | {"topks": (401, 402, 403, -2)}
    model, x = create("biformer_tiny", num_classes=3, **options).eval(), torch.randn(1, 3, 32, 32)
    assert model(x).isfinite().all()
    assert "topk = 401, but there are 16 regions: all are taken" in caplog.text
    assert "n_win = 7 regions per side of a map of 4 × 4" in caplog.text
    said = len(caplog.records)
    model(x)
    assert len(caplog.records) == said


def test_dense_biformer_normalises_outputs_alone(small):
    dense = create("biformer_tiny", num_classes=3, dense=True, **small["biformer_tiny"]).eval()
    x = torch.randn(1, 3, 64, 64)
    maps = dense(x)
    assert [out.shape[1:] for out in maps] == [(16, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)]
    for out in maps:
        torch.testing.assert_close(out.mean(1), torch.zeros_like(out[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.std(1, correction=0), torch.ones_like(out[:, 0]), atol=1e-2, rtol=0)
    with torch.no_grad():
        dense.output_norms[0].weight.fill_(3.0)  # of the first output: the stages after it do not see it
    for before, after, factor in zip(maps, dense(x), (3, 1, 1, 1), strict=True):
        torch.testing.assert_close(after, factor * before)


# DaViT


def test_a_window_over_the_whole_map_is_full_attention():
    options = {"depths": (1,), "embed_dims": (16,), "num_heads": (2,), "attention_types": ("spatial",)}
    model = create("suite_davit_tiny", num_classes=3, window_size=8, **options).eval()
    wider = shared_weights(model, create("suite_davit_tiny", num_classes=3, window_size=16, mask_pad=True, **options))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(wider(x), model(x))


def test_a_window_larger_than_the_map_is_said_once(caplog):
    options = {"depths": (1,), "embed_dims": (16,), "num_heads": (2,), "attention_types": ("spatial",)}
    model = create("suite_davit_tiny", num_classes=3, window_size=11, **options).eval()
    model(torch.randn(1, 3, 32, 40))
    model(torch.randn(1, 3, 32, 40))
    assert caplog.text.count("windows of 11 × 11 hold a map of 8 × 10 whole; its padding is seen") == 1


# MambaOut


def test_a_gated_block_without_its_last_layer_is_the_identity():
    block = GatedCNNBlock(12)
    x = torch.randn(1, 5, 6, 12)
    nn.init.zeros_(block.fc2.weight)
    nn.init.zeros_(block.fc2.bias)
    assert torch.equal(block(x), x)


def test_a_closed_gate_leaves_the_bias_alone():
    block = GatedCNNBlock(12)
    with torch.no_grad():
        block.fc1.weight[: block.split[0]].zero_()
        block.fc1.bias[: block.split[0]].zero_()
    x = torch.randn(1, 5, 6, 12)
    torch.testing.assert_close(block(x), x + block.fc2.bias)


def test_a_kernel_of_one_point_is_a_gated_mlp():
    block = GatedCNNBlock(12)
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[:, :, 3, 3] = 1
        block.conv.bias.zero_()
    x = torch.randn(1, 5, 6, 12)
    gate, value = block.fc1(block.norm(x)).chunk(2, -1)
    torch.testing.assert_close(block(x), x + block.fc2(nn.functional.gelu(gate) * value))


def test_a_gated_block_is_the_same_without_gradients():
    block, x = GatedCNNBlock(12, conv_ratio=1.5), torch.randn(1, 5, 6, 12)
    with torch.no_grad():
        inference = block(x)
    torch.testing.assert_close(block.requires_grad_(True)(x), inference)


def test_a_gated_block_sees_three_pixels_far():
    block = GatedCNNBlock(12)
    x = torch.randn(1, 15, 15, 12)
    changed = x.clone()
    changed[0, 7, 7, 0] += 1  # one channel: what all channels gain, the norm takes away
    moved = (block(changed) - block(x)).abs().amax(-1)[0] > 1e-7
    assert moved[4:11, 4:11].all()
    assert moved.sum() == 49


def test_mambaouts_features_lead_to_its_scores(small):
    model = create("suite_mambaout_femto", num_classes=5, **small["suite_mambaout_femto"]).eval()
    assert isinstance(model, MambaOut)
    x = torch.randn(1, 3, 33, 40)
    last = model.forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(model.head(model.norm(last.mean((2, 3)))), model(x))


def test_drop_path_ends_at_its_maximum():
    model = create("suite_mambaout_femto", num_classes=5, depths=(2, 1, 2, 1), dims=(8, 8, 8, 8), drop_path_rate=0.3)
    rates = [block.drop_path for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.06 * i for i in range(6)])


def test_what_is_a_long_sequence():
    assert sequence_ratio(196, 384) == pytest.approx(0.085, abs=1e-3)
    assert sequence_ratio(2305, 384) > 1 >= sequence_ratio(2304, 384)


def test_mambaout_femto_has_the_published_products():
    assert products(create("suite_mambaout_femto", num_classes=1000)) == pytest.approx(1.15e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("suite_mambaout_tiny", 4.5e9), ("suite_mambaout_base", 15.8e9)])
def test_larger_mambaouts_have_the_published_products(name, published):
    assert products(create(name, num_classes=1000)) == pytest.approx(published, rel=0.02)


def test_a_convolution_wider_than_its_layer_is_refused():
    with pytest.raises(ValueError, match="40 of 21 channels"):
        GatedCNNBlock(8, conv_ratio=5.0)


# DHVT


def test_dhvt_learns_batch_statistics_and_reads_them_in_evaluation(small):
    model = create("dhvt_tiny_cifar_patch4", num_classes=3, **small["dhvt_tiny_cifar_patch4"]).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "running_mean" in key}
    assert len(before) == 3 * 3 + 2  # three in each block, and those of the embedding
    model(torch.randn(4, 3, 32, 32))
    assert all(not torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    model.eval()
    x = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))


@pytest.mark.parametrize("patch_size", [2, 8])
def test_dhvt_takes_any_power_of_two(patch_size):
    model = create("dhvt_tiny_cifar_patch4", num_classes=3, embed_dim=32, depth=1, patch_size=patch_size).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(ValueError, match="power of two"):
        create("dhvt_tiny_cifar_patch4", num_classes=3, embed_dim=32, depth=1, patch_size=3)


def test_dhvt_is_a_deit_but_for_patches_positions_head_tokens_and_feed_forward():
    with torch.device("meta"):
        ours = dict(create("dhvt_tiny_imagenet_patch16", num_classes=1000).named_parameters())
        deit = dict(timm.create_model("deit_tiny_patch16_224").named_parameters())
    changed = ("patch_embed.", "pos_embed", ".mlp.", ".attn.ht_")

    def shared(parameters: dict) -> dict:
        return {key: p.shape for key, p in parameters.items() if not any(part in key for part in changed)}

    assert shared(ours) == shared(deit)

    def removed(parameters: dict) -> int:
        return sum(p.numel() for key, p in parameters.items() if key not in shared(parameters))

    assert sum(p.numel() for p in ours.values()) - removed(ours) + removed(deit) == 5_717_416  # DeiT-tiny


@pytest.mark.slow
def test_dhvt_fits_a_hundred_real_pictures():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images[:100], dtype=torch.float32)[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3)
    x, labels = x / 8 - 1, torch.tensor(digits.target[:100])
    model = create("dhvt_tiny_cifar_patch4", num_classes=10, in_chans=1, embed_dim=48, num_heads=4, depth=2).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    assert (model.eval()(x).argmax(1) == labels).float().mean() > 0.95


# RAVLT


def test_ravlt_of_linear_attention_alone_grows_with_the_pixels(small):
    """Four times the pixels, four times the products; with softmax in the last stages more than that."""
    model = create("ravlt_t", num_classes=0, flags=("l",) * 4, **small["ravlt_t"]).eval()
    softmax = create("ravlt_t", num_classes=0, flags=("l", "l", "v", "v"), **small["ravlt_t"]).eval()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # whose products are counted
        assert counted(model, 128) == pytest.approx(4 * counted(model, 64), rel=1e-3)
        assert counted(softmax, 256) > 4.1 * counted(softmax, 128)


def test_ravlts_attention_can_be_chosen_block_by_block(small):
    options = dict(small["ravlt_t"]) | {"depths": (1, 1, 2, 1)}
    released = create("ravlt_t", num_classes=3, **options).eval()
    mixed = shared_weights(released, create("ravlt_t", num_classes=3, flags=("l", "l", ("l", "v"), "l"), **options))
    kinds = [type(block.attn).__name__ for stage in mixed.layers for block in stage.blocks]
    linear, softmax = "GateLinearAttentionNoSilu", "VanillaSelfAttention"
    assert kinds == [linear, linear, linear, softmax, linear]
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(mixed(x), released(x))
    with pytest.raises(ValueError, match=r"'l' .* or 'v'"):
        create("ravlt_t", num_classes=3, flags=("x", "l", "v", "v"), **options)


# Sparsifiner


def deit(**options) -> nn.Module:
    return timm.create_model("deit_small_patch16_224", num_classes=5, **options).eval()


SPARSE = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 64}


def started_from(teacher: nn.Module, **options) -> Sparsifiner:
    model = create("sparsifiner_s", num_classes=5, **SPARSE, **options).eval()
    model.load_state_dict(teacher.state_dict(), strict=False)
    return model


def test_a_sparsifiner_that_keeps_all_is_the_deit_it_started_from():
    teacher = deit(**SPARSE)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(started_from(teacher, attn_keep_rate=1.0)(x), teacher(x), rtol=1e-4, atol=1e-5)


def test_warm_up_is_the_dense_network_whatever_the_predictors_say():
    teacher = deit(**SPARSE)
    x = torch.randn(2, 3, 64, 64)
    found = started_from(teacher).detailed(x, warm_up=True)
    torch.testing.assert_close(found.logits, teacher(x), rtol=1e-4, atol=1e-5)


def test_rows_have_their_budget_and_the_class_token_sees_all():
    model = create("sparsifiner_s", num_classes=5, **SPARSE).eval()
    for layer in model.detailed(torch.randn(2, 3, 64, 64)).layers:
        rows = layer.connectivity.mask.sum(-1)
        assert (rows[:, :, 0] == 17).all()
        assert (rows[:, :, 1:] == math.ceil(0.25 * 17)).all()


def test_scores_with_and_without_maps_are_the_same():
    for name in ("sparsifiner_s", "sparsifiner_lvvit_s"):
        model = create(name, num_classes=5, **SPARSE).eval()
        x = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(model.detailed(x).logits, model(x))


def test_dead_tokens_are_zero_and_samples_are_independent():
    model = create("sparsifiner_s", num_classes=5, token_keep_rates=(0.5, 0.25), **SPARSE).eval()
    x = torch.randn(3, 3, 64, 64)
    tokens, state = model.embed(x)
    for index, alive in enumerate((8, 4)):
        tokens = model.run_layer(index, tokens, state)
        assert (state.token_mask.sum(1) == alive).all()
        assert (tokens[:, 1:][~state.token_mask] == 0).all()
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_the_predictors_learn_in_their_phase_alone():
    from core_attention.mechanisms.sparsifiner.losses import reconstruction

    model = create("sparsifiner_s", num_classes=5, **SPARSE).train()
    x = torch.randn(2, 3, 64, 64)
    found = model.detailed(x, warm_up=True)
    reconstruction(
        [layer.connectivity.scores for layer in found.layers], [layer.weights for layer in found.layers]
    ).backward()
    assert all(parameter.grad is not None for parameter in model.predictor_parameters())
    model.zero_grad()
    model(x).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.predictor_parameters())


def test_another_size_resamples_the_same_way_for_a_call_and_for_good():
    model = create("sparsifiner_s", num_classes=5, **SPARSE).eval()
    x = torch.randn(1, 3, 96, 80)
    once = model(x)
    model.set_input_size((96, 80))
    assert model.blocks[0].attn.mask_predictor.num_tokens == 31
    torch.testing.assert_close(model(x), once)


def test_the_predictors_get_a_gradient_through_resampled_tables():
    model = create("sparsifiner_s", num_classes=5, **SPARSE).train()
    found = model.detailed(torch.randn(1, 3, 96, 80), warm_up=True)
    found.layers[0].connectivity.scores.sum().backward()
    assert model.blocks[0].attn.mask_predictor.proj_n.grad.any()


# MoH


def moh(small, **options) -> TransNeXt:
    model = create("moh_vit_s80", num_classes=3, **dict(small["moh_vit_s80"]) | options)
    assert isinstance(model, TransNeXt)
    return model


def test_balance_losses_come_back_by_layer(small):
    model = moh(small).train()
    logits, losses = model.forward_with_balance(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3)
    assert len(losses) == 4  # of the second, third and fourth stage
    torch.stack(losses).mean().backward()
    assert all(block.attn.router.wg.weight.grad.any() for stage in list(model.stages)[1:] for block in stage)
    without = moh(small, shared=(2, 4, 4, 6), routed=(0, 0, 0, 0))
    assert without.forward_with_balance(torch.randn(1, 3, 64, 64))[1] == []


def test_moh_at_another_size_keeps_its_coordinates(small):
    model = moh(small).eval()
    x = torch.randn(1, 3, 96, 80)
    once = model(x)
    larger = shared_weights(model, moh(small, img_size=(96, 80), pretrain_size=64))
    torch.testing.assert_close(larger(x), once)
    model.set_input_size((96, 80))
    torch.testing.assert_close(model(x), once)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Scatterbrain


def test_windows_over_everything_are_the_softmax(small):
    options = dict(small["t2t_vit_t_14"])
    full = create("t2t_vit_t_14", num_classes=3, **options).eval()
    windows = create("t2t_vit_t_14_scatterbrain", num_classes=3, windows=(600, 600), **options).eval()
    windows.load_state_dict(full.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(windows(x), full(x), rtol=1e-3, atol=1e-4)


def test_clusters_are_the_other_choice(small):
    options = dict(small["t2t_vit_t_14"])
    model = create("t2t_vit_t_14", num_classes=3, clusters=(16, 8), features=(8, 6), **options).eval()
    assert isinstance(model, T2TViT)
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(ValueError, match="give one of them"):
        create("t2t_vit_t_14", num_classes=3, windows=(8, 4), clusters=(16, 8), **options)


def test_the_published_position_table_is_sines_and_cosines():
    table = create(
        "t2t_vit_t_14", num_classes=3, embed_dim=24, depth=1, num_heads=3, token_dim=16, img_size=64
    ).pos_embed.pe[0]
    assert table.shape == (17, 24)
    torch.testing.assert_close(table[3, 2], torch.tensor(math.sin(3 / 10000 ** (2 / 24))))
    torch.testing.assert_close(table[3, 3], torch.tensor(math.cos(3 / 10000 ** (2 / 24))))


# ULSAM


def test_ulsam_stands_in_place_of_the_blocks_that_it_replaces():
    model = create("mobilenetv2_ulsam_14_17", num_classes=3)
    places = [name for name, module in model.named_modules() if isinstance(module, ULSAM)]
    assert places == ["blocks.4.2", "blocks.5.2"]
    for place, message in ((2, "changes the size or the channels"), (40, "blocks 2 to 18")):
        with pytest.raises(ValueError, match=message):
            create("mobilenetv2_ulsam_14_17", num_classes=3, replace=(place,))


def test_ulsam_saves_an_eighth_of_the_products():
    counts = [
        products(model)
        for model in (timm.create_model("mobilenetv2_100"), create("mobilenetv2_ulsam_14_17", num_classes=1000))
    ]
    assert counts[0] == pytest.approx(300e6, rel=0.01)
    assert 0.125 <= 1 - counts[1] / counts[0] <= 0.135


def products(model: nn.Module) -> int:
    """Multiply-adds at 224 pixels."""
    return counted(model.eval().to("meta"), 224)


def counted(model: nn.Module, side: int) -> int:
    """Multiply-adds of a square picture, on the model's device."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2
