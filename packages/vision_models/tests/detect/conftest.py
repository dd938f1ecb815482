import pytest

from core_runtime.options import RunOptions
from vision_models.detect.commands.train import train
from vision_models.detect.samples import SampleOptions, make_samples
from vision_models.detect.training.recipe import Recipe

from .detect_nets import TINY


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("scenes") / "data", SampleOptions(scenes=10, width=64))["exdark"]


@pytest.fixture(scope="session")
def trained(scenes, tmp_path_factory):
    run = RunOptions(out=tmp_path_factory.mktemp("run") / "run", device="cpu")
    return train(scenes, detector=TINY, recipe=Recipe(epochs=1, batch=2, lr=1e-3), run=run)
