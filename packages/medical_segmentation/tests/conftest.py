"""Drawn volumes in every state of repair; a small trained model; the command as the console script calls it."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # reading_back.py


@pytest.fixture(scope="session")
def shared():
    given = os.environ.get("CORE_ATTENTION_SHARED")
    places = [Path(given)] if given else [p / "shared" for p in Path(__file__).resolve().parents]
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        pytest.skip("the shared papers and volumes are not here (set CORE_ATTENTION_SHARED)")
    return folder


@pytest.fixture
def cli(capsys):
    """Calls the command as the console script does: (exit status, standard output, standard error)."""
    from core_runtime.cli import run
    from medical_segmentation.cli import app

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            run(app, [str(a) for a in arguments])
        got = capsys.readouterr()
        return end.value.code, got.out, got.err

    return call


@pytest.fixture
def nifti(tmp_path):
    """Writes a NIfTI file of given voxels and affine."""
    import nibabel as nib

    def write(array, affine=None, name="volume.nii.gz", **fields):
        image = nib.Nifti1Image(array, affine)  # without an affine neither sform nor qform is set
        for field, value in fields.items():
            image.header[field] = value
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture(scope="session")
def abdomens(tmp_path_factory):
    """Six small drawn abdomens in nnU-Net's layout, one of two unlabelled ones as a DICOM series."""
    from medical_segmentation.organs.options import SampleOptions
    from medical_segmentation.organs.samples import make_samples

    return make_samples(tmp_path_factory.mktemp("abdomens") / "data", SampleOptions(cases=6, size=32, slices=6))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A model folder of a small network that learned nothing."""
    import torch

    from medical_segmentation.organs.model.folder import save_model
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig
    from medical_segmentation.organs.model.preparation import Preparation

    torch.manual_seed(0)
    network = GuidedAttentionNet(GuidedConfig(n_classes=4, backbone="test_resnet", width=8)).eval()
    return save_model(
        network,
        tmp_path_factory.mktemp("untrained") / "model",
        preparation=Preparation("window", -100, 150, window=(32, 32)),
        classes=("background", "liver", "spleen", "kidneys"),
        channels=("CT",),
        provenance={},
        threshold=0.5,
    )


@pytest.fixture
def series(tmp_path):
    """A drawn DICOM series, and what it was drawn from; its headers can be changed before they are read."""
    import pydicom

    from medical_segmentation.organs.samples import write_series

    class Series:
        def __init__(self):
            rng = np.random.default_rng(0)
            self.values = rng.integers(-1000, 1000, (12, 10, 6)).astype(np.int16)
            self.affine = np.array([[0.8, 0.1, 0, -20], [-0.1, 0.8, 0, 5], [0, 0, 2.5, -7], [0, 0, 0, 1.0]])
            self.affine[:3, :2] *= 0.8 / np.linalg.norm(self.affine[:3, 0])
            self.folder = write_series(self.values, self.affine, tmp_path / "series")

        def change(self, edit, number=None):
            """Applies `edit` to the header of one slice (in the order of their places), or of all."""
            files = sorted(self.folder.glob("*.dcm"), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
            for path in files if number is None else [files[number]]:
                dataset = pydicom.dcmread(path)
                edit(dataset)
                dataset.save_as(path)
            return files

    return Series()
