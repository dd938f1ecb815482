"""Exports give the model's outputs; MONAI accepts the bundle's metadata."""

import errno
import json
import shutil
import subprocess
import sys

import pytest


def test_a_torch_program(cli, untrained, tmp_path):
    code, out, err = cli(
        "organs", "models", "export", untrained, "--form", "torch", "--out", tmp_path / "organs.pt2", "--json"
    )
    assert code == 0, err
    assert (tmp_path / "organs.pt2").is_file()
    assert float(json.loads(out)["largest difference"]) < 1e-4
    assert cli("organs", "models", "export", untrained, "--form", "torch", "--out", tmp_path / "organs.pt2")[0] == 2


def test_a_disk_that_is_full_leaves_no_export(cli, untrained, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    code, _, err = cli("organs", "models", "export", untrained, "--form", "bundle", "--out", tmp_path / "bundle")
    assert code == 2
    assert "No space left" in err
    assert not list(tmp_path.iterdir())


def test_official_checkpoints_that_are_none(cli, tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    code, _, err = cli("organs", "models", "convert", tmp_path / "other.pth", "--out", tmp_path / "model")
    assert code == 2
    assert "DAF_stack" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_onnx_gives_the_outputs(cli, untrained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    import torch

    from medical_segmentation.organs import load_model

    path = tmp_path / "organs.onnx"
    code, out, err = cli("organs", "models", "export", untrained, "--form", "onnx", "--out", path, "--json")
    assert code == 0, err
    assert float(json.loads(out)["largest difference"]) < 1e-4
    (network,) = load_model(untrained).networks
    x = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        expected = network(x)
    (ours,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(ours), expected, rtol=1e-3, atol=1e-4)


def test_a_bundle_of_slices_with_neighbours_is_refused(cli, tmp_path):
    import torch

    from medical_segmentation.organs.model.folder import save_model
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig
    from medical_segmentation.organs.model.preparation import Preparation

    torch.manual_seed(0)
    network = GuidedAttentionNet(GuidedConfig(n_classes=2, slices=3, backbone="test_resnet", width=8)).eval()
    folder = save_model(
        network,
        tmp_path / "model",
        preparation=Preparation("window", -100, 150, window=(32, 32), slices=3),
        classes=("background", "liver"),
        channels=("CT",),
        provenance={},
    )
    code, _, err = cli("organs", "models", "export", folder, "--form", "bundle", "--out", tmp_path / "bundle")
    assert code == 2
    assert "neighbours" in err
    assert not (tmp_path / "bundle").exists()


# MONAI's specification of a bundle, and the fields that all bundles of its model zoo share which name the schema of 2024. That schema itself is fetched
# from the network by `verify_metadata`, which tests must not do; it cannot ask for a field that an accepted bundle lacks.
TENSORS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": [
            *("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def")
        ],
        "properties": {
            "num_channels": {"type": "integer"},
            "spatial_shape": {"type": "array"},
            "value_range": {"type": "array"},
            "is_patch_data": {"type": "boolean"},
            "channel_def": {"type": "object", "patternProperties": {"^[0-9]+$": {"type": "string"}}},
        },
    },
}
TEXTS = [
    *(
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "name",
        "task",
        "description",
        "authors",
    ),
    *("copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use"),
]
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": [*TEXTS, "references", "changelog", "required_packages_version", "network_data_format"],
    "properties": {
        **{name: {"type": "string", "minLength": 1} for name in TEXTS},
        "references": {"type": "array", "items": {"type": "string"}},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


@pytest.mark.slow
def test_monai_verifies_the_metadata_of_a_bundle(cli, untrained, tmp_path):
    """MONAI's own `verify_metadata`, against its specification; it refuses what lacks a field."""
    assert cli("organs", "models", "export", untrained, "--form", "bundle", "--out", tmp_path / "bundle")[0] == 0
    schema, metadata = tmp_path / "schema.json", tmp_path / "bundle" / "configs" / "metadata.json"
    schema.write_text(json.dumps(SCHEMA))
    script = "import sys; from monai.bundle import verify_metadata; verify_metadata(meta_file=sys.argv[1], filepath=sys.argv[2])"
    command = [sys.executable, "-c", script, metadata, schema]
    end = subprocess.run(command, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr[-2000:]
    described = json.loads(metadata.read_text())
    del described["network_data_format"]["inputs"]["image"]["num_channels"]
    metadata.write_text(json.dumps(described))
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(0.0, 0.0, 0.0), (1.6, 1.6, 0.0)])
def test_a_bundle_gives_the_masks_of_predict(cli, untrained, tmp_path, spacing):
    import nibabel as nib
    import numpy as np

    config = json.loads((untrained / "config.json").read_text())
    text = json.dumps(config)
    model = tmp_path / "model"
    shutil.copytree(untrained, model)
    assert '"spacing"' in text
    place = config
    for key in path_to(config, "spacing"):
        place = place[key]
    place["spacing"] = list(spacing)
    (model / "config.json").write_text(json.dumps(config))
    code, out, err = cli(
        "organs", "models", "export", model, "--form", "bundle", "--out", tmp_path / "bundle", "--json"
    )
    assert code == 0, err
    json.loads(out)  # nothing of MONAI's own words among it
    images = tmp_path / "bundle" / "images"
    images.mkdir()
    z = np.add.outer(np.add.outer(np.arange(48) * 8.0, np.arange(40) * -5.0), np.arange(7) * 20.0)
    image = nib.Nifti1Image((z - 100).astype(np.float32), np.diag([-0.8, 0.8, 3, 1]))
    nib.save(image, images / "a.nii.gz")
    script = "import sys; from monai.bundle import run; run(config_file=sys.argv[1] + '/configs/inference.json', bundle_root=sys.argv[1])"
    end = subprocess.run([sys.executable, "-c", script, tmp_path / "bundle"], capture_output=True, text=True)
    assert end.returncode == 0, end.stderr[-2000:]
    (theirs,) = (nib.load(path) for path in (tmp_path / "bundle" / "eval").rglob("*.nii.gz"))
    code, out, err = cli(
        "organs", "predict", images / "a.nii.gz", "--model", model, "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    ours = nib.load(tmp_path / "out" / "a" / "a.nii.gz")
    assert np.allclose(theirs.affine, ours.affine)
    same = float((np.asarray(theirs.dataobj).squeeze() == np.asarray(ours.dataobj)).mean())
    assert same == 1 if not any(spacing) else same > 0.97


def path_to(described, name):
    """The keys that lead to a field of nested objects."""
    for key, value in described.items():
        if isinstance(value, dict):
            if name in value:
                return [key]
            below = path_to(value, name)
            if below:
                return [key, *below]
    return []
