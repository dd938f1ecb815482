"""An answer belongs to what it was made from: other features, models, weights, patients and slides are refused or told apart."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml

from core_runtime.errors import UserError
from core_runtime.options import BulkOptions, RunOptions
from pathology_mil.cohort.cohort import open_cohort
from pathology_mil.cohort.labels import read_labels
from pathology_mil.cohort.options import LabelOptions, SplitOptions
from pathology_mil.cohort.splits import make_splits
from pathology_mil.commands.evaluate import evaluate
from pathology_mil.commands.heatmap import heatmap
from pathology_mil.commands.predict import predict
from pathology_mil.commands.train import train
from pathology_mil.features.options import EncoderOptions
from pathology_mil.model.folder import LoadedModel, load
from pathology_mil.model.preparing import encoder_of
from pathology_mil.reports.options import MapOptions
from pathology_mil.training.recipe import MaskingOptions, NetworkOptions, Recipe


def other_numbers(folder, out, **attributes):
    """The same slides with other features."""
    shutil.copytree(folder, out)
    rng = np.random.default_rng(9)
    for path in out.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][...] = rng.normal(size=file["features"].shape)
            for name, value in attributes.items():
                file["coords" if name in file["coords"].attrs else "features"].attrs[name] = value
    return out


def test_predictions_of_other_features_are_refused(trained, cohort, tmp_path):
    options = {"model": str(trained.model), "out": tmp_path / "out", "device": "cpu"}
    first = predict(cohort[0], **options).predictions
    other = other_numbers(cohort[0], tmp_path / "B")
    with pytest.raises(UserError, match="was made with another features"):
        predict(other, **options)
    second = predict(other, run=BulkOptions(overwrite=True), **options).predictions
    assert [slide["probabilities"] for slide in first] != [slide["probabilities"] for slide in second]
    assert predict(other, **options).predictions == second


def test_a_heat_map_of_other_features_is_refused(trained, tmp_path):
    from PIL import Image

    slide = tmp_path / "s.png"
    Image.fromarray(np.full((600, 600, 3), (220, 130, 180), np.uint8)).save(slide)
    for name in ("F1", "F2"):
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "s.h5", "w") as file:
            file["features"] = np.random.default_rng(len(name + name[-1]) + int(name[-1])).normal(size=(4, 16))
            file["coords"] = np.array([[0, 0], [256, 0], [0, 256], [256, 256]])
            file["coords"].attrs["patch_size_level0"] = 256
    options = {
        "model": str(trained.model),
        "out": tmp_path / "maps",
        "device": "cpu",
        "drawing": MapOptions(max_side=200, top=2),
    }
    first = heatmap(slide, features=tmp_path / "F1", **options).attempts[0].facts
    with pytest.raises(UserError, match="was made with another features"):
        heatmap(slide, features=tmp_path / "F2", **options)
    second = heatmap(slide, features=tmp_path / "F2", run=BulkOptions(overwrite=True), **options).attempts[0].facts
    assert first["probabilities"] != second["probabilities"]


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("encoder", "uni_v1", "different encoder toy and uni_v1"),
        ("target_magnification", 10, "different magnification 20 and 10"),
        ("patch_size", 512, "different patch size 256 and 512"),
    ],
)
def test_features_of_another_kind_are_refused(trained, cohort, tmp_path, attribute, value, message):
    other = other_numbers(cohort[0], tmp_path / "B", **{attribute: value})
    with pytest.raises(UserError, match=message):
        predict(other / "slide00.h5", model=str(trained.model), out=tmp_path / "out")
    with pytest.raises(UserError, match=message):
        evaluate(other, cohort[1], model=str(trained.model), out=tmp_path / "eval", resamples=0)
    shutil.copy(cohort[0] / "slide03.h5", other / "slide03.h5")
    with pytest.raises(UserError, match="made in different ways are mixed"):
        open_cohort(other, cohort[1])


def test_other_weights_of_the_encoder_are_refused(tmp_path):
    for name in ("one", "two"):
        torch.save({"w": torch.tensor([float(len(name) + ord(name[0]))])}, tmp_path / f"{name}.pth")
    one, two = (EncoderOptions(encoder="timm:resnet18", weights=tmp_path / f"{name}.pth") for name in ("one", "two"))
    features = {"encoder": "resnet18", "weights": one.plain()["weights"]}
    model = LoadedModel(torch.nn.Identity(), ("a", "b"), features, {})
    assert encoder_of(model, one) == one
    with pytest.raises(UserError, match="other weights of resnet18"):
        encoder_of(model, two)


def test_a_model_folder_knows_its_slides_and_evaluate_tells_them_apart(trained, cohort, tmp_path):
    provenance = json.loads((trained.model / "config.json").read_text())["provenance"]
    parts = {name: set(slides) for name, slides in provenance["slides"].items()}
    assert sum(map(len, parts.values())) == 24
    assert not set(provenance["patients"]["train"]) & set(provenance["patients"]["test"])
    options = {"model": str(trained.model), "resamples": 0, "device": "cpu"}
    found = evaluate(*cohort, out=tmp_path / "a", **options)
    assert found.metrics.slides == len(parts["test"])
    assert set(found.seen) == parts["train"] | parts["val"]
    assert any("Left out: " in line for line in found.lines())
    everything = evaluate(*cohort, out=tmp_path / "b", include_seen=True, **options)
    assert everything.metrics.slides == 24
    assert any("Evaluated with" in line for line in everything.lines())

    # renamed copies of training slides are still training slides
    (tmp_path / "renamed").mkdir()
    rows = ["slide_id,label"]
    for slide in sorted(parts["train"]):
        shutil.copy(cohort[0] / f"{slide}.h5", tmp_path / "renamed" / f"new_{slide}.h5")
        rows.append(f"new_{slide},normal")
    (tmp_path / "renamed.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"none of the \d+ slides is new to the model"):
        evaluate(tmp_path / "renamed", tmp_path / "renamed.csv", out=tmp_path / "c", **options)

    # other slides of a training patient
    model = load(trained.model)
    patient = provenance["patients"]["train"][0]
    assert "another slide of patient" in model.seen({"x": "0"}, {"x": patient})["x"]
    assert model.seen({"x": "0"}, {"x": "nobody"}) == {}


def test_patients_by_column_and_by_barcode(tmp_path):
    rows = "".join(f"p{i // 4 * 2 + i % 2},s{i:02},{'tumour' if i % 2 else 'normal'}\n" for i in range(24))
    for name in ("patient_id", "Patient ID", "subject", "case"):
        (tmp_path / "labels.csv").write_text(f"{name},slide_id,label\n{rows}")
        labels = read_labels(tmp_path / "labels.csv")
        assert labels.case["s00"] == labels.case["s02"] == "p0"
        split = make_splits(labels)[0]
        owners = [{labels.case[slide] for slide in part} for part in split]
        assert not owners[0] & owners[2]
        assert not owners[0] & owners[1]
    (tmp_path / "labels.csv").write_text(
        "slide_id,label\nTCGA-AA-0001-01Z-00-DX1.svs,a\nTCGA-AA-0001-01Z-00-DX2.svs,b\n"
    )
    assert set(read_labels(tmp_path / "labels.csv").case.values()) == {"TCGA-AA-0001"}
    (tmp_path / "labels.csv").write_text("slide_id,label\nx,a\ny,b\n")
    assert any("--patient-col" in note for note in read_labels(tmp_path / "labels.csv").notes)


def test_labels_as_they_come(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,label\ns0,normal\ns1,tumour\ns2,NA\ns3,\n")
    labels = read_labels(path)
    assert labels.classes == ("normal", "tumour")
    assert any("4 rows, 2 used, 2 left out: 2 without a label" in note for note in labels.notes)
    path.write_text("slide_id,label\ns0,normal\ns1,tumour\ns2,Tumour\n")
    assert any("'Tumour' and 'tumour' count as 2 classes" in note for note in read_labels(path).notes)
    body = "slide_id;label\ns0;normal\ns1;tumour\n"
    for data in (body.encode(), body.encode("utf-16"), body.replace(";", "\t").encode()):
        path.write_bytes(data)
        assert read_labels(path).label == {"s0": 0, "s1": 1}
    path.write_text('slide_id,label\ns0,normal\ns1,"tumour\n' + "".join(f"t{i},tumour\n" for i in range(20)))
    labels = read_labels(path)
    assert len(labels) == 21
    assert any("1 with a quote that is not closed (line 3)" in note for note in labels.notes)


def test_a_run_is_repeated_from_its_own_config(cohort, tmp_path, cli):
    run = RunOptions(out=tmp_path / "run", seed=3, device="cpu")
    first = train(*cohort, network=NetworkOptions(width=8), recipe=Recipe(epochs=1, lr=1e-3), resamples=0, run=run)
    code, _, err = cli("train", "--config", tmp_path / "run/config.yaml", "--out", tmp_path / "again")
    assert code == 0, err
    weights = "model/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (first.run / weights).read_bytes()
    arguments = [
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["arguments"] for name in ("run", "again")
    ]
    assert arguments[0] == arguments[1]


CHANGES = {
    "network": [NetworkOptions(branches=3), NetworkOptions(width=8)],
    "masking": [MaskingOptions(mask_drop=0.3), MaskingOptions(top_k=4)],
    "recipe": [Recipe(epochs=2), Recipe(epochs=1, weight_decay=0.1), Recipe(epochs=1, selection="last")],
    "reading": [LabelOptions(ignore_missing=True)],
    "splitting": [SplitOptions(folds=3), SplitOptions(n_shot=2)],
    "resamples": [7],
}


def test_every_option_that_changes_a_run_is_compared_on_resume(cohort, tmp_path):
    options = {"recipe": Recipe(epochs=1), "resamples": 0}
    train(*cohort, run=RunOptions(out=tmp_path / "run", device="cpu"), **options)
    again = RunOptions(out=tmp_path / "run", device="cpu", resume=True)
    for option, values in CHANGES.items():
        for value in values:
            with pytest.raises(UserError, match="the run to resume had other values of"):
                train(*cohort, run=again, **options | {option: value})
    other_seed = RunOptions(out=tmp_path / "run", device="cpu", resume=True, seed=3)
    with pytest.raises(UserError, match="other values of seed"):
        train(*cohort, run=other_seed, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(preprocessing=-1), "preprocessing is -1, expected an object"),
        (lambda c: c.update(provenance=10), "provenance is 10, expected an object"),
        (lambda c: c["preprocessing"].update(classes="ab"), "preprocessing.classes is 'ab', expected a list"),
        (lambda c: c["preprocessing"].update(classes=["a"]), "preprocessing.classes names 1 classes, the model has 2"),
        (lambda c: c["preprocessing"].update(features=[]), "preprocessing.features is \\[\\], expected an object"),
    ],
)
def test_a_field_of_another_type_is_named(trained, tmp_path, change, message, cli):
    shutil.copytree(trained.model, tmp_path / "model")
    file = tmp_path / "model/config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model")
    assert cli("models", "check", tmp_path / "model")[0] == 2


def test_a_config_without_arguments_is_one_line(cohort, tmp_path, cli):
    (tmp_path / "c.yaml").write_text("arguments: null\nlr: 0.001\n")
    code, _, err = cli("train", *cohort, "--config", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()
