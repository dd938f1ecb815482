"""VMoBA inside diffusers' Wan, on tiny random models."""

import json
import math

import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from core_runtime.videos import open_video
from vision_models.video.chunks import auto_chunks
from vision_models.video.commands.contrast import ClipOptions, contrast
from vision_models.video.commands.profile import profile
from vision_models.video.flops import PUBLISHED, count_flops, grid_of
from vision_models.video.latents import StandIn, codec_of, image_condition, read_clip
from vision_models.video.model import load_transformer
from vision_models.video.options import VMoBAOptions
from vision_models.video.recipe import NetworkOptions
from vision_models.video.wan import VMoBAProcessor, apply_vmoba, attention_report, remove_vmoba

diffusers = pytest.importorskip("diffusers", reason="the extra 'video' is not installed")
SIZES = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
}
SIZES |= {"text_dim": 8, "freq_dim": 16, "ffn_dim": 32, "num_layers": 4, "rope_max_seq_len": 64}


@pytest.fixture
def wan():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(**SIZES).eval()


def latents(time=6, height=12, width=16, batch=1):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, time, height, width, generator=generator)
    return x, torch.full((batch,), 500.0), torch.randn(batch, 5, 8, generator=generator)


def run(model, *inputs, **named):
    with torch.inference_mode():
        return model(*inputs, return_dict=False, **named)[0]


def test_all_blocks_are_full_attention(wan):
    inputs = latents()
    full = run(wan, *inputs)
    torch.testing.assert_close(run(apply_vmoba(wan, VMoBAOptions(tau=1.0)), *inputs), full, atol=1e-5, rtol=1e-4)
    few = run(apply_vmoba(wan, VMoBAOptions(tau=0.1)), *inputs)
    assert (few - full).norm() > 1e-3 * full.norm()
    torch.testing.assert_close(run(remove_vmoba(wan), *inputs), full, atol=0, rtol=0)


def test_only_self_attention_changes_and_no_weight(wan):
    before = {name: tensor.clone() for name, tensor in wan.state_dict().items()}
    own = [type(block.attn2.processor) for block in wan.blocks]
    apply_vmoba(wan)
    assert all(isinstance(block.attn1.processor, VMoBAProcessor) for block in wan.blocks)
    assert [type(block.attn2.processor) for block in wan.blocks] == own
    assert wan.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in wan.state_dict().items())


def test_image_to_video_keeps_its_image_branch():
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(**SIZES, image_dim=6, added_kv_proj_dim=48).eval()
    x, timestep, _ = latents()
    text, image = torch.randn(1, 512, 8), torch.randn(1, 9, 6)  # the image's keys stand before 512 of text
    full = run(model, x, timestep, text, encoder_hidden_states_image=image)
    apply_vmoba(model, VMoBAOptions(tau=1.0))
    ours = run(model, x, timestep, text, encoder_hidden_states_image=image)
    torch.testing.assert_close(ours, full, atol=1e-5, rtol=1e-4)
    other = run(model, x, timestep, text, encoder_hidden_states_image=image + 1)
    assert not torch.allclose(other, ours)


def test_timesteps_for_every_token_of_wan_2_2(wan):
    x, _, text = latents()
    by_token = torch.full((1, 6 * 6 * 8), 500.0)
    full = run(wan, x, by_token, text)
    torch.testing.assert_close(
        run(apply_vmoba(wan, VMoBAOptions(tau=1.0)), x, by_token, text), full, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("sides", [(5, 14, 22), (3, 10, 26), (1, 8, 8)])
def test_grids_that_no_block_divides(wan, sides):
    inputs = latents(*sides)
    full = run(wan, *inputs)
    torch.testing.assert_close(run(apply_vmoba(wan, VMoBAOptions(tau=1.0)), *inputs), full, atol=1e-5, rtol=1e-4)
    assert torch.isfinite(run(apply_vmoba(wan, VMoBAOptions(chunks="2/4x4/2x4x4")), *inputs)).all()


def test_each_forward_reads_its_own_grid(wan):
    apply_vmoba(wan, VMoBAOptions(tau=0.2))
    wide, tall = latents(4, 8, 16), latents(4, 16, 8)  # as many tokens, other grids
    first = run(wan, *wide)
    run(wan, *tall)
    torch.testing.assert_close(run(wan, *wide), first, atol=0, rtol=0)


def test_a_second_sample_changes_nothing(wan):
    apply_vmoba(wan, VMoBAOptions(tau=0.2))
    both = latents(batch=2)
    alone = tuple(part[:1] for part in both)
    torch.testing.assert_close(run(wan, *both)[:1], run(wan, *alone), atol=1e-5, rtol=1e-4)


def test_dense_steps_layers_and_lengths(wan):
    inputs = latents()
    full = run(wan, *inputs)
    for options in (VMoBAOptions(tau=0.1, dense_layers=4), VMoBAOptions(tau=0.1, full_below=10_000)):
        torch.testing.assert_close(run(apply_vmoba(wan, options), *inputs), full)
    apply_vmoba(wan, VMoBAOptions(tau=0.1, dense_steps=2))
    x, _, text = inputs
    outputs = []
    for moment in (900.0, 900.0, 700.0, 500.0, 900.0):  # guidance calls twice; a greater one begins anew
        outputs.append(run(wan, x, torch.tensor([moment]), text))
    remove_vmoba(wan)
    for moment, output, dense in zip((900.0, 900.0, 700.0, 500.0, 900.0), outputs, (1, 1, 1, 0, 1), strict=True):
        same = torch.allclose(run(wan, x, torch.tensor([moment]), text), output, atol=1e-6)
        assert same == bool(dense), moment


def test_gradients_go_through_and_fused_projections_give_the_same(wan):
    inputs = latents()
    apply_vmoba(wan, VMoBAOptions(tau=0.3))
    wan(*inputs, return_dict=False)[0].square().mean().backward()
    assert all(block.attn1.to_q.weight.grad.abs().sum() > 0 for block in wan.blocks)
    apart = run(wan, *inputs)
    for block in wan.blocks:
        block.attn1.fuse_projections()
    torch.testing.assert_close(run(wan, *inputs), apart, atol=1e-5, rtol=1e-4)


def test_the_report_falls_with_tau(wan):
    inputs = latents()
    rows = [attention_report(apply_vmoba(wan, VMoBAOptions(tau=tau)), *inputs) for tau in (0.1, 0.4, 0.8, 1.0)]
    for layer in range(4):
        densities = [report[layer].density for report in rows]
        assert densities == sorted(densities)
        assert densities[0] >= 1 / rows[0][layer].blocks - 1e-6
        assert rows[2][layer].recall > rows[0][layer].recall
        assert rows[3][layer].error == 0


def test_layers_take_the_chunks_in_turn(wan):
    report = attention_report(apply_vmoba(wan, VMoBAOptions(tau=0.2, chunks="1/2x2/1x2x2")), *latents())
    chunks = [row.chunk for row in report]
    assert len(set(map(str, chunks[:3]))) == 3
    assert chunks[3] == chunks[0]


def test_other_models_are_refused():
    with pytest.raises(UserError, match="not built like Wan"):
        apply_vmoba(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="not applied"):
        attention_report(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="--chunks"):
        VMoBAOptions(chunks="2/4x/1")


PAPER = [(13440, 67.734, 40.477, 42.838, 51.166), (55296, 705.015, 243.052, 282.627, 423.549)]


@pytest.mark.parametrize("row", PAPER)
def test_the_published_table_of_operations(row):
    tokens, *expected = row
    sizes = PUBLISHED["wan2.1-t2v-1.3b"]
    counted = [count_flops(sizes, tokens, kind) / 1e12 for kind in ("full", "vmoba", "moba", "svg")]
    assert counted == pytest.approx(expected, abs=6e-4)


def test_grids_of_published_sizes_and_blocks_that_divide():
    sizes = PUBLISHED["wan2.1-t2v-1.3b"]
    assert grid_of(sizes, 93, 576, 1024) == (24, 36, 64)
    for grid in ((21, 20, 32), (24, 36, 64)):
        slab, tile, cube = auto_chunks(grid)
        assert grid[0] % slab == 0
        assert all(side % length == 0 for side, length in zip(grid[1:], tile, strict=True))
        assert all(side % length == 0 for side, length in zip(grid, cube, strict=True))
        assert 25 <= math.prod(grid) / math.prod((grid[0], *tile)) <= 60
        assert 40 <= math.prod(grid) / math.prod(cube) <= 90


PIPELINES = {
    "text to video": {"in_channels": 16, "out_channels": 16},
    "image to video": {"in_channels": 36, "out_channels": 16},
    "image to video, with the image's embedding": {
        "in_channels": 36,
        "out_channels": 16,
        "image_dim": 8,
        "added_kv_proj_dim": 48,
    },
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    pytest.importorskip("av", reason="the extra 'video' is not installed")
    from core_runtime.videos import write_video

    frames = np.zeros((8, 32, 32, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[8:16, number * 2 : number * 2 + 8] = 200
    return write_video(tmp_path_factory.mktemp("clip") / "shapes.mp4", list(frames), 8)


def contrasted(shapes, folder, tmp_path, **how):
    found = contrast(
        shapes, model=str(folder), out=tmp_path / "contrast", how=ClipOptions(steps=1, **how), device="cpu"
    )
    assert found.values["difference"] > 0
    return found


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_folder_that_diffusers_saved_is_contrasted_through_its_vae(shapes, tmp_path, kind):
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(**SIZES | {"num_layers": 2} | PIPELINES[kind])
    transformer.save_pretrained(tmp_path / "wan" / "transformer")
    vae = diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    vae.save_pretrained(tmp_path / "wan" / "vae")
    found = contrasted(shapes, tmp_path / "wan", tmp_path, frames=5, size="32x32")
    assert found.values["grid"] == [2, 2, 2]
    assert ("first frame" in found.values["note"]) == kind.startswith("image")
    assert "projection" not in found.values["note"]
    assert open_video(found.files["VMoBA"]).height == 256


def test_without_a_vae_a_projection_stands_in_and_is_said(shapes, tmp_path):
    diffusers.WanTransformer3DModel(**SIZES | {"num_layers": 1} | PIPELINES["text to video"]).save_pretrained(
        tmp_path / "wan"
    )
    found = contrasted(shapes, tmp_path / "wan", tmp_path, frames=5, size="32x32")
    assert "a fixed projection stands in for the VAE" in found.values["note"]
    with pytest.raises(UserError, match="no latents of this Wan") as error:
        contrast(shapes, model=str(tmp_path / "wan"), out=tmp_path / "odd", how=ClipOptions(frames=6, size="40x33"))
    assert error.value.hint == "--frames 5 --size 32x32"


def test_a_clip_with_too_few_frames_is_refused(shapes):
    assert read_clip(shapes, 8, 32, 32).shape == (8, 32, 32, 3)
    with pytest.raises(UserError, match="has 8 frames, 9 are needed"):
        read_clip(shapes, 9, 32, 32)


def test_a_vae_of_another_pipeline_is_refused(tmp_path):
    own = {"z_dim": 8, "latents_mean": [0.0] * 8, "latents_std": [1.0] * 8}
    vae = diffusers.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **own)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="makes 8 channels, the transformer takes 16"):
        codec_of(tmp_path, 16)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_layers", "3", "num_layers is '3', expected a whole number"),
        ("num_layers", -1, "num_layers is -1, expected at least 1"),
        ("ffn_dim", None, "the field ffn_dim is missing"),
        ("in_channels", 4.5, "in_channels is 4.5"),
        ("patch_size", [1, 0, 2], r"patch_size is \[1, 0, 2\], expected three whole numbers above 0"),
        ("patch_size", "2", "patch_size is '2', expected a list"),
    ],
)
def test_fields_of_a_config_that_cannot_be_are_named(tmp_path, field, value, words):
    said = {"_class_name": "WanTransformer3DModel", **SIZES, field: value}
    (tmp_path / "config.json").write_text(json.dumps(said))
    for use in (lambda path: profile(str(path)), load_transformer):
        with pytest.raises(UserError, match=words):
            use(tmp_path)


@pytest.mark.parametrize(
    ("size", "frames", "words"),
    [("15x16", 1, "no token"), ("99999x99999", 99999, "976,250,025,000 tokens"), ("²x3", 5, "is not understood")],
)
def test_sizes_that_nothing_can_be_said_of_are_refused(size, frames, words):
    with pytest.raises(UserError, match=words):
        profile("wan2.1-t2v-1.3b", size=size, frames=frames)


def test_what_a_size_leaves_out_is_said():
    notes = profile("wan2.1-t2v-1.3b", size="837x481", frames=80).values["notes"]
    assert any("80 frames" in note for note in notes)
    assert sum("is not a multiple of 16" in note for note in notes) == 2


@pytest.mark.parametrize("odd", [{"height": 9}, {"width": 33}, {"head_dim": 25}])
def test_a_network_of_odd_sides_is_refused(odd):
    with pytest.raises(UserError, match="is odd"):
        NetworkOptions(**odd)


def test_the_image_stands_first_beside_the_latents():
    clip = np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32)
    codec = StandIn(16)
    latents = codec.encode(clip)
    beside = image_condition(codec, clip, latents)
    assert beside.shape == (1, 20, 2, 2, 2)
    assert (beside[:, :4, 0] == 1).all()
    assert (beside[:, :4, 1:] == 0).all()
    torch.testing.assert_close(beside[:, 4:, 0], latents[:, :, 0])
