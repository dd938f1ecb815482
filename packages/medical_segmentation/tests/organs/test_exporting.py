"""Exports give the model's outputs; MONAI accepts the bundle's metadata."""

import json
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


def test_official_checkpoints_that_are_none(cli, tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    code, _, err = cli("organs", "models", "convert", tmp_path / "other.pth", "--out", tmp_path / "model")
    assert code == 2
    assert "DAF_stack" in err
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_bundle_runs_and_its_metadata_are_accepted(cli, untrained, tmp_path):
    code, out, err = cli(
        "organs", "models", "export", untrained, "--form", "bundle", "--out", tmp_path / "bundle", "--json"
    )
    assert code == 0, err
    json.loads(out)  # nothing of MONAI's own words among it
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    from medical_segmentation.organs.model.networks import quiet_monai

    with quiet_monai():
        from monai.bundle.utils import DEFAULT_METADATA
    assert set(DEFAULT_METADATA) - {"changelog"} <= metadata.keys() | {"optional_packages_version"}
    # MONAI's own check, against the schema that it publishes; here against its required fields, without a network
    script = (
        "import json, sys, nibabel as nib, numpy as np; from pathlib import Path; root = Path(sys.argv[1]); (root / 'images').mkdir();"
        "nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(32, 32, 5)).astype('float32'), np.eye(4)), root / 'images' / 'a.nii.gz');"
        "from monai.bundle import run; run(config_file=str(root / 'configs' / 'inference.json'), bundle_root=str(root))"
    )
    end = subprocess.run([sys.executable, "-c", script, tmp_path / "bundle"], capture_output=True, text=True)
    assert end.returncode == 0, end.stderr[-2000:]
    assert list((tmp_path / "bundle" / "eval").rglob("*.nii.gz"))
