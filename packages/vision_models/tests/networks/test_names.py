"""Names: ours, timm's, and what is loaded for them."""

import subprocess
import sys

import pytest
import timm
import torch

import vision_models  # noqa: F401 - registers the networks
from vision_models.networks import create, names, registering
from vision_models.networks.catalogue import BY_NAME

WANTED = (
    "biformer_tiny",
    "suite_davit_tiny",
    "dhvt_small_cifar_patch2",
    "ravlt_s",
    "moh_vit_s80",
    "sparsifiner_s",
    "sparsifiner_lvvit_s",
    "t2t_vit_t_14_scatterbrain",
    "mobilenetv2_ulsam_14_17",
    "suite_mambaout_tiny",
)


def run(script: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_names_are_listed_without_torch_and_timm():
    run(
        """
import sys
import vision_models
from vision_models.networks import names
assert "biformer_tiny" in names()
assert not {"torch", "timm", "numpy"} & sys.modules.keys()
"""
    )


@pytest.mark.slow
def test_timm_has_our_names_once_it_is_imported():
    run(
        """
import sys
import vision_models
import timm
assert timm.is_model("biformer_tiny") and timm.is_model("ravlt_s")
assert "vision_models.networks.biformer.network" not in sys.modules
timm.create_model("dhvt_tiny_cifar_patch4", embed_dim=16, depth=1)
"""
    )


def test_every_name_of_the_issue_is_there_and_timm_has_them_all():
    assert set(WANTED) <= set(names())
    assert names() == sorted(names())
    assert all(timm.is_model(name) for name in names())


def test_names_that_timm_has_stay_timms():
    for name in ("davit_tiny", "mambaout_tiny", "mobilenetv2_100"):
        assert timm.model_entrypoint(name).__module__.startswith("timm.")
    assert not any(name.startswith(("davit", "mambaout")) for name in names())


def test_a_name_that_a_later_timm_has_is_not_overwritten(monkeypatch):
    registered = []
    monkeypatch.setattr("timm.models.is_model", lambda name: name == "biformer_tiny")
    monkeypatch.setattr("timm.models.register_model", lambda entry: registered.append(entry.__name__))
    registering._register(timm.models)
    assert sorted(registered) == [name for name in names() if name != "biformer_tiny"]


def test_create_takes_timms_names_too():
    model = create("resnet18", num_classes=3, in_chans=1).eval()
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 3)


def test_a_name_that_nobody_has_says_which_come_close():
    with pytest.raises(ValueError, match=r"no network 'biformer_tinny'; did you mean biformer_tiny"):
        create("biformer_tinny", num_classes=3)


def test_pretrained_weights_that_do_not_exist_are_refused():
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("dhvt_tiny_cifar_patch4", pretrained=True)


@pytest.mark.parametrize("name", WANTED)
def test_the_configuration_says_licence_and_paper(name):
    config = timm.get_pretrained_cfg(name)
    family, variant = BY_NAME[name], BY_NAME[name].variants[name]
    assert config.license == family.licence
    assert config.paper_ids == f"arXiv:{family.arxiv}"
    assert config.origin_url == f"https://github.com/{family.repository}"
    assert (config.num_classes, config.input_size) == (variant.num_classes, variant.input_size)
    with torch.device("meta"):
        model = timm.create_model(name)
    assert model.pretrained_cfg["architecture"] == name
    modules = dict(model.named_modules())
    assert config.classifier in modules
    assert config.first_conv is None or config.first_conv in modules
