import pytest

from core_runtime.options import RunOptions
from vision_models.classify.commands.train import train
from vision_models.classify.samples import SampleOptions, make_samples
from vision_models.classify.training.recipe import Recipe

from .classify_nets import QUICK, TINY


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("images") / "data", SampleOptions(per_class=12, side=16))


@pytest.fixture(scope="session")
def trained(samples, tmp_path_factory):
    run = RunOptions(out=tmp_path_factory.mktemp("run") / "run", device="cpu")
    return train(samples["folders"], network=TINY, recipe=Recipe(**QUICK), run=run)
