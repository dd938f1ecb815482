"""Every "Next:" line runs as it is printed, in the folder in which the command was given."""

import shutil

import pytest

pytestmark = pytest.mark.usefixtures("a_place_with_an_awkward_name")


def test_landuse_from_samples_to_training(cli, run_next, stop_at_training, a_place_with_an_awkward_name):
    data = a_place_with_an_awkward_name / "data"
    code, printed, error = cli("landuse", "sample", data, "--tiles", 5, "--scene", 0)
    assert code == 0, error
    for said in (printed, cli("landuse", "inspect", data)[1]):
        code, _, error = run_next(said)
        assert (code, "the training would begin here" in error) == (2, True), error
        shutil.rmtree("run")


def test_landuse_from_a_model_to_its_answers(cli, run_next, trained, samples):
    code, printed, error = run_next("\n".join(trained.lines()))
    assert code == 0, error
    assert "accuracy" in printed
    shutil.copytree(trained.model, "run/model")
    for path in (samples / "scene.tif", samples / "EuroSAT_RGB" / "River" / "River_1.jpg"):
        code, printed, error = cli("landuse", "inspect", path)
        assert code == 0, error
        code, _, error = run_next(printed)
        assert code == 0, error
