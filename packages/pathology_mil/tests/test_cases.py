"""Each row of the shared cases of tables, regions, features and model folders gives what it should."""

import importlib.util
import json
import shutil

import pytest

HIDDEN = "TCGA-AA-0001-01Z-00-DX1.ABC"


@pytest.fixture(scope="module")
def cases(shared):
    folder = shared / "cases" / "pathology_mil"
    if not folder.is_dir():
        pytest.skip("the shared cases are not here")
    return folder


@pytest.fixture(scope="module")
def features(cases, tmp_path_factory):
    """Two folders of features, A and B, of slides with the same names and other numbers; labels.csv beside them."""
    spec = importlib.util.spec_from_file_location("make_features", cases / "make_features.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("features")
    script.make(folder / "A")
    script.make(folder / "B", seed=5)
    rows = [f"p{i // 2},s{i:02d},{'tumour' if i % 2 else 'normal'}" for i in range(24)]
    (folder / "labels.csv").write_text("\n".join(["case_id,slide_id,label", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(features):
    """A model trained on A for an epoch."""
    from core_runtime.options import RunOptions
    from pathology_mil.commands.train import train
    from pathology_mil.training.recipe import Recipe

    run = RunOptions(out=features / "run", device="cpu")
    train(features / "A", features / "labels.csv", recipe=Recipe(epochs=1), resamples=20, run=run)
    return features / "run" / "model"


def words_of(text):
    return " ".join(text.split())


def test_an_answer_belongs_to_the_features_that_it_was_made_from(cli, features, model, tmp_path):
    options = ("--model", model, "--out", tmp_path / "p", "--device", "cpu")
    assert cli("predict", features / "A", *options)[0] == 0
    before = (tmp_path / "p" / "predictions.csv").read_bytes()
    code, _, error = cli("predict", features / "B", *options)
    assert code == 2
    assert "was made with another features" in words_of(error)
    assert (tmp_path / "p" / "predictions.csv").read_bytes() == before


def test_training_slides_are_left_out_of_an_evaluation_and_named(cli, features, model, tmp_path):
    arguments = (features / "A", features / "labels.csv", "--model", model, "--out", tmp_path / "e", "--resamples", 20)
    code, said, error = cli("evaluate", *arguments)
    assert code == 0, error
    assert "slides that the model has seen" in words_of(said + error)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("labels_patient_id.csv", "24 rows, all used"),
        ("labels_NA.csv", "24 rows, 20 used, 4 left out: 4 without a label"),
        ("labels_case.csv", "'Tumour' and 'tumour' count as 2 classes"),
        ("labels_semicolon.csv", "24 rows, all used"),
        ("labels_utf16.csv", "24 rows, all used"),
    ],
)
def test_tables_of_labels(cases, features, table, words):
    from pathology_mil.cohort.cohort import open_cohort

    cohort = open_cohort(features / "A", cases / table)
    notes = " | ".join(cohort.labels.notes)
    assert words in notes
    assert ("no slide's patient is known" in notes) == (table != "labels_patient_id.csv")
    if table == "labels_patient_id.csv":
        assert len({cohort.labels.case[slide] for slide in cohort.labels.label}) == 12


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("slides_blank_row.csv", ""),
        ("slides_semicolon.csv", ""),
        ("slides_latin1.csv", ""),
        ("slides_same_slide_two_mpp.csv", "is listed twice, with a resolution of 0.5 and of 0.25"),
    ],
)
def test_tables_of_slides(cases, cmu, tmp_path, table, words):
    from core_runtime.errors import UserError
    from pathology_mil.slides.reading import find_slides

    shutil.copy(cases / table, tmp_path)
    for name in ("CMU-1-Small-Region.svs", "Müller.svs"):
        shutil.copy(cmu, tmp_path / name)
    if words:
        with pytest.raises(UserError, match=words):
            find_slides(tmp_path / table)
    else:
        (slide,) = find_slides(tmp_path / table)
        assert slide.mpp == 0.5


def test_a_process_list_names_slides_with_dots(cli, cases, cmu, tmp_path):
    shutil.copy(cmu, tmp_path / f"{HIDDEN}.svs")
    arguments = ("--layout", "clam", "--process-list", cases / "process_list_dotted_id.csv", "--out", tmp_path / "job")
    code, said, error = cli("tile", tmp_path / f"{HIDDEN}.svs", *arguments)
    assert code == 0, error
    assert "50 tiles" in words_of(said)


@pytest.mark.parametrize(
    ("region", "tiles", "words"),
    [
        ("tissue_with_ignore.geojson", 77, "cut out: Ignore"),
        ("tissue_geometry_collection.geojson", 81, "Tissue 1.04 mm²"),
        ("tissue_outside_slide.geojson", 0, "outside the slide (2220 × 2967)"),
    ],
)
def test_tissue_that_was_drawn(cli, cases, cmu, tmp_path, region, tiles, words):
    (tmp_path / "drawn").mkdir()
    shutil.copy(cases / region, tmp_path / "drawn" / f"{cmu.stem}.geojson")
    code, said, error = cli("tile", cmu, "--tissue-from", tmp_path / "drawn", "--out", tmp_path / "job")
    assert words in words_of(said + error)
    assert code == (0 if tiles else 2)
    if tiles:
        assert f"{tiles} tiles" in words_of(said)


@pytest.mark.parametrize(
    ("truth", "counted", "other"),
    [
        ("truth_non_tumor.geojson", [], ["Non-tumor"]),
        ("truth_tumor_1_tumor_2.geojson", ["Tumor_1", "Tumor_2"], []),
    ],
)
def test_what_counts_as_tumour(cases, truth, counted, other):
    from pathology_mil.slides.annotations import read_annotations
    from pathology_mil.slides.regions import truth_area

    area = truth_area(read_annotations(cases / truth), where=truth)
    assert (sorted(area.counted), sorted(area.other), sorted(area.cut_out)) == (counted, other, [])


def test_a_config_of_an_earlier_run_repeats_it(cli, cases, features, tmp_path):
    arguments = ("--config", cases / "own_run_config.yaml", "--epochs", 1, "--device", "cpu", "--resamples", 20)
    code, _, error = cli("train", features / "A", features / "labels.csv", *arguments, "--out", tmp_path / "run")
    assert code == 0, error
    made = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert made["config"]["top_k"] == 0


def test_a_config_without_options_is_one_line(cli, cases, features, tmp_path):
    arguments = (features / "A", features / "labels.csv", "--config", cases / "config_arguments_null.yaml")
    code, _, error = cli("train", *arguments, "--out", tmp_path / "run")
    assert code == 2
    assert "holds no 'option: value' lines" in words_of(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("model_config_preprocessing_int.json", "preprocessing is -1, expected an object"),
        ("model_config_provenance_not_object.json", "provenance is 10000000, expected an object"),
    ],
)
def test_fields_of_a_model_folder(cli, cases, features, model, tmp_path, config, words):
    shutil.copytree(model, tmp_path / "m")
    shutil.copy(cases / config, tmp_path / "m" / "config.json")
    calls = [
        ("predict", features / "A", "--model", tmp_path / "m", "--out", tmp_path / "p"),
        ("models", "check", tmp_path / "m"),
    ]
    for call in calls:
        code, _, error = cli(*call)
        assert code == 2
        assert words in words_of(error)
