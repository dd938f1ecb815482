"""Small sheets, and a model folder that nothing was trained for: what is tried is what is around the network."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # written.py


@pytest.fixture(scope="session")
def paper():
    """A drawn sheet (3, 96, 96)."""
    from remote_sensing.maps.samples.drawing import draw_sheet

    return np.ascontiguousarray(draw_sheet(200, 3).picture[:96, :96].transpose(2, 0, 1))


@pytest.fixture
def sheet(paper, tmp_path):
    from written import write_raster

    (tmp_path / "in").mkdir()
    return write_raster(tmp_path / "in" / "sheet.tif", paper, photometric="RGB")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny MapSAM with random weights and one class."""
    import torch

    from remote_sensing.maps.model.folder import SheetModel, save
    from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig
    from remote_sensing.maps.training.network import TINY

    torch.manual_seed(0)
    network = MapSAM(MapSamConfig(**TINY, image_size=32)).eval()
    provenance = {"notice": "trained on nothing", "trained_on": {"pixel": 1.25, "digests": []}}
    model = SheetModel(network, ("railway",), 48, provenance=provenance)
    return save(model, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def predict(cli, model_folder):
    """Calls `maps predict` with the model: (exit status, parsed output or None, standard error)."""

    def call(path, out, *options):
        words = ["maps", "predict", path, "--model", model_folder, "--out", out, "--device", "cpu", "--json"]
        code, printed, error = cli(*words, *options)
        return code, json.loads(printed) if code < 2 else None, error

    return call
