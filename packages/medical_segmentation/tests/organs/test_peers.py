"""MONAI's networks in the same harness: any size, saved and loaded, trained by the same command."""

import pytest
import torch

from medical_segmentation.organs.model.folder import load_model, save_model
from medical_segmentation.organs.model.networks import PeerConfig, PeerNet
from medical_segmentation.organs.model.preparation import Preparation


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "segresnet", "swin-unetr"])
def test_peers_take_any_size_and_survive_a_folder(tmp_path, kind, dims):
    torch.manual_seed(0)
    network = PeerNet(PeerConfig(kind, n_classes=3, dims=dims, features=8)).eval()
    x = torch.randn(1, 1, *(32, 20, 20)[:dims])
    folder = save_model(
        network,
        tmp_path / "model",
        preparation=Preparation(dims=dims, window=(32,) * dims),
        classes=("background", "a", "b"),
        channels=("CT",),
        provenance={},
    )
    (loaded,) = load_model(folder).networks
    with torch.no_grad():
        scores = network(x)
        assert scores.shape == (1, 3, *x.shape[2:])
        assert torch.equal(loaded(x), scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--network", "unet"],
        ["--network", "segresnet", "--loss", "dice-ce"],
        ["--network", "swin-unetr"],
        ["--form", "2.5d", "--loss", "dice-ce"],
        ["--form", "3d", "--patch", "32,32,16", "--loss", "dice-focal"],
        ["--backbone", "test_vit"],
    ],
    ids=" ".join,
)
def test_every_network_and_form_is_trained_and_predicts(cli, abdomens, tmp_path, options):
    backbone = [] if "--network" in options or "--backbone" in options else ["--backbone", "test_resnet"]
    width = [] if "--network" in options else ["--width", "8"]
    run = tmp_path / "run"
    code, _, err = cli(
        "organs", "train", abdomens, *options, *backbone, *width, "--epochs", 1, "--folds", 3, "--out", run
    )
    assert code == 0, err
    case = next((abdomens / "imagesTs").glob("*.nii.gz"))
    code, _, err = cli("organs", "predict", case, "--model", run / "model", "--out", tmp_path / "masks")
    assert code == 0, err
