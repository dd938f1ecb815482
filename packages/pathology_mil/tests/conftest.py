"""Where the shared material is: walked up to, or CORE_ATTENTION_SHARED; tests that need it skip without it."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads per tiny product cost more than they save


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
    from pathology_mil.samples.samples import make_samples

    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder, slides=4, seed=3)
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


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Twenty-four slides with features, two classes that a few tiles tell apart, two slides a patient: (features, labels.csv)."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    (folder / "features").mkdir()
    rows = ["case_id,slide_id,label"]
    for i in range(24):
        tumour, n = i // 2 % 2, int(rng.integers(20, 40))
        x = rng.normal(size=(n, 16)).astype(np.float16)
        if tumour:
            x[:6, :6] += 3
        with h5py.File(folder / "features" / f"slide{i:02}.h5", "w") as file:
            file["features"] = x
            file["features"].attrs["encoder"] = "toy"
            file["coords"] = np.stack([np.arange(n) * 256, np.zeros(n, int)], 1)
            file["coords"].attrs.update(patch_size_level0=256, patch_size=256, target_magnification=20)
        rows.append(f"patient{i // 2},slide{i:02}.svs,{'tumour' if tumour else 'normal'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "features", folder / "labels.csv"


@pytest.fixture(scope="session")
def trained(cohort, tmp_path_factory):
    """A model trained on the cohort."""
    from core_runtime.options import RunOptions
    from pathology_mil.commands.train import train
    from pathology_mil.training.recipe import MaskingOptions, Recipe

    out = tmp_path_factory.mktemp("trained") / "run"
    run = RunOptions(out=out, seed=1, device="cpu")
    return train(*cohort, masking=MaskingOptions(top_k=0), recipe=Recipe(epochs=15, lr=1e-2), resamples=50, run=run)
