"""Where the shared material is: walked up to, or CORE_ATTENTION_SHARED; tests that need it skip without it."""

import os
from pathlib import Path

import pytest


def _shared() -> Path | None:
    given = os.environ.get("CORE_ATTENTION_SHARED")
    places = [Path(given)] if given else [p / "shared" for p in Path(__file__).resolve().parents]
    return next((p for p in places if p.is_dir()), None)


@pytest.fixture(scope="session")
def shared():
    folder = _shared()
    if folder is None:
        pytest.skip("the shared papers and slides are not here (set CORE_ATTENTION_SHARED)")
    return folder


@pytest.fixture(scope="session")
def cmu(shared):
    """A real H&E slide: 2220×2967, one level, 0.499 µm per pixel."""
    return shared / "data/acmil/CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def tcga(shared):
    """A real slide without any resolution: 4443×3567 and one level of half that."""
    return shared / "data/acmil/TCGA-CR-7395-01A-01-TS1.svs"


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Four drawn slides: two with nests, one of them a 40× scan; one with pen marks."""
    from pathology_mil.samples import SampleParams, make_samples

    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder, SampleParams(slides=4, seed=3))
    return folder


@pytest.fixture
def cli(capsys):
    """Calls the command as the console script does: (exit status, standard output, standard error)."""
    from core_runtime.cli import run
    from pathology_mil.cli import app

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            run(app, [str(a) for a in arguments])
        got = capsys.readouterr()
        return end.value.code, got.out, got.err

    return call
