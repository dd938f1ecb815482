"""The collector on tiny FLUX, SD3 and Mochi: the model's output, whole maps sliced, and nothing left behind."""

import pytest
import torch
import torch.nn.functional as F

from core_attention import capture
from core_attention.mechanisms.refam.cross_maps import cross_map_of
from core_attention.mechanisms.refam.families import family_of, split
from core_attention.mechanisms.refam.heatmap import Accumulated, Cleaner, TextTokens, sink_table
from core_attention.mechanisms.refam.pretrained import collect, watch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flux(batch=2):
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(3.0))
    inputs = {
        "hidden_states": random(batch, 12, 8),
        "encoder_hidden_states": random(batch, 6, 12, seed=1),
        "pooled_projections": random(batch, 10, seed=2),
        "timestep": torch.full((batch,), 0.4),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": ids,
        "txt_ids": torch.zeros(6, 3),
    }
    return model.eval(), inputs, 12


def sd3(batch=2):
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    inputs = {
        "hidden_states": random(batch, 4, 6, 8),
        "encoder_hidden_states": random(batch, 5, 12, seed=1),
        "pooled_projections": random(batch, 10, seed=2),
        "timestep": torch.full((batch,), 400.0),
    }
    return model.eval(), inputs, 12


def mochi(batch=2):
    model = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=12, in_channels=4,
        text_embed_dim=16, time_embed_dim=8, max_sequence_length=6,
    )  # fmt: skip
    mask = torch.ones(batch, 6, dtype=torch.bool)
    mask[0, 4:] = False
    inputs = {
        "hidden_states": random(batch, 4, 2, 4, 6),
        "encoder_hidden_states": random(batch, 6, 16, seed=1),
        "encoder_attention_mask": mask,
        "timestep": torch.full((batch,), 400.0),
    }
    return model.eval(), inputs, 12


MODELS = {"flux": flux, "sd3": sd3, "mochi": mochi}
TOKENS = TextTokens(words=((1,), (2, 3)), magnets=(0,))


@pytest.fixture(params=MODELS)
def made(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


@torch.no_grad()
def test_streaming_equals_slicing_whole_maps_and_the_output_stays(made):
    model, inputs, image = made
    family = family_of(model)
    names = family.default_layers(model)
    stock = model(**inputs, return_dict=False)[0]
    with capture(model, layers=names) as maps:
        model(**inputs)
    cleaner = Cleaner(kappa=0.8, mode="redirect")
    with collect(model, [TOKENS, TOKENS], cleaner=cleaner, stop=False) as collected:
        watched = model(**inputs, return_dict=False)[0]
    torch.testing.assert_close(watched, stock, rtol=0, atol=2e-6)
    for sample in range(2):
        expected = Accumulated(TOKENS, cleaner)
        for name in names:
            full = maps.all(name)[sample] if family.per_sample else maps[name][sample : sample + 1]
            torch.testing.assert_close(full.sum(-1), torch.ones_like(full.sum(-1)))
            of_image, of_text = split(family, full.shape[-1], image)
            columns = cross_map_of(full, image=of_image, text=of_text)
            expected.add(name, columns.cross[0], columns.load[0])
        torch.testing.assert_close(collected[sample].cross, expected.cross, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sink_table(collected[sample]), sink_table(expected))
        assert sink_table(expected).any()


@torch.no_grad()
def test_fused_projections_change_nothing():
    torch.manual_seed(0)
    model, inputs, _ = flux()
    with collect(model, [TOKENS, TOKENS]) as before:
        model(**inputs)
    model.fuse_qkv_projections()
    with collect(model, [TOKENS, TOKENS]) as after:
        model(**inputs)
    torch.testing.assert_close(after[1].cross, before[1].cross, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_it_stops_after_the_last_layer_that_is_wanted(made):
    model, inputs, _ = made
    run = []
    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: run.append(name))
        for kind in family_of(model).layers(model)
        for name, module in [(name, model.get_submodule(name)) for name in kind]
    ]
    first = family_of(model).layers(model)[0][0]
    with collect(model, [TOKENS, TOKENS], layers=[first]):
        model(**inputs)
        pytest.fail("the model went on")
    assert len(run) == 1
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_nothing_stays_behind_even_after_an_exception(made):
    model, inputs, _ = made
    processors = [getattr(module, "processor", None) for module in model.modules()]
    function = F.scaled_dot_product_attention

    def fail():
        with collect(model, [TOKENS, TOKENS], stop=False):
            model(**inputs)
            raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"):
        fail()
    with pytest.raises((RuntimeError, AssertionError)), collect(model, [TOKENS, TOKENS], stop=False):
        model(**(inputs | {"encoder_hidden_states": torch.zeros(2, 5, 3)}))
    assert [getattr(module, "processor", None) for module in model.modules()] == processors
    assert F.scaled_dot_product_attention is function
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_several_noises_are_averaged():
    torch.manual_seed(0)
    model, inputs, _ = sd3()
    other = inputs | {"hidden_states": random(2, 4, 6, 8, seed=9)}
    with collect(model, [TOKENS, TOKENS], stop=False) as both:
        model(**inputs)
        model(**other)
    singles = []
    for given in (inputs, other):
        with collect(model, [TOKENS, TOKENS]) as one:
            model(**given)
        singles.append(one[0].cross)
    torch.testing.assert_close(both[0].cross, (singles[0] + singles[1]) / 2)


def test_what_cannot_be_read_is_refused(made):
    model, inputs, _ = made
    take = lambda layer, sample, columns: None  # noqa: E731
    with pytest.raises(ValueError, match="no joint attention layer nothing"), watch(model, take, layers=["nothing"]):
        pass
    with pytest.raises(ValueError, match="not one of the known"), watch(torch.nn.Linear(2, 2), take):
        pass
    with pytest.raises(ValueError, match="more samples"), collect(model, [TOKENS]):
        model(**inputs)
    far = TextTokens(words=((40,),))
    with pytest.raises(ValueError, match="token 40"), collect(model, [far, far]):
        model(**inputs)
