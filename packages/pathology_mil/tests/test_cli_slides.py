"""sample, inspect, tile, encode and heatmap as a person types them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pathology_mil.domain import domain
from pathology_mil.features.bags import find_bags

HEAVY = {"torch", "h5py", "cv2", "openslide", "matplotlib", "timm", "lightning", "shapely", "numpy"}


def test_help_is_light():
    code = f"""
import sys
from core_runtime.cli import run
from pathology_mil.cli import app
import pathology_mil.domain
try: run(app, ["--help"])
except SystemExit: pass
print("HEAVY", *sorted({HEAVY!r} & set(sys.modules)))"""
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert end.stdout.splitlines()[-1] == "HEAVY"


def test_sample_is_deterministic_and_not_overwritten(tmp_path, cli, samples):
    code, out, _ = cli("sample", tmp_path / "ü", "--slides", 2, "--seed", 3)
    assert code == 0
    assert "2 slides" in out
    first = (tmp_path / "ü/slides/sample_001.svs").read_bytes()
    assert first == (samples / "slides/sample_001.svs").read_bytes()
    assert cli("sample", tmp_path / "ü", "--slides", 2, "--seed", 3)[0] == 2
    (tmp_path / "ü/slides/sample_001.svs").unlink()  # as if it had been interrupted
    assert cli("sample", tmp_path / "ü", "--slides", 2, "--seed", 3)[0] == 0
    assert (tmp_path / "ü/slides/sample_001.svs").read_bytes() == first
    assert "other samples" in cli("sample", tmp_path / "ü", "--slides", 3, "--seed", 3)[2]


def test_a_real_slide_all_the_way(cmu, tmp_path, cli):
    job = tmp_path / "jöb folder"
    code, out, _ = cli("tile", cmu, "--out", job, "--min-tissue", 0.5)
    assert code == 0
    assert "scanned at 0.499 µm per pixel (openslide.mpp-x)" in out
    code, out, _ = cli("encode", job, "--encoder", "colour-texture", "--json")
    found = json.loads(out)
    assert (code, found["encoder"], found["status"]) == (0, "colour-texture", {"done": 1})
    (bag,) = find_bags(job / "20x_256px_0px_overlap/features_colour-texture").values()
    bag = bag.open()
    np.savez(tmp_path / "s.npz", scores=np.asarray(bag.features, np.float64)[:, 0], coords=bag.coords)
    command = [
        "heatmap",
        cmu,
        "--scores",
        tmp_path / "s.npz",
        "--coords",
        bag.features.path,
        "--out",
        tmp_path / "maps",
    ]
    code, out, _ = cli(*command, "--scale", "percentile", "--cmap", "coolwarm")
    assert code == 0
    assert "CMU-1-Small-Region_heatmap.png" in out


def test_a_slide_without_resolution_names_the_flag(tcga, tmp_path, cli):
    code, _, err = cli("tile", tcga, "--out", tmp_path)
    assert code == 2
    assert len(err.splitlines()) == 2
    assert "--slide-mpp" in err
    assert "--slide-mag" in err
    for flags in (["--slide-mag", 40], ["--slide-mpp", 0.25]):
        code, out, _ = cli("tile", tcga, "--out", tmp_path / "x", "--mag", 10, *flags)
        assert code == 0
        assert "(given)" in out
    code, out, _ = cli("inspect", tcga)
    assert code == 0
    assert "--slide-mpp" in out
    assert cli("inspect", tcga, "--slide-mpp", 0.25, "--json")[0] == 0
    assert "not both" in cli("inspect", tcga, "--slide-mpp", 0.25, "--slide-mag", 40)[2]


@pytest.mark.parametrize("verb", ["tile", "inspect", "encode", "heatmap"])
def test_unusable_input_is_one_plain_line(verb, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "broken.h5").write_text("no HDF5")
    (tmp_path / "void").mkdir()
    more = {
        "encode": ["--encoder", "colour-texture"],
        "heatmap": ["--scores", tmp_path / "broken.h5"],
        "tile": ["--out", tmp_path / "out"],
    }.get(verb, [])
    before = sorted(tmp_path.iterdir())
    for name in ("absent.svs", "text.svs", "void", "broken.h5"):
        code, out, err = cli(verb, tmp_path / name, *more)
        assert (code, out) == (2, "")
        assert err.startswith("Error: ")
        assert len(err.splitlines()) <= 2
        assert "Traceback" not in err
        assert sorted(tmp_path.iterdir()) == before


def test_places_that_cannot_be_written(samples, tmp_path, cli):
    (tmp_path / "file").touch()
    code, _, err = cli("tile", samples / "slides", "--out", tmp_path / "file/job")
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overlap", 256], "overlap must be at least 0 and less than the patch size"),
        (["--patch-size", 0], "patch-size"),
        (["--mag", 20, "--mpp", 0.5], "either as --mag"),
        (["--mag", 80], "enlarged"),
        (["--preset", "huge"], "preset"),
        (["--slide-mpp", -1], "slide-mpp"),
        (["--tissue-from", "/nowhere"], "holds no tissue of"),
    ],
)
def test_impossible_options(samples, tmp_path, cli, options, words):
    code, out, err = cli("tile", samples / "slides/sample_001.svs", "--out", tmp_path, *options)
    assert (code, out) == (2, "")
    assert words in err


def test_a_glass_without_tissue_says_so(tmp_path, cli):
    from pathology_mil.samples.pyramid import write_pyramid

    path = tmp_path / "blank.svs"
    write_pyramid(path, np.full((600, 800, 3), 244, np.uint8), downsamples=(4,), mpp=0.5, aperio=True)
    code, _, err = cli("tile", path, "--out", tmp_path / "job")
    assert code == 2
    assert "no tissue found" in err
    assert "--preset biopsy" in err
    code, out, _ = cli("inspect", path)
    assert code == 2
    assert "no tissue was found" in out


def test_inspect_every_kind(samples, tmp_path, cli):
    job = tmp_path / "job"
    assert cli("tile", samples / "slides", "--out", job, "--mag", 10)[0] == 0
    assert cli("encode", job, "--encoder", "colour-texture")[0] == 0
    folder = job / "10x_256px_0px_overlap"
    expected = {
        samples / "slides": "4 of 4 slides can be read",
        samples / "slides/sample_004.tif": "0.25 µm per pixel",
        next((samples / "annotations").iterdir()): "area taken as tumour",
        folder / "patches/sample_001_patches.h5": "coordinates of tiles",
        folder / "features_colour-texture/sample_001.h5": "64",
        folder / "features_colour-texture": "Features of 4 slides",
        folder / "slides.csv": "4 of 4 slides can be read",
    }
    for path, words in expected.items():
        code, out, err = cli("inspect", path)
        assert code == 0, (path, err)
        assert words in out
        json.loads(cli("inspect", path, "--json")[1])


def test_the_suite_knows_slides(samples, cmu, tmp_path):
    assert domain.recognises(cmu).kind == "whole-slide image"
    assert domain.recognises(samples / "slides/sample_004.tif").kind == "whole-slide image"
    (tmp_path / "map.tif").write_bytes(b"II*\0")
    assert domain.recognises(tmp_path / "map.tif") is None
    assert domain.recognises(samples / "labels.csv") is None
    findings = domain.glance(cmu)
    assert findings.usable
    assert len(findings.pictures) == 2
    assert findings.next_commands[0].startswith("pathology-mil tile ")
    assert all(check.ok for check in domain.doctor())
