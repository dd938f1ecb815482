"""Verbs on drawn abdomens: geometry of what is written, resume, refusals, determinism."""

import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from core_runtime.errors import UserError
from medical_segmentation.organs.cohort.dataset import with_patients
from medical_segmentation.organs.cohort.folds import split_cases
from medical_segmentation.organs.cohort.layouts import find_dataset


def test_every_mask_has_the_geometry_of_its_image(cli, abdomens, untrained, tmp_path):
    code, out, err = cli(
        "organs", "predict", abdomens / "imagesTr", "--model", untrained, "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["cases"]) == 6
    for path in sorted((abdomens / "imagesTr").glob("*.nii.gz")):
        name = path.name.removesuffix("_0000.nii.gz")
        source, mask = nib.load(path), nib.load(tmp_path / "out" / name / f"{name}.nii.gz")
        assert np.array_equal(source.affine, mask.affine), name
        assert source.shape == mask.shape
        assert np.array_equal(source.header["srow_x"], mask.header["srow_x"])
    code, out, err = cli(
        "organs", "predict", abdomens / "imagesTr", "--model", untrained, "--out", tmp_path / "out", "--confidence"
    )
    assert code == 2
    assert "was made with another" in err


def test_a_sheared_big_endian_volume_goes_through_inspect_and_predict(cli, nifti, untrained, tmp_path):
    sheared = np.array([[-0.9, 0.3, 0, 5], [0, 1, 0.2, 2], [0, 0, 2.5, -9], [0, 0, 0, 1]])
    values = np.random.default_rng(0).integers(-1000, 400, (24, 20, 5)).astype(">i2")
    path = nifti(values, sheared, "sheared.nii", sform_code=2)
    code, out, err = cli("organs", "inspect", path, "--json")
    assert code == 0, err
    assert any("sheared" in warning for warning in json.loads(out)["warnings"])
    code, _, err = cli("organs", "predict", path, "--model", untrained, "--out", tmp_path / "out")
    assert code == 0, err
    source, mask = nib.load(path), nib.load(tmp_path / "out" / "sheared" / "sheared.nii.gz")
    assert np.array_equal(source.affine, mask.affine)
    assert mask.shape == source.shape
    assert mask.header["sform_code"] == 2


def test_orientation_does_not_change_the_answer(abdomens, untrained, tmp_path):
    """The same body, stored along other axes, gets the same labels at the same places."""
    from medical_segmentation.organs import load_model
    from medical_segmentation.volumes.opening import open_volume

    path = abdomens / "imagesTr" / "abdomen_001_0000.nii.gz"
    image = nib.load(path)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("PSL")
    )
    nib.save(image.as_reoriented(change), tmp_path / "turned.nii.gz")
    model = load_model(untrained)
    first, second = open_volume(path), open_volume(tmp_path / "turned.nii.gz")
    straight = nib.Nifti1Image(model.predict(first).labels, first.geometry.affine)
    turned = nib.Nifti1Image(model.predict(second).labels, second.geometry.affine)
    assert np.array_equal(
        np.asarray(nib.as_closest_canonical(straight).dataobj), np.asarray(nib.as_closest_canonical(turned).dataobj)
    )


def test_volumes_in_windows(abdomens, tmp_path):
    """The 3-D form: windows smaller than the volume, resampled, on the grid of an image that is stored along other axes."""
    import torch

    from medical_segmentation.organs import load_model
    from medical_segmentation.organs.model.folder import save_model
    from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig
    from medical_segmentation.organs.model.preparation import Preparation
    from medical_segmentation.organs.options import InferenceOptions
    from medical_segmentation.volumes.opening import open_volume

    torch.manual_seed(0)
    network = GuidedAttentionNet(GuidedConfig(n_classes=4, backbone="test_resnet", width=8, dims=3)).eval()
    preparation = Preparation("window", -100, 150, spacing=(5.0, 5.0, 3.0), dims=3, window=(16, 16, 16))
    classes = ("background", "liver", "spleen", "kidneys")
    folder = save_model(
        network, tmp_path / "model", preparation=preparation, classes=classes, channels=("CT",), provenance={}
    )
    volume = open_volume(abdomens / "imagesTr" / "abdomen_004_0000.nii.gz")
    result = load_model(folder).predict(volume, InferenceOptions(confidence=True))
    assert result.labels.shape == volume.geometry.shape == result.confidence.shape
    assert 0.25 <= float(result.confidence.min()) <= float(result.confidence.max()) <= 1


def test_a_series_gets_a_segmentation_and_no_file_names_the_patient(cli, abdomens, untrained, tmp_path):
    source = tmp_path / "Erika Muster"
    shutil.copytree(next((abdomens / "imagesTs").glob("*_dicom")), source)
    code, out, err = cli(
        "organs", "predict", source, "--model", untrained, "--out", tmp_path / "out", "--viewer", "--abstain"
    )
    assert code == 0, err
    assert "Muster" not in out.replace(str(source), "")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name.endswith("_seg.dcm") for path in files)
    for path in files:
        assert "uster" not in str(path.relative_to(tmp_path / "out"))
        if path.suffix != ".dcm":
            assert b"Muster" not in path.read_bytes(), path


def test_neither_log_nor_report_names_the_patient(cli, abdomens, untrained, tmp_path):
    """Not even where the series cannot be used; the terminal says which case is whose."""
    series = next((abdomens / "imagesTs").glob("*_dicom"))
    shutil.copytree(series, tmp_path / "all" / "muster_one")
    shutil.copytree(series, tmp_path / "all" / "muster_two")
    (tmp_path / "all" / "muster_two" / "IM0002.dcm").unlink()
    out = tmp_path / "out"
    code, _, err = cli("organs", "predict", tmp_path / "all", "--model", untrained, "--out", out)
    assert code == 1
    assert "muster_two names the patient: its results are called case-" in err
    assert "is missing" in (out / "log.jsonl").read_text()
    code, text, err = cli("organs", "inspect", tmp_path / "all", "--report", out / "all.html", "--json")
    assert code == 1, err  # one of the two cannot be used
    code, more, err = cli("organs", "inspect", tmp_path / "all" / "muster_one", "--report", out / "one.html", "--json")
    assert code == 0, err
    written = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in out.rglob("*")
        if path.suffix != ".dcm" and path.is_file()
    ]
    for each in (text, more, *written):
        assert "muster" not in each.lower()


def test_bad_files_among_good_ones_are_named_and_the_rest_is_done(cli, abdomens, untrained, tmp_path):
    folder = tmp_path / "volumes"
    folder.mkdir()
    shutil.copy(abdomens / "imagesTr" / "abdomen_001_0000.nii.gz", folder / "good.nii.gz")
    whole = (abdomens / "imagesTr" / "abdomen_002_0000.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    code, _, err = cli("organs", "predict", folder, "--model", untrained, "--out", tmp_path / "out")
    assert code == 1
    assert "cut" in err
    assert "truncated" in err
    assert (tmp_path / "out" / "good" / "good.nii.gz").is_file()
    assert not (tmp_path / "out" / "cut").exists()


def test_disk_full_leaves_nothing_and_a_rerun_goes_on(cli, abdomens, untrained, tmp_path, monkeypatch):
    import errno

    from medical_segmentation.volumes import nifti

    path = abdomens / "imagesTr" / "abdomen_001_0000.nii.gz"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(nifti, "write_nifti", full)
        code, _, err = cli("organs", "predict", path, "--model", untrained, "--out", tmp_path / "out")
    assert code == 2
    assert "No space left" in err
    assert not (tmp_path / "out" / "abdomen_001").exists()
    code, _, err = cli("organs", "predict", path, "--model", untrained, "--out", tmp_path / "out")
    assert code == 0, err


def test_inspect_of_volumes_and_data_sets(cli, abdomens, tmp_path):
    code, out, _ = cli(
        "organs",
        "inspect",
        abdomens / "imagesTr" / "abdomen_003_0000.nii.gz",
        "--report",
        tmp_path / "page.html",
        "--json",
    )
    facts = json.loads(out)
    assert code == 0
    assert facts["geometry_exact"]["axes"] == "LAS"
    assert "GB beyond the network" in facts["memory forecast"]
    assert "data:image/png;base64" in (tmp_path / "page.html").read_text()
    code, out, _ = cli("organs", "inspect", abdomens, "--json")
    facts = json.loads(out)
    assert facts["patients"] == 6
    assert facts["labels"].keys() == {"background", "liver", "spleen", "kidneys"}


def test_the_forecast_of_a_model_counts_its_classes_on_its_grid(cli, abdomens, untrained):
    """Of slices of 32 by 32 and four classes: 4 slices of scores, not windows of 96³ of 25 classes."""
    path = abdomens / "imagesTr" / "abdomen_003_0000.nii.gz"
    code, out, err = cli("organs", "inspect", path, "--model", untrained, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert "for 4 classes in slices" in facts["memory forecast"]
    assert facts["forecast_gb"]["scores"] == pytest.approx(32 * 32 * 4 * 4 * 4 / 1e9)


def test_patients_stay_in_one_part(abdomens, tmp_path):
    dataset = find_dataset(abdomens)
    table = tmp_path / "patients.csv"
    rows = [f"{case.name},{'ABC'[number // 2]}" for number, case in enumerate(dataset.labelled)]
    table.write_text("case,patient\n" + "\n".join(rows) + "\n")
    split = split_cases(with_patients(dataset, table), fold=0, folds=5, seed=0)
    assert len({case.patient for case in split.val}) == 1
    assert len(split.val) == 2
    (tmp_path / "half.csv").write_text("case,patient\nabdomen_001,A\n")
    with pytest.raises(UserError, match="does not name the patient"):
        with_patients(dataset, tmp_path / "half.csv")


def test_a_patient_in_two_folds_is_refused(abdomens, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        for old, new in (("abdomen_001", "sub-1_a"), ("abdomen_002", "sub-1_b")):
            (data / folder / f"{old}{suffix}.nii.gz").rename(data / folder / f"{new}{suffix}.nii.gz")
    (data / "splits_final.json").write_text('[{"train": ["sub-1_a", "abdomen_003"], "val": ["sub-1_b"]}]')
    with pytest.raises(UserError, match="1 patient"):
        split_cases(find_dataset(data), fold=0, folds=5, seed=0)


def test_an_image_under_two_names_is_not_trained_on_and_judged(cli, abdomens, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    for folder, name in (("imagesTr", "abdomen_{}_0000.nii.gz"), ("labelsTr", "abdomen_{}.nii.gz")):
        for number in range(90, 96):
            shutil.copy(data / folder / name.format("001"), data / folder / name.format(f"0{number}"))
    (data / "splits_final.json").write_text('[{"train": ["abdomen_001", "abdomen_003"], "val": ["abdomen_090"]}]')
    code, _, err = cli("organs", "train", data, "--out", tmp_path / "run")
    assert code == 2
    assert "abdomen_090 is abdomen_001" in err
    code, out, _ = cli("organs", "inspect", data)
    assert code == 0
    assert "abdomen_001, abdomen_090, abdomen_091" in out


def test_a_run_beside_itself_and_an_ensemble_of_one(cli, abdomens, untrained, tmp_path):
    code, _, err = cli("organs", "compare", tmp_path, tmp_path)
    assert code == 2
    assert "given twice" in err
    path = abdomens / "imagesTr" / "abdomen_001_0000.nii.gz"
    code, _, err = cli("organs", "predict", path, "--model", f"{untrained}, {untrained}", "--out", tmp_path / "out")
    assert code == 2
    assert "named twice" in err


def test_data_sets_that_do_not_fit(cli, abdomens, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    described = json.loads((data / "dataset.json").read_text())
    for labels, says in (
        ({"background": 0, "liver": 1, "spleen": 3}, "without gaps"),
        ({"background": 0, "whole": [1, 3]}, "without gaps"),
        ({"background": 0, "whole": [0, 1], "liver": 1}, "whole holds the background"),
        ({"0": "background", "1": "liver"}, "a label is a whole number"),
    ):
        (data / "dataset.json").write_text(json.dumps(described | {"labels": labels}))
        code, _, err = cli("organs", "train", data, "--out", tmp_path / "run")
        assert code == 2
        assert says in err
    (data / "dataset.json").write_text("{not json")
    assert cli("organs", "train", data, "--out", tmp_path / "run")[0] == 2
    assert not (tmp_path / "run").exists()


def test_labels_of_255_are_named_and_mapped(cli, abdomens, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    path = data / "labelsTr" / "abdomen_001.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[values == 2] = 255
    nib.save(nib.Nifti1Image(values, None, image.header), path)
    code, out, _ = cli("organs", "inspect", data, "--json")
    assert code == 0
    assert any("255 (" in warning and "--map 255=1" in warning for warning in json.loads(out)["warnings"])
    code, out, _ = cli("organs", "inspect", data, "--map", "255=2", "--json")
    assert not any("255" in warning for warning in json.loads(out)["warnings"])
    code, _, err = cli("organs", "inspect", data, "--map", "255")
    assert code == 2
    assert "--map 255 is not understood" in err


def test_decathlon_brats_hvsmr_chaos_and_plain_folders(tmp_path):
    def volume(path, labels=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = (
            np.random.default_rng(0)
            .integers(0, 2 if labels else 90, (4, 4, 4))
            .astype(np.uint8 if labels else np.int16)
        )
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)

    decathlon = tmp_path / "Task09_Spleen"
    volume(decathlon / "imagesTr" / "spleen_2.nii.gz")
    volume(decathlon / "labelsTr" / "spleen_2.nii.gz", labels=True)
    (decathlon / "imagesTr" / "._spleen_2.nii.gz").write_bytes(b"x")
    (decathlon / "dataset.json").write_text(
        '{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "numTraining": 1, '
        '"training": [{"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"}], "test": []}'
    )
    dataset = find_dataset(decathlon)
    assert (dataset.layout, dataset.classes[1], dataset.channels) == (
        "Medical Segmentation Decathlon",
        "spleen",
        ["CT"],
    )
    for channel in ("flair", "t1", "t1ce", "t2", "seg"):
        volume(tmp_path / "brats" / "HGG" / "Brats18_1" / f"Brats18_1_{channel}.nii.gz", labels=channel == "seg")
    brats = find_dataset(tmp_path / "brats")
    assert brats.image(brats.cases[0]).channels == 4
    assert brats.mapping == {4: 3}
    assert brats.regions == {"whole tumour": (1, 2, 3), "tumour core": (1, 3), "enhancing tumour": (3,)}
    volume(tmp_path / "hvsmr" / "training_axial_crop_pat0.nii.gz")
    volume(tmp_path / "hvsmr" / "training_axial_crop_pat0-label.nii.gz", labels=True)
    assert find_dataset(tmp_path / "hvsmr").layout == "HVSMR 2016"
    volume(tmp_path / "plain" / "images" / "a.nii.gz")
    volume(tmp_path / "plain" / "labels" / "a.nii.gz", labels=True)
    assert len(find_dataset(tmp_path / "plain").labelled) == 1


def test_png_slices_of_the_published_code(tmp_path):
    from PIL import Image

    for part in ("train", "val"):
        for kind, top in (("Img", 200), ("GT", 252)):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            for number in (2, 10):
                pixels = np.zeros((8, 6), np.uint8)
                pixels[2:4, 1:3] = top if number == 2 else 63
                Image.fromarray(pixels).save(folder / f"Subj_{part[0]}1slice_{number}.png")
    dataset = find_dataset(tmp_path)
    (case,) = [case for case in dataset.cases if case.part == "train"]
    image = dataset.image(case)
    labels = dataset.labels(case, image)
    assert image.geometry.shape == (6, 8, 2)
    assert labels[1, 2].tolist() == [4, 1]  # slice 2 before slice 10
    for kind in ("Img", "GT"):
        (tmp_path / "train" / kind / "Subj_t1slice_2.png").unlink()
    (case,) = [case for case in find_dataset(tmp_path).cases if case.part == "train"]
    assert dataset.image(case).geometry.shape == (6, 8, 1)  # the slice that is gone counts no more


@pytest.fixture(scope="module")
def run(abdomens, tmp_path_factory):
    from core_runtime.options import RunOptions
    from medical_segmentation.organs import train
    from medical_segmentation.organs.model.sizes import NetworkOptions
    from medical_segmentation.organs.training.recipe import Recipe, SplitOptions

    def start(name, **more):
        return train(
            abdomens,
            network=NetworkOptions(backbone="test_resnet", width=8),
            recipe=Recipe(epochs=2, augment=False),
            split=SplitOptions(folds=3),
            run=RunOptions(out=tmp_path_factory.getbasetemp() / name, device="cpu", threads=1, **more),
        )

    return start


@pytest.mark.slow
def test_same_seed_same_weights_bit_for_bit(run):
    from safetensors.numpy import load_file

    weights = [load_file(run(name).model / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        assert np.array_equal(tensor, weights[1][name]), name


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(run, monkeypatch):
    from safetensors.numpy import load_file

    from medical_segmentation.organs.training.module import OrganTraining

    whole = load_file(run("whole").model / "model.safetensors")
    original, calls = OrganTraining.training_step, []

    def killed(self, batch, index):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(OrganTraining, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    resumed = load_file(run("killed", resume=True).model / "model.safetensors")
    for name, tensor in whole.items():
        assert np.array_equal(tensor, resumed[name]), name


def test_another_modality_and_a_model_of_drawings_are_said(cli, abdomens, untrained, tmp_path):
    """A model of CT answers about a picture without air, or of a DICOM series of MR, only with a word."""
    from medical_segmentation.organs import load_model
    from medical_segmentation.volumes.opening import open_volume

    path = abdomens / "imagesTr" / "abdomen_001_0000.nii.gz"
    model = load_model(untrained)
    volume = open_volume(path)
    assert model.channels == ("CT",)
    assert model.doubts(volume) == []
    volume.modality = "MR"
    assert model.doubts(volume) == ["the model was trained on CT, this is MR"]
    image = nib.load(path)
    positive = np.asarray(image.dataobj) - np.asarray(image.dataobj).min()
    nib.save(nib.Nifti1Image(positive.astype(np.float32), image.affine), tmp_path / "mr.nii.gz")
    code, out, err = cli("organs", "predict", tmp_path / "mr.nii.gz", "--model", untrained, "--out", tmp_path / "out")
    assert code == 0, err
    assert "Warning: no voxel is below -200" in out
    drawn = replace(model, provenance={**model.provenance, "drawn": True})
    assert "drawings only" in drawn.doubts(open_volume(path))[0]


def test_samples_say_that_they_are_drawn(abdomens):
    assert find_dataset(abdomens).drawn


def test_a_page_to_scroll_through_holds_every_layer(nifti, tmp_path):
    """Also of a case whose name is one of the page's own words."""
    from medical_segmentation.organs.reports.viewer import write_viewer
    from medical_segmentation.volumes.opening import open_volume

    values = np.random.default_rng(0).integers(-100, 100, (8, 9, 3)).astype(np.int16)
    volume = open_volume(nifti(values))
    labels = (values > 0).astype(np.uint8)
    layers = {"truth": labels[::-1], "confidence": labels * 0.5, "attention": labels.astype(np.float32)}
    path = write_viewer(volume, labels, ("background", "KEYS"), tmp_path / "a.html", title="DEPTH_1", **layers)
    page = path.read_text(encoding="utf-8")
    assert "<title>DEPTH_1</title>" in page
    assert "</span>KEYS</p>" in page
    drawn = json.loads(re.search(r"const layers = (\[.*?\]), depth = 3,", page)[1])
    assert [layer["name"] for layer in drawn] == ["image", "prediction", "truth", "uncertainty", "attention"]
    assert all(len(layer["slices"]) == 3 for layer in drawn)


def test_an_evaluation_fills_voxels_and_shows_its_worst_case(cli, abdomens, untrained, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(abdomens, data)
    for path in (data / "imagesTr").iterdir():
        image = nib.load(path)
        values = np.asarray(image.dataobj, np.float32).copy()
        values[0, 0, 0] = np.nan
        nib.save(nib.Nifti1Image(values, image.affine), path)
    (data / "splits_final.json").unlink(missing_ok=True)
    for path in sorted((data / "labelsTr").iterdir())[1:]:
        path.unlink()
        (data / "imagesTr" / path.name.replace(".nii", "_0000.nii")).unlink()
    code, _, err = cli(
        "organs", "evaluate", data, "--model", untrained, "--fill", "-1000", "--out", tmp_path / "evaluation"
    )
    assert code == 0, err
    assert '"name": "truth"' in (tmp_path / "evaluation" / "worst.html").read_text(encoding="utf-8")


def test_a_line_of_pixels_is_drawn_without_a_contour():
    from matplotlib.figure import Figure

    from medical_segmentation.organs.reports.figures import _overlay

    mask = np.zeros((12, 1), int)
    mask[3:6] = 1
    _overlay(Figure().subplots(), mask, 1.0)
