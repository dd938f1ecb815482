"""Parameters and keys of the published networks, exactly."""

import pytest
import timm
import torch

from vision_models.networks.catalogue import BY_NAME
from vision_models.networks.featenhancer import FeatEnHancer
from vision_models.networks.moh import dit
from vision_models.networks.moh.variants import DITS
from vision_models.networks.registering import build, named

QUICK = ("biformer_tiny", "biformer_stl", "suite_davit_tiny", "suite_mambaout_femto", "ravlt_t", "sparsifiner_s")
# entries of the published state dicts
ENTRIES = {
    "biformer_tiny": 264,
    "biformer_small": 518,
    "biformer_base": 518,
    "biformer_stl": 201,
    "suite_davit_tiny": 212,
    "suite_davit_small": 404,
    "suite_davit_base": 404,
    "dhvt_tiny_cifar_patch4": 477,
    "suite_mambaout_femto": 172,
    "ravlt_t": 302,
    "ravlt_s": 462,
    "ravlt_b": 622,
    "ravlt_l": 822,
}
QUICK_OR_NOT = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BY_NAME]


def skeleton(name: str, **options) -> torch.nn.Module:
    with torch.device("meta"):
        return build(name, **options)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", QUICK_OR_NOT)
def test_parameters_and_entries(name):
    model = skeleton(name)
    assert parameters(model) == BY_NAME[name].variants[name].parameters
    if name in ENTRIES:
        assert len(model.state_dict()) == ENTRIES[name]


@pytest.mark.parametrize(
    "name", ["moh_dit_s2_90", *(pytest.param(n, marks=pytest.mark.slow) for n in DITS if n != "moh_dit_s2_90")]
)
def test_parameters_of_diffusion_transformers(name):
    with torch.device("meta"):
        model = dit.create(name)
    assert parameters(model) == DITS[name].parameters


def test_parameters_of_the_dense_ravlt_and_the_enhancer():
    assert parameters(skeleton("ravlt_s", dense=True)) == 24_040_896
    assert parameters(FeatEnHancer()) == 139_400


def test_parameters_of_sparsifiners_predictors():
    for name, count in (("sparsifiner_s", 201_216), ("sparsifiner_lvvit_s", 268_288)):
        assert sum(parameter.numel() for parameter in skeleton(name).predictor_parameters()) == count


# timm names of the same networks
TIMM = {
    "suite_davit_tiny": "davit_tiny",
    "suite_davit_base_fl": "davit_base_fl",
    "suite_mambaout_femto": "mambaout_femto",
    "suite_mambaout_base_wide_rw": "mambaout_base_wide_rw",
    "suite_davit_giant": "davit_giant",
    "suite_davit_huge_fl": "davit_huge_fl",
    "suite_davit_huge": "davit_huge",
    "suite_davit_large": "davit_large",
    "suite_davit_small": "davit_small",
    "suite_davit_base": "davit_base",
    "suite_mambaout_base": "mambaout_base",
    "suite_mambaout_base_plus_rw": "mambaout_base_plus_rw",
    "suite_mambaout_base_short_rw": "mambaout_base_short_rw",
    "suite_mambaout_base_tall_rw": "mambaout_base_tall_rw",
    "suite_mambaout_kobe": "mambaout_kobe",
    "suite_mambaout_small": "mambaout_small",
    "suite_mambaout_small_rw": "mambaout_small_rw",
    "suite_mambaout_tiny": "mambaout_tiny",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if i < 4 else pytest.mark.slow) for i, n in enumerate(TIMM)])
def test_keys_and_shapes_in_timms_layout_are_timms(name):
    ours = skeleton(name).state_dict()
    with torch.device("meta"):
        theirs = timm.create_model(TIMM[name]).state_dict()
    layouts = {layout.name: layout for layout in named(BY_NAME[name].layouts)(ours)}
    layout = layouts["timm_named" if name.endswith("_fl") else "timm"]
    assert {layout.key(key): tensor.shape for key, tensor in ours.items()} == {
        key: t.shape for key, t in theirs.items()
    }
