"""predict, evaluate, train and models through the command and the API: files, exit statuses, one-line errors."""

import csv
import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from core_runtime.errors import UserError
from pathology_mil.commands.models import check, convert, get
from pathology_mil.commands.predict import predict
from pathology_mil.features.bags import find_bags, open_bag
from pathology_mil.model.acmil import ACMIL_GA, ACMILConfig
from pathology_mil.model.folder import load, save
from pathology_mil.model.inference import Predictor, concentration, normalised_entropy, write_prediction


def test_a_prediction_of_one_slide(trained, cohort, tmp_path):
    bag = open_bag(cohort[0] / "slide02.h5")
    found = Predictor(trained.model)(bag)
    assert found.label in found.probabilities
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.attention.shape == (len(bag),)
    assert found.branch_attention.shape == (5, len(bag))
    assert found.attention.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.branch_attention.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.branch_attention.mean(0), found.attention, rtol=1e-5)
    path = write_prediction(found, tmp_path)
    assert json.loads(path.read_text())["tiles"] == len(bag)
    with h5py.File(tmp_path / "slide02.h5") as file:
        assert file["attention_scores"].shape == (len(bag), 1)
        assert file["coords"].attrs["patch_size_level0"] == 256


def test_concentration_and_entropy():
    uniform = np.full(50, 0.02)
    assert concentration(uniform)[9] == pytest.approx(0.2)
    assert concentration(uniform)[-1] == pytest.approx(1)
    assert normalised_entropy(uniform) == pytest.approx(1)
    assert normalised_entropy(np.array([0.0, 1.0, 0.0])) == 0
    assert normalised_entropy(np.array([1.0])) == 0


def test_a_folder_goes_on_past_bad_slides_and_a_rerun_past_done_ones(trained, cohort, tmp_path, cli):
    shutil.copytree(cohort[0], tmp_path / "features")
    (tmp_path / "features/slide04.h5").write_bytes(b"\x89HDF\r\n\x1a\nnothing")
    with h5py.File(tmp_path / "features/slide05.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 16), np.float16), np.zeros((0, 2), int)
    with h5py.File(tmp_path / "features/slide06.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((3, 8), np.float16), np.zeros((3, 2), int)
    code, _, err = cli("predict", tmp_path / "features", "--model", trained.model, "--out", tmp_path / "out", "--json")
    assert code == 1
    assert "no tiles: slide05" in err
    assert "failed: slide04" in err
    assert "slide06: features are 8 wide, the model takes 16" in err
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21
    assert set(rows[0]) == {
        "slide_id",
        "label",
        "p_normal",
        "p_tumour",
        "tiles",
        "top10_attention",
        "attention_entropy",
        "encoder",
    }
    before = (tmp_path / "out/slide00.json").stat().st_mtime_ns
    outcomes = predict(tmp_path / "features", model=str(trained.model), out=tmp_path / "out").attempts
    assert (tmp_path / "out/slide00.json").stat().st_mtime_ns == before
    assert sum(o.ok for o in outcomes) == 21
    other = ACMIL_GA(ACMILConfig(n_features=16, n_class=2))
    save(other, tmp_path / "other", classes=["normal", "tumour"], features={}, provenance={})
    with pytest.raises(UserError, match=r"was made with another .*model\.safetensors"):
        predict(tmp_path / "features", model=str(tmp_path / "other"), out=tmp_path / "out")


@pytest.mark.parametrize("kind", ["empty", "corrupt", "width", "NaN"])
def test_one_unusable_slide_is_one_line_and_exit_2(trained, tmp_path, cli, kind):
    file = tmp_path / "slide.h5"
    with h5py.File(file, "w") as content:
        x = np.zeros({"empty": (0, 16), "width": (4, 8)}.get(kind, (4, 16)), np.float32)
        if kind == "NaN":
            x[1, 1] = np.nan
        content["features"], content["coords"] = x, np.zeros((len(x), 2), int)
    if kind == "corrupt":
        file.write_bytes(file.read_bytes()[:100])
    code, out, err = cli("predict", file, "--model", trained.model, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) <= 2
    assert err.startswith("Error: ")


def test_predict_without_a_model_says_how_to_get_one(cohort, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("predict", cohort[0])
    assert code == 2
    assert "train" in err
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/config.json").write_text("{}")
    assert "run/model" in cli("predict", cohort[0])[2]


def test_the_command_trains_from_a_published_yaml_file(cohort, tmp_path, cli):
    (tmp_path / "published.yml").write_text(
        "train_epoch: 1\nwarmup_epoch: 0\nwd: 0.00001\nlr: 0.0002\nmin_lr: 0\ndataset: mine\nB: 1\nn_class: 2\n"
        f"data_dir: {cohort[0]}\nn_worker: 0\npin_memory: False\nn_shot: -1\nbackbone: ViT-S/16\npretrain: medical_ssl\n"
        "D_feat: 16\nD_inner: 8\n"
    )
    code, out, err = cli(
        "train",
        cohort[0],
        cohort[1],
        "--config",
        tmp_path / "published.yml",
        "--out",
        tmp_path / "run",
        "--preset",
        "paper",
        "--json",
    )
    assert code == 0, err
    made = json.loads(out)
    described = json.loads((tmp_path / "run/model/config.json").read_text())
    assert described["config"]["width"] == 8
    assert described["config"]["mask_drop"] == 0.6
    assert described["provenance"]["arguments"]["lr"] == 2e-4, "the file's rate wins over the preset's"
    assert made["data"]["encoder"] == "toy"
    code, _, err = cli(
        "train",
        cohort[0],
        cohort[1],
        "--config",
        tmp_path / "published.yml",
        "--out",
        tmp_path / "flag",
        "--lr",
        "0.001",
        "--json",
    )
    assert json.loads((tmp_path / "flag/model/config.json").read_text())["provenance"]["arguments"]["lr"] == 1e-3
    code, out, err = cli(
        "evaluate",
        *cohort,
        "--model",
        tmp_path / "run/model",
        "--splits",
        tmp_path / "run/splits/splits_0.csv",
        "--out",
        tmp_path / "e",
    )
    assert code == 0
    assert "AUROC" in out
    assert "encoder toy (16 wide), magnification 20" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-map", "a"], "2=1,3=1"),
        (["--mask-drop", "2"], "mask-drop"),
        (["--lr", "0"], "--lr"),
        (["--label-col", "grade"], "no column 'grade'"),
        (["--splits", "absent.csv"], "absent.csv"),
        (["--folds", "40"], "too few for 40 parts"),
    ],
)
def test_mistakes_of_train_are_one_line(cohort, tmp_path, cli, arguments, message):
    code, _, err = cli("train", *cohort, "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def official_checkpoint(path):
    torch.manual_seed(0)
    shapes = {
        "dimreduction.fc1.weight": (8, 16),
        "attention.attention_weights.weight": (3, 10),
        "attention.attention_weights.bias": (3,),
    }
    for gate in "VU":
        shapes |= {f"attention.attention_{gate}.0.weight": (10, 8), f"attention.attention_{gate}.0.bias": (10,)}
    for name in ("classifier.0", "classifier.1", "classifier.2", "Slide_classifier"):
        shapes |= {f"{name}.fc.weight": (2, 8), f"{name}.fc.bias": (2,)}
    import argparse

    content = {
        "model": {k: torch.randn(s) for k, s in shapes.items()},
        "epoch": 3,
        "config": argparse.Namespace(lr=1e-4),
    }
    torch.save(content | {"optimizer": {}}, path)
    return path


def test_an_official_checkpoint_becomes_a_model_folder(tmp_path, cli):
    file = official_checkpoint(tmp_path / "checkpoint-best.pth")
    code, out, err = cli("models", "convert", file, "--out", tmp_path / "model", "--classes", "normal,tumour", "--json")
    assert code == 0, err
    assert json.loads(out)["component"] == "ACMIL_GA"
    loaded = load(tmp_path / "model")
    assert loaded.classes == ("normal", "tumour")
    assert loaded.network.config.branches == 3
    assert loaded.network.config.hidden == 10
    assert cli("models", "check", tmp_path / "model")[0] == 0
    with pytest.raises(UserError, match="already there"):
        convert(file, out=tmp_path / "model")
    with pytest.raises(UserError, match="3 class names"):
        convert(file, out=tmp_path / "again", classes=("a", "b", "c"))
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not an ACMIL state dict"):
        convert(tmp_path / "other.pth", out=tmp_path / "again")
    assert cli("models", "convert", tmp_path / "absent.pth", "--out", tmp_path / "x")[0] == 2


def test_checking_a_model_folder(trained, tmp_path, cli):
    found = check(str(trained.model)).values
    assert found["feature_width"] == 16
    assert found["classes"] == ["normal", "tumour"]
    assert found["parameters"] > 1000
    damaged = tmp_path / "model"
    shutil.copytree(trained.model, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    for folder in (damaged, tmp_path / "absent"):
        code, _, err = cli("models", "check", folder)
        assert code == 2
        assert len(err.splitlines()) <= 2


def test_published_weights_are_listed_and_got(tmp_path, monkeypatch, cli):
    rows = json.loads(cli("models", "--json")[1])["models"]
    assert len({r["name"] for r in rows}) == len(rows)
    assert all(r["licence"] and r["needs"] and r["size"] for r in rows)
    with pytest.raises(UserError, match="no published model"):
        get("nonsense", out=tmp_path)
    with pytest.raises(UserError, match="not on the hub"):
        get("lunit-vits8", out=tmp_path)
    import huggingface_hub

    asked = []

    def download(repository, file, local_dir):
        asked.append((repository, file))
        if file == "model.safetensors":
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        return str(local_dir / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert get("resnet50", out=tmp_path).values["file"].endswith("pytorch_model.bin")
    assert [file for _, file in asked] == ["model.safetensors", "pytorch_model.bin"]

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    code, _, err = cli("models", "get", "uni_v1", "--out", tmp_path)
    assert code == 2
    assert "cannot be reached" in err
    assert cli("models", "get")[0] == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['pathology-mil', 'train', '--help']\n"
        "from pathology_mil.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'pandas', 'h5py', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bags_are_found(cohort):
    assert len(find_bags(cohort[0])) == 24
