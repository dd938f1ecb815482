"""Where the shared material is; drawn samples; a small trained model; the command as the console script calls it."""

import os
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # mutating.py


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded tiles go to a folder of the tests."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


@pytest.fixture(scope="session")
def shared():
    given = os.environ.get("CORE_ATTENTION_SHARED")
    places = [Path(given)] if given else [p / "shared" for p in Path(__file__).resolve().parents]
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        pytest.skip("the shared papers and pictures are not here (set CORE_ATTENTION_SHARED)")
    return folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Five drawn tiles a class in every layout, and a scene of 192 pixels."""
    from remote_sensing.landuse.samples import SampleOptions
    from remote_sensing.landuse.samples.samples import make_samples

    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder, SampleOptions(tiles=5, scene=192))
    return folder


@pytest.fixture(scope="session")
def trained(samples, tmp_path_factory):
    """A small balanced network after one epoch on the RGB tiles."""
    from core_runtime.options import RunOptions
    from remote_sensing.landuse import train
    from remote_sensing.landuse.model.sizes import NetworkOptions
    from remote_sensing.landuse.scenes.layouts import TileOptions
    from remote_sensing.landuse.training.recipe import Recipe

    return train(
        samples,
        network=NetworkOptions(width=8, depths=(1, 1)),
        recipe=Recipe(epochs=1, batch=16, patience=0),
        tiles=TileOptions(split="torchgeo"),
        run=RunOptions(out=tmp_path_factory.mktemp("trained") / "run", seed=42),
    )


@pytest.fixture
def cli(capsys):
    """Calls the command as the console script does: (exit status, standard output, standard error)."""
    from core_runtime.cli import run
    from remote_sensing.cli import app

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            run(app, [str(a) for a in arguments])
        got = capsys.readouterr()
        return end.value.code, got.out, got.err

    return call


@pytest.fixture
def run_next(cli):
    """Runs what a command's output says comes next: (exit status, standard output, standard error)."""

    def run(printed):
        (line,) = [line for line in printed.splitlines() if line.startswith("Next: ")]
        program, *words = shlex.split(line.removeprefix("Next: "))
        assert program == "remote-sensing"
        return cli(*words)

    return run


@pytest.fixture
def stop_at_training(monkeypatch):
    """Everything up to the first step is done."""
    from core_runtime.errors import UserError

    def stop(*_, **__):
        raise UserError("the training would begin here")

    monkeypatch.setattr("core_runtime.training.fit", stop)


@pytest.fixture
def a_place_with_an_awkward_name(tmp_path, monkeypatch):
    folder = tmp_path / "it's here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
