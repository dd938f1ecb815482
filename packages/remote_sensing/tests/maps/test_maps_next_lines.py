"""Every "Next:" line runs as it is printed, in the folder in which the command was given."""

import shutil

import pytest

pytestmark = pytest.mark.usefixtures("a_place_with_an_awkward_name")


def test_maps_from_samples_to_vectors(cli, run_next, stop_at_training, model_folder, a_place_with_an_awkward_name):
    data = a_place_with_an_awkward_name / "data"
    code, printed, error = cli("maps", "sample", data, "--sheets", 1, "--size", 200, "--tiles", 4)
    assert code == 0, error
    for said in (printed, cli("maps", "inspect", data / "dataset_railway")[1]):
        code, _, error = run_next(said)
        assert (code, "the training would begin here" in error) == (2, True), error
        shutil.rmtree("run")
    shutil.copytree(model_folder, "run/model")
    code, printed, error = cli("maps", "inspect", data / "sheets" / "sheet_1.tif")
    assert code == 0, error
    code, _, error = run_next(printed)
    assert code == 0, error
    code, printed, error = cli("maps", "inspect", "map-predictions/sheet_1_mask.tif")
    assert "mask of classes" in printed
    assert run_next(printed)[0] == 0, error


@pytest.mark.parametrize("kind", ["tiles", "sheet"])
def test_maps_after_training(run_next, model_folder, tmp_path, kind):
    from remote_sensing.maps.commands.train import Trained, _next_step
    from remote_sensing.maps.samples.samples import MapSampleParams, make_samples

    folders = make_samples(tmp_path / "data", MapSampleParams(sheets=1, size=200, tiles=4, tile=48))
    data = folders["tiles"] if kind == "tiles" else folders["sheets"] / "sheet_1.tif"
    figures = dict.fromkeys(("tiles", "validation_tiles", "trainable", "parameters", "epoch"), 1)
    figures |= dict.fromkeys(("val_iou", "temperature", "ece_before", "ece"), 0.5)
    trained = Trained(model_folder, model_folder, figures, [], _next_step(data))
    code, _, error = run_next("\n".join(trained.lines()))
    assert code == 0, error
