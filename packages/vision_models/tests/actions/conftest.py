import pytest

from core_runtime.options import RunOptions
from vision_models.actions.samples import SampleOptions, make_samples
from vision_models.actions.training.recipe import NetworkOptions, Recipe

TINY = NetworkOptions(steps=24, longest=16, hidden=16, pem_channels=8, map_3d=16, map_2d=8, bins=6)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Six short videos with their annotations."""
    pytest.importorskip("av", reason="the extra 'actions' is not installed")
    return make_samples(tmp_path_factory.mktemp("videos") / "data", SampleOptions(videos=6, seconds=10, rate=8))


@pytest.fixture(scope="session")
def features(videos, tmp_path_factory):
    from vision_models.actions.commands.extract import extract

    out = tmp_path_factory.mktemp("features") / "features"
    extract(videos["videos"], out=out, device="cpu")
    return out


@pytest.fixture(scope="session")
def trained(videos, features, tmp_path_factory):
    from vision_models.actions.commands.train import train

    run = RunOptions(out=tmp_path_factory.mktemp("run") / "run", device="cpu")
    recipe = Recipe(epochs=2, batch=4, lr=2e-3)
    return train(features, annotations=videos["json"], network=TINY, recipe=recipe, run=run)
