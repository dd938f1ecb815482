"""Cases that lack a class, hold none, or were interrupted: said, counted right, never done twice."""

import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from core_runtime.errors import UserError
from medical_segmentation.organs import load_model
from medical_segmentation.organs.cohort.dataset import without_names
from medical_segmentation.organs.cohort.layouts import find_dataset
from medical_segmentation.organs.judging import Judgement, summarise, summary_lines
from medical_segmentation.organs.training.calibration import judge
from medical_segmentation.organs.training.planning import named_classes
from medical_segmentation.volumes.geometry import Geometry

NAMES = {0: "background", 1: "liver", 2: "spleen"}


def held(*numbers):
    return SimpleNamespace(places=dict.fromkeys(numbers))


def test_a_class_in_one_part_of_the_fold_only():
    classes, notes = named_classes(NAMES, [held(1), held(2)], [held(1)])
    assert classes == ("background", "liver", "spleen")
    assert notes == ["no held-out case holds spleen: nothing is known of its quality"]
    with pytest.raises(UserError, match="no training case holds spleen"):
        named_classes(NAMES, [held(1)], [held(1, 2)])
    with pytest.raises(UserError, match="background alone"):
        named_classes(NAMES, [held()], [held(1)])


def test_gaps_in_labels_without_names():
    with pytest.raises(UserError, match="no training case holds label 1"):
        named_classes({}, [held(2)], [held(2)])


def test_images_without_labels_and_labels_without_images_are_named(cli, nifti, abdomens, untrained, tmp_path):
    array = np.zeros((8, 8, 4), np.int16)
    for name in ("images/a", "images/b", "images/c", "labels/a", "labels/b", "labels/d"):
        nifti(array, np.eye(4), f"plain/{name}.nii.gz")
    dataset = find_dataset(tmp_path / "plain")
    assert dataset.notes == ["1 label without an image, left out: d", "1 image of 3 without labels, left out: c"]
    code, _, err = cli("organs", "train", tmp_path / "plain", "--out", tmp_path / "run")
    assert code == 2, "background alone"
    assert "without labels, left out: c" in err
    data = tmp_path / "nnunet"
    shutil.copytree(abdomens, data)
    (data / "labelsTr" / "abdomen_002.nii.gz").unlink()
    code, _, err = cli("organs", "evaluate", data, "--model", untrained, "--out", tmp_path / "evaluation")
    assert code == 2
    assert "1 image of imagesTr without a file in labelsTr: abdomen_002" in err


def test_cases_of_background_alone_are_counted():
    judgement, grid = Judgement(), Geometry((4, 4, 4), np.eye(4))
    empty, full = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    for name, ours, truth in (("a", full, full), ("b", empty, empty), ("c", full, empty), ("d", empty, full)):
        judgement.add(name, name, ours, truth, grid, ["background", "liver", "spleen"])
    assert judgement.empty() == (2, 1)
    assert [row["dice"] for row in judgement.rows if row["class"] == "liver"] == [1, None, 0, 0]


def test_one_patient_has_no_interval():
    judgement, grid = Judgement(), Geometry((4, 4, 4), np.eye(4))
    full = np.ones((4, 4, 4), np.uint8)
    judgement.add("a1", "a", full, full, grid, ["background", "liver"])
    judgement.add("a2", "a", full, full, grid, ["background", "liver"])
    summary = summarise(judgement.rows)
    assert all(np.isnan(row["low"]) for row in summary)
    assert "Dice 1.000 (of one patient: no interval)" in summary_lines(summary)[0]


@pytest.mark.parametrize(
    ("field", "value"), [("spacing", [4, "x", 4]), ("spacing", [0, 0, -4]), ("axis", 7), ("low", 400)]
)
def test_fields_of_a_models_input_are_checked(untrained, tmp_path, field, value):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    described = json.loads((folder / "config.json").read_text())
    described["preprocessing"]["input"][field] = value
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=rf"preprocessing\.input\.{field} is"):
        load_model(str(folder))


def test_results_do_not_lie_inside_a_series(cli, abdomens, untrained, tmp_path):
    series = tmp_path / "series"
    shutil.copytree(next((abdomens / "imagesTs").glob("*_dicom")), series)
    before = sorted(series.iterdir())
    for out in (series, series / "masks"):
        code, _, err = cli("organs", "predict", series, "--model", untrained, "--out", out)
        assert code == 2
        assert "would lie inside an input" in err or "would replace an input" in err
    assert sorted(series.iterdir()) == before


def test_what_is_nowhere_counts_neither_way_and_patients_are_resampled():
    judgement, grid = Judgement(), Geometry((4, 4, 4), np.eye(4))
    empty, full = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    judgement.add("a1", "a", full, full, grid, ["background", "liver"])
    judgement.add("a2", "a", full, full, grid, ["background", "liver"])
    judgement.add("b", "b", empty, full, grid, ["background", "liver"])
    judgement.add("c", "c", empty, empty, grid, ["background", "liver"])
    (dice,) = [row for row in summarise(judgement.rows) if row["class"] == "liver" and row["measure"] == "dice"]
    assert dice["mean"] == pytest.approx(2 / 3)
    assert (dice["cases"], dice["patients"]) == (3, 2)
    assert judgement.rows[3]["dice"] is None
    # twice the same patient is no second witness: with two patients the interval spans everything
    assert (dice["low"], dice["high"]) == (0, 1)


def test_an_interrupted_prediction_goes_on_and_does_nothing_twice(cli, abdomens, untrained, tmp_path, monkeypatch):
    from medical_segmentation.organs.model.inference import OrganModel

    folder = tmp_path / "volumes"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy(abdomens / "imagesTr" / f"abdomen_00{number}_0000.nii.gz", folder / f"case{number}.nii.gz")
    original, calls = OrganModel.predict, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    arguments = ["organs", "predict", folder, "--model", untrained, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(OrganModel, "predict", killed)
        cli(*arguments)
    done = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".")
    assert done == ["case1"]
    before = (tmp_path / "out" / "case1" / "case1.nii.gz").stat().st_mtime_ns
    calls.clear()

    def counted(self, *arguments):
        calls.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(OrganModel, "predict", counted)
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    assert len(calls) == 2
    assert len(json.loads(out)["cases"]) == 3
    assert (tmp_path / "out" / "case1" / "case1.nii.gz").stat().st_mtime_ns == before


def test_channels_on_other_grids_and_a_case_of_two_files(cli, abdomens, untrained, tmp_path):
    folder = tmp_path / "volumes"
    folder.mkdir()
    image = nib.load(abdomens / "imagesTr" / "abdomen_001_0000.nii.gz")
    for name in ("case_0000", "case_0001"):
        nib.save(image, folder / f"{name}.nii.gz")
    code, out, err = cli("organs", "predict", folder, "--model", untrained, "--out", tmp_path / "out", "--json")
    # one channel is what the model takes: the second file is a case of its own, not lost
    assert code == 0, err
    assert sorted(case["case"] for case in json.loads(out)["cases"]) == ["case", "case_0001"]


def test_folders_of_patients_get_other_names_in_tables(abdomens, tmp_path):
    series = next((abdomens / "imagesTs").glob("*_dicom"))
    shutil.copytree(series, tmp_path / "images" / "muster_erika")
    shutil.copytree(series, tmp_path / "images" / "other")
    (tmp_path / "labels").mkdir()
    for name in ("muster_erika", "other"):
        shutil.copytree(series, tmp_path / "labels" / name)
    cases = without_names(find_dataset(tmp_path).cases)
    assert [case.name.startswith("case-") for case in cases] == [True, False]
    assert cases[0].patient == cases[0].name
    assert cases[1].name == cases[1].patient == "other"


def test_regions_of_nnunet_are_judged_and_labels_are_learnt(cli, abdomens, untrained, tmp_path):
    """Regions overlap: each is the union of its labels, whose truth and prediction are counted anew."""
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    described = json.loads((data / "dataset.json").read_text())
    described |= {"labels": {"background": 0, "organs": [1, 2, 3], "paired": [2, 3]}, "regions_class_order": [1, 2]}
    (data / "dataset.json").write_text(json.dumps(described))
    dataset = find_dataset(data)
    assert dataset.classes == {0: "background", 1: "label 1", 2: "label 2", 3: "label 3"}
    assert dataset.regions == {"organs": (1, 2, 3), "paired": (2, 3)}
    model = tmp_path / "model"
    shutil.copytree(untrained, model)
    config = json.loads((model / "config.json").read_text())
    config["preprocessing"]["classes"] = list(dataset.classes.values())
    (model / "config.json").write_text(json.dumps(config))
    case = dataset.labelled[0]
    organs, paired = judge(load_model(model), dataset, [case]).rows
    assert (organs["class"], paired["class"]) == ("organs", "paired")
    truth = dataset.labels(case, None)
    voxel = np.prod(nib.load(case.images[0]).header.get_zooms()) / 1000
    assert paired["truth_ml"] == pytest.approx(float((truth >= 2).sum() * voxel))
    code, out, err = cli("organs", "inspect", data)
    assert code == 0, err
    assert "label 2 + label 3" in out
