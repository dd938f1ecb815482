"""The verbs end to end on drawn shelves."""

import csv
import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from core_runtime.cli import run as run_command
from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from gaze.cli import app
from gaze.cohort.splits import folds, split_trials, unit_of
from gaze.cohort.study import ObjectOptions, load_study
from gaze.commands.compare import compare
from gaze.commands.evaluate import evaluate
from gaze.commands.predict import predict
from gaze.commands.report import report
from gaze.commands.train import train
from gaze.samples import OBSERVERS, make_samples
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.reading_options import ReadOptions
from gaze.scanpaths.writing import write_scanpaths
from gaze.training.recipe import Recipe, Sizes

SIZES = Sizes(width=24, heads=2, feedforward=24, layers=1, pyramid=2, crop=(20, 20), dropout=0.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("shelves"), layouts=5, searches=2)


@pytest.fixture(scope="module")
def model(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    recipe = Recipe(epochs=2, lr=2e-3, batch=8)
    return train(samples.scanpaths, recipe=recipe, sizes=SIZES, run=RunOptions(out=out)).model


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        run_command(app, [str(a) for a in arguments])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def test_samples_are_the_same_in_every_format(samples):
    paths = read_scanpaths(samples.scanpaths).scanpaths
    assert len(paths) == 5 * 2 * len(OBSERVERS)
    recorded = [path for file in sorted(samples.recordings.iterdir()) for path in read_scanpaths(file).scanpaths]
    assert sum(map(len, recorded)) == sum(map(len, paths))
    assert sum(map(len, read_scanpaths(samples.bids).scanpaths)) == sum(map(len, paths))


def test_every_observer_s_strategy_is_named(samples, tmp_path):
    described = report(samples.scanpaths, objects=ObjectOptions(images=samples.pictures), out=tmp_path / "report")
    named = [row["strategy"].partition(":")[0] for row in described.subjects]
    assert named == list(OBSERVERS)
    with (tmp_path / "report" / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    fixations = sum(len(path) for path in read_scanpaths(samples.scanpaths).scanpaths)
    assert sum(int(row["fixations"]) for row in rows) == fixations
    with pytest.raises(UserError, match="already there"):
        report(samples.scanpaths, out=tmp_path / "report")


def test_a_model_is_judged_on_what_it_was_not_trained_on(samples, model, tmp_path):
    judged = evaluate(samples.scanpaths, model=str(model), out=tmp_path / "evaluation", samples=3)
    assert judged.values["part"] == "the model's test part"
    assert judged.values["trials"] == 6  # one scene of five
    assert list(judged.table) == ["uniform", "centre", "nearest step", "OAT", "people (leave one out)"]
    facts = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert facts["measures"]["OAT"]["sequence_score"]["value"] == judged.table["OAT"]["sequence_score"]["value"]
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert 0 < judged.table["OAT"]["mm_duration"]["value"] < 1
    assert any("no predictor predicts durations" in note for note in judged.values["notes"])
    # uniform guesses gain nothing over a uniform guess but by knowing when paths end
    assert abs(judged.table["uniform"]["bits"]["value"]) < 0.5


def test_a_model_is_not_judged_on_its_training_paths(samples, model, tmp_path):
    known = json.loads((model / "config.json").read_text())["provenance"]["trials"]["train"]
    study = load_study(samples.scanpaths)
    learned = [trial.scanpath for trial in study.trials if trial.source in known]
    file = tmp_path / "learned.json"
    write_scanpaths(learned, file)
    with pytest.raises(UserError, match="no path is left to judge"):
        evaluate(file, model=str(model), objects=ObjectOptions(areas=samples.areas), out=tmp_path / "e", samples=1)
    assert not (tmp_path / "e").exists()


def test_the_next_command_runs_as_it_is_printed(samples, tmp_path, capsys):
    words = ["train", samples.scanpaths, "--images", samples.pictures, "--out", tmp_path / "run", "--epochs", 1]
    for name, value in SIZES.__dict__.items():
        if value is not None:
            spelled = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words += [f"--{name.replace('_', '-')}", spelled]
    code, out, err = call(capsys, *words, "--score", "likelihood")
    assert code == 0, err
    (following,) = (line for line in out.splitlines() if line.startswith("Next: gaze "))
    arguments = shlex.split(following.removeprefix("Next: gaze "))
    code, out, err = call(capsys, *arguments, "--out", tmp_path / "evaluation", "--samples", 1)
    assert code == 0, err
    assert "an interval over 1 scenes says little" in out


def test_other_trials_of_the_same_names_are_judged(model, tmp_path):
    others = make_samples(tmp_path / "others", layouts=5, searches=2, other_formats=False, seed=9)
    judged = evaluate(others.scanpaths, model=str(model), out=tmp_path / "e", samples=1)
    assert judged.values["trials"] == 30


def test_a_model_trained_with_pictures_asks_for_them(samples, tmp_path):
    objects = ObjectOptions(images=samples.pictures)
    recipe = Recipe(epochs=1, batch=16, score="likelihood")
    model = train(
        samples.scanpaths, objects=objects, recipe=recipe, sizes=SIZES, run=RunOptions(out=tmp_path / "run")
    ).model
    with pytest.raises(UserError, match="trained with pictures"):
        evaluate(samples.scanpaths, model=str(model), out=tmp_path / "e", samples=1)


def test_the_pixel_baseline_is_judged_as_paths_of_objects(samples, tmp_path):
    sizes = Sizes(**{**SIZES.__dict__, "patches": (2, 4)})
    recipe = Recipe(epochs=1, batch=16, score="likelihood")
    model = train(samples.scanpaths, recipe=recipe, sizes=sizes, run=RunOptions(out=tmp_path / "run")).model
    judged = evaluate(samples.scanpaths, model=str(model), out=tmp_path / "e", samples=2)
    assert np.isfinite(judged.table["pixels"]["log_likelihood"]["value"])


def test_two_predictors_are_compared_trial_by_trial(samples, model, tmp_path):
    evaluate(samples.scanpaths, out=tmp_path / "one", samples=2)
    comparison = compare([tmp_path / "one"], predictors=["uniform", "nearest step"], measures=["bits"], resamples=200)
    (row,) = comparison.rows
    assert (row["first"], row["second"], row["items"]) == ("uniform", "nearest step", 30)
    assert row["difference"] < 0
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["p_holm"] == row["p"]
    for run, options, words in (
        (tmp_path, {}, "not an evaluation"),
        (tmp_path / "one", {"measures": ["speed"]}, "speed"),
        (tmp_path / "one", {"predictors": ["me"]}, "me"),
    ):
        with pytest.raises(UserError, match=words):
            compare([run], **options)


def test_predictions_are_the_same_again_and_belong_to_their_options(samples, model, tmp_path):
    shelf = sorted(samples.pictures.iterdir())[0]
    first = predict(shelf, areas=samples.areas, target="tea", model=str(model), out=tmp_path / "p", samples=5)
    (prediction,) = first.predictions
    assert prediction["target"] == "tea"
    assert len(prediction["samples"]) == 5
    assert len(prediction["durations"]) == len(prediction["likeliest"])
    assert [len(lasted) for lasted in prediction["sample_durations"]] == [len(path) for path in prediction["samples"]]
    assert sum(prediction["dwell"]) == pytest.approx(sum(map(sum, prediction["sample_durations"])) / 5, rel=0.01)
    assert {path.name for path in (tmp_path / "p" / shelf.stem).iterdir()} == {
        "prediction.json",
        "path.png",
        "steps.gif",
        "objects.csv",
    }
    again = predict(shelf, areas=samples.areas, target="tea", model=str(model), out=tmp_path / "p", samples=5)
    assert again.attempts[0].status == "already done"
    with pytest.raises(UserError, match="another"):
        predict(shelf, areas=samples.areas, target="milk", model=str(model), out=tmp_path / "p", samples=5)


@pytest.mark.parametrize("verb", ["plot", "report", "evaluate", "export"])
def test_overwrite_never_deletes_what_the_user_keeps(samples, tmp_path, capsys, verb):
    kept = tmp_path / "mine" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    areas = ["--areas", samples.areas] if verb in ("report", "evaluate") else []
    data = samples.scanpaths.parent
    for out, words in ((kept.parent, "not written by this command"), (data, "replace an input")):
        code, _, err = call(capsys, verb, samples.scanpaths, *areas, "--out", out, "--overwrite")
        assert code == 2
        assert words in err
    assert kept.read_text() == "years of work"
    assert samples.scanpaths.is_file()


def test_plots_are_replaced_where_asked(samples, tmp_path, capsys):
    words = ["plot", samples.scanpaths, "--most", 1, "--out", tmp_path / "figures"]
    assert call(capsys, *words)[0] == 0
    assert call(capsys, *words)[0] == 2
    assert call(capsys, *words, "--overwrite")[0] == 0


def test_a_table_of_any_columns_is_inspected(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    table.write_text("who,gx,gy,ms\nann,10,20,300\nann,50,60,250\nann,90,80,200\n")
    assert call(capsys, "inspect", table)[0] == 2
    code, out, err = call(capsys, "inspect", table, "--columns", "x=gx,y=gy,duration=ms,subject=who", "--json")
    assert code == 0, err
    assert json.loads(out)["fixations"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "unicorn"], "unicorn"),
        ([], "where the objects are"),
        (["--grid", "0,3"], "holds nothing"),
        (["--grid", "60,60"], "larger than the model knows"),
    ],
)
def test_bad_input_of_predict_is_one_line(samples, model, tmp_path, capsys, options, words):
    shelf = sorted(samples.pictures.iterdir())[0]
    if "--target" in options:
        options = [*options, "--areas", samples.areas]
    code, _, err = call(capsys, "predict", shelf, "--model", model, "--out", tmp_path / "p", *options)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "p" / shelf.stem).exists()


def boxes_for(samples, path, boxes, names=None):
    """The same objects in every picture."""
    objects = [{"name": (names or {}).get(i, str(i)), "box": box} for i, box in enumerate(boxes)]
    path.write_text(json.dumps({picture.name: objects for picture in samples.pictures.iterdir()}))
    return path


@pytest.mark.parametrize("count", [1, 2000])
def test_one_object_and_two_thousand(samples, model, tmp_path, count):
    columns = min(count, 50)
    size = (1680 / columns, 1050 / max(1, count // columns))
    boxes = [[i % columns * size[0], i // columns * size[1], *size] for i in range(count)]
    areas = boxes_for(samples, tmp_path / "areas.json", boxes)
    shelf = sorted(samples.pictures.iterdir())[0]
    (prediction,) = predict(shelf, areas=areas, model=str(model), out=tmp_path / "p", samples=2).predictions
    assert len(prediction["objects"]) == count
    study = load_study(samples.scanpaths, ObjectOptions(areas=areas))
    assert len(study.trials) == 30


def test_odd_objects_are_said_with_the_study(samples, tmp_path, capsys):
    boxes = [[0, 0, 800, 1050], [0, 0, 800, 1050], [700, 0, 980, 1050], [9000, 0, 10, 10]]
    areas = boxes_for(samples, tmp_path / "areas.json", boxes)
    code, out, _ = call(capsys, "report", samples.scanpaths, "--areas", areas, "--out", tmp_path / "r")
    assert code == 0
    for words in (
        "1 objects have the box of another",
        "3 objects overlap",
        "outside of the picture: 3",
        "(5 of 5 scenes)",
    ):
        assert words in out


def test_a_detector_s_results_name_pictures_by_number(samples, model, tmp_path):
    shelf = tmp_path / "000000400966.png"
    shelf.write_bytes(sorted(samples.pictures.iterdir())[0].read_bytes())
    results = [
        {"image_id": image, "category_id": 1, "bbox": [x, 0, 845, 1052], "score": 0.9}  # a little over the edge
        for image in (7, 400966)
        for x in (0, 840)
    ]
    detected = tmp_path / "results.json"
    detected.write_text(json.dumps(results))
    (prediction,) = predict(shelf, areas=detected, model=str(model), out=tmp_path / "p", samples=2).predictions
    assert len(prediction["objects"]) == 2


def test_trials_of_one_name_in_other_data_are_not_paired(samples, tmp_path):
    others = make_samples(tmp_path / "others", layouts=5, searches=2, other_formats=False, seed=3)
    evaluate(samples.scanpaths, out=tmp_path / "one", samples=1)
    evaluate(others.scanpaths, out=tmp_path / "two", samples=1)
    with pytest.raises(UserError, match="no trials in common"):
        compare([tmp_path / "one", tmp_path / "two"], predictors=["uniform"])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (["--width", 30, "--heads", 4], "30 cannot be divided among 4 heads"),
        (["--crop", "20,20", "--pyramid", 0], "too small for max pooling"),
        (["--crop", "12,40", "--pyramid", 2], "too small: use 19"),
        (["--split", "published"], "one part alone"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(samples, tmp_path, capsys, sizes, words):
    images = ["--images", samples.pictures] if "--crop" in sizes else []
    code, _, err = call(capsys, "train", samples.scanpaths, *images, *sizes, "--out", tmp_path / "run")
    assert code == 2
    assert words in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_splits_never_share_what_they_are_split_by(samples):
    study = load_study(samples.scanpaths)
    for by in ("image", "target", "subject", "trial"):
        split = split_trials(study, by, seed=3)
        units = [{unit_of(trial, by) for trial in part} for part in split.parts().values()]
        assert not units[0] & units[1]
        assert not units[0] & units[2]
        assert not units[1] & units[2]
        assert sum(map(len, split.parts().values())) == len(study.trials)
        assert [t.name for t in split_trials(study, by, seed=3).test] == [t.name for t in split.test]
    tested = [trial.name for fold in folds(study, "image", 5) for trial in fold.test]
    assert sorted(tested) == sorted(trial.name for trial in study.trials)
    with pytest.raises(UserError, match="published"):
        split_trials(study, "published")


def test_folds_test_every_path_once(samples, tmp_path):
    tested = []
    for fold in (1, 2, 3):
        recipe = Recipe(epochs=1, batch=16, score="likelihood", split="target", folds=3, fold=fold)
        out = tmp_path / f"fold_{fold}"
        model = train(samples.scanpaths, recipe=recipe, sizes=SIZES, run=RunOptions(out=out)).model
        tested += json.loads((model / "config.json").read_text())["provenance"]["trials"]["test"]
    assert sorted(tested) == sorted(trial.source for trial in load_study(samples.scanpaths).trials)
    recipe = Recipe(epochs=1, folds=3, fold=4)
    with pytest.raises(UserError, match="no --fold 4 of 3"):
        train(samples.scanpaths, recipe=recipe, sizes=SIZES, run=RunOptions(out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_without_objects_the_user_is_told_how_to_name_them(samples, tmp_path):
    alone = tmp_path / "fixations.json"
    alone.write_bytes(samples.scanpaths.read_bytes())
    with pytest.raises(UserError, match="where the objects"):
        load_study(alone)
    study = load_study(alone, ObjectOptions(grid=(3, 6)))
    assert study.trials[0].objects == load_study(samples.scanpaths).trials[0].objects


def test_pictures_of_another_shape_are_refused(samples, tmp_path):
    from PIL import Image

    for file in samples.pictures.iterdir():
        with Image.open(file) as image:
            image.resize((300, 300)).save(tmp_path / file.name)
    with pytest.raises(UserError, match="another shape"):
        load_study(samples.scanpaths, ObjectOptions(areas=samples.areas, images=tmp_path), crop=(20, 20))


def test_a_grid_that_is_too_fine_is_one_line(samples, tmp_path, capsys):
    code, _, err = call(
        capsys, "report", samples.scanpaths, "--grid", "2000,2000", "--screen", "1680,1050", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "too fine for 1680 × 1050 pixels" in err
    assert not (tmp_path / "r").exists()


def test_a_grid_takes_its_size_from_the_pictures(samples, tmp_path, capsys):
    table = tmp_path / "t.csv"
    picture = sorted(samples.pictures.iterdir())[0]
    table.write_text(f"stimulus,x,y,duration\n{picture.name},100,200,150\n{picture.name},1500,210,250\n")
    arguments = (table, "--grid", "6,14", "--out", tmp_path / "r")
    code, _, err = call(capsys, "report", *arguments)
    assert code == 2
    assert "--screen WIDTH,HEIGHT or --images" in err
    code, out, _ = call(capsys, "report", *arguments, "--images", samples.pictures)
    assert code == 0
    assert "correct" not in out  # nobody searched anything
    assert (tmp_path / "r" / "paths.csv").read_text().splitlines()[1].split(",")[4] == ""


def test_a_plot_says_what_it_does_not_show(samples, tmp_path, capsys):
    table = tmp_path / "t.csv"
    picture = sorted(samples.pictures.iterdir())[0]
    table.write_text(f"stimulus,x,y,duration\n{picture.name},-900,200,150\n")
    code, out, _ = call(
        capsys, "plot", table, "--images", samples.pictures, "--screen", "800,800", "--out", tmp_path / "p"
    )
    assert code == 0
    assert "1 figure:" in out
    assert "every fixation lies beside the screen" in out
    assert "another shape than the screen" in out


@pytest.mark.parametrize(
    ("objects", "reading"),
    [
        (ObjectOptions(longest=4), ReadOptions()),
        (ObjectOptions(), ReadOptions(min_duration=150)),
        (ObjectOptions(), ReadOptions(screen=(1000, 1000), off_screen="drop")),
    ],
    ids=["longest", "min-duration", "off-screen"],
)
def test_what_options_leave_out_makes_no_new_paths(samples, model, tmp_path, objects, reading):
    """The model's test part stays its test part, and a training path that is cut is a training path."""
    objects = replace(objects, areas=samples.areas)
    for part, words in (("auto", "the model's test part"), ("all", "all paths that the model was not trained on")):
        judged = evaluate(
            samples.scanpaths,
            model=str(model),
            objects=objects,
            reading=reading,
            part=part,
            samples=1,
            out=tmp_path / part,
        )
        assert judged.values["part"] == words
        assert judged.values["trials"] == 6


@pytest.mark.parametrize("trials", [[], None, {"train": 5}, {"test": [[1]]}])
def test_a_model_whose_provenance_is_spoiled(samples, model, tmp_path, trials):
    spoiled = tmp_path / "model"
    shutil.copytree(model, spoiled)
    config = json.loads((spoiled / "config.json").read_text())
    config["provenance"]["trials"] = trials
    (spoiled / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trials"):
        evaluate(samples.scanpaths, model=str(spoiled), samples=1, out=tmp_path / "e")


def test_weights_that_are_not_finite_are_refused(samples, model, tmp_path):
    spoiled = tmp_path / "model"
    shutil.copytree(model, spoiled)
    state = load_file(spoiled / "model.safetensors")
    state[next(iter(state))][:] = float("nan")
    save_file(state, spoiled / "model.safetensors")
    shelf = sorted(samples.pictures.iterdir())[0]
    with pytest.raises(UserError, match="not finite"):
        predict(shelf, areas=samples.areas, model=str(spoiled), out=tmp_path / "p", samples=2)
    assert not (tmp_path / "p").exists()


def test_a_model_that_is_replaced_answers_anew(samples, model, tmp_path):
    """Also where a notebook stays open, and what was asked of one call does not stay for the next."""
    shelf = sorted(samples.pictures.iterdir())[0]
    copied = tmp_path / "model"
    shutil.copytree(model, copied)

    def ask(name, **options):
        asked = {"areas": samples.areas, "target": "tea", "model": str(copied), "samples": 5}
        (prediction,) = predict(shelf, out=tmp_path / name, **asked, **options).predictions
        return prediction["step_probabilities"][0]

    known = ask("a")
    unknown = ask("b", target_position="unknown")
    assert unknown != known
    assert ask("c") == known
    state = load_file(copied / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in state.items()}, copied / "model.safetensors")
    assert ask("d") != known


def test_pictures_of_one_name_have_results_of_their_own(samples, model, tmp_path):
    shelf = sorted(samples.pictures.iterdir())[0]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "log.png", "..png"):
        shutil.copy(shelf, folder / name)
    predicted = predict(folder, grid=(2, 3), model=str(model), out=tmp_path / "p", samples=2)
    assert [attempt.status for attempt in predicted.attempts] == ["done"] * 4
    assert len({prediction["scene"] for prediction in predicted.predictions}) == 4
    again = predict(folder, grid=(2, 3), model=str(model), out=tmp_path / "p", samples=2)
    assert [attempt.status for attempt in again.attempts] == ["already done"] * 4


def test_the_path_that_is_shown_has_its_own_probabilities(samples, model, tmp_path):
    shelf = sorted(samples.pictures.iterdir())[0]
    for beams in (0, 6):
        asked = {"areas": samples.areas, "target": "tea", "model": str(model), "samples": 20}
        result = predict(shelf, beams=beams, longest=6, out=tmp_path / f"p{beams}", **asked)
        (prediction,) = result.predictions
        steps = len(prediction["likeliest"]) + prediction["stopped"]
        assert len(prediction["step_probabilities"]) == steps
        if not beams:  # greedy: the likeliest at every step
            for row, chosen in zip(prediction["step_probabilities"], prediction["likeliest"], strict=False):
                assert max(range(len(row)), key=row.__getitem__) == chosen
        cut = sum(len(path) == 6 for path in prediction["samples"])
        assert 20 - prediction["samples_stopped"] <= cut
        said = [line for line in result.lines() if "did not stop" in line]
        assert len(said) == (not prediction["stopped"]) + (prediction["samples_stopped"] < 20)


def test_targets_whose_box_meets_no_object_are_counted(samples, tmp_path):
    records = json.loads(samples.scanpaths.read_text())
    for record, box in zip(records, ([None, 1, 2, 3], [5000, 5000, 10, 10], [700, 500, -30, -30]), strict=False):
        record["bbox"], record["task"] = box, "unicorn"
    (tmp_path / "f.json").write_text(json.dumps(records))
    study = load_study(tmp_path / "f.json", ObjectOptions(areas=samples.areas))
    assert [trial.target for trial in study.trials[:3]] == [None] * 3
    assert study.left_out["targets whose box meets no object"] == 3
    assert all(trial.target is not None for trial in study.trials[3:])


def test_a_label_image_of_another_size_is_refused(samples, tmp_path):
    labels = np.zeros((100, 100), np.uint8)
    labels[20:60, 20:60] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    with pytest.raises(UserError, match="the label image has 100 × 100 pixels"):
        load_study(samples.scanpaths, ObjectOptions(areas=tmp_path / "labels.png"))


def test_files_are_no_folders_and_odd_numbers_are_refused(samples, tmp_path, capsys):
    table = tmp_path / "out.csv"
    assert call(capsys, "export", samples.scanpaths, "--out", table)[0] == 0
    code, _, err = call(capsys, "plot", samples.scanpaths, "--out", table, "--overwrite")
    assert code == 2
    assert "is a file" in err
    assert table.is_file()
    run = tmp_path / "e"
    evaluate(samples.scanpaths, samples=1, out=run)
    for words in (("--seed", "-1"), ("--resamples", "1")):
        assert call(capsys, "compare", run, *words)[0] == 2
    whole = (run / "trials.csv").read_text()
    (run / "trials.csv").write_text(whole, "utf-16")
    assert "cannot be read as a table" in call(capsys, "compare", run)[2]
    rows = list(csv.reader(whole.splitlines()))
    rows[1][rows[0].index("bits")] = "many"
    with (run / "trials.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    code, _, err = call(capsys, "compare", run)
    assert code == 2
    assert "'many' where a number is expected" in err


def test_the_tables_of_a_report_join(samples, tmp_path):
    report(samples.scanpaths, out=tmp_path / "r")
    tables = []
    for name in ("areas.csv", "paths.csv"):
        with (tmp_path / "r" / name).open() as file:
            tables.append({(row["trial"], row["subject"], row["target"]) for row in csv.DictReader(file)})
    assert tables[0] == tables[1]


def test_compare_says_what_p_can_be(samples, tmp_path):
    evaluate(samples.scanpaths, samples=1, out=tmp_path / "e")
    lines = list(compare([tmp_path / "e"], resamples=100).lines())
    assert any("with 5 scenes no p can be below 0.062" in line for line in lines)


def test_objects_by_their_own_pictures(samples, tmp_path):
    """Crops that are what would be cut out of the pictures give the same training data and the same predictions."""
    cut = load_study(samples.scanpaths, ObjectOptions(images=samples.pictures), crop=(20, 20))
    for name, scene in cut.scenes.items():
        folder = tmp_path / "crops" / name.removesuffix(".png")
        folder.mkdir(parents=True)
        with Image.open(samples.pictures / name) as picture:
            for label, (left, top, width, height) in zip(scene.names, scene.boxes.tolist(), strict=True):
                box = (left, top, left + width, top + height)
                picture.resize((20, 20), Image.Resampling.BILINEAR, box=box).save(folder / f"{label}.png")
    own = load_study(samples.scanpaths, ObjectOptions(crops=tmp_path / "crops"), crop=(20, 20))
    for name, scene in cut.scenes.items():
        np.testing.assert_allclose(scene.crops, own.scenes[name].crops, atol=0.02)
    recipe = Recipe(epochs=1, lr=2e-3, batch=8)
    objects = ObjectOptions(crops=tmp_path / "crops")
    trained = train(
        samples.scanpaths, objects=objects, recipe=recipe, sizes=SIZES, run=RunOptions(out=tmp_path / "run")
    )
    shelf = sorted(samples.pictures.iterdir())[0]
    asked = {"areas": samples.areas, "target": "tea", "model": str(trained.model), "samples": 2}
    (by_crops,) = predict(shelf, crops=tmp_path / "crops", out=tmp_path / "a", **asked).predictions
    (by_cuts,) = predict(shelf, out=tmp_path / "b", **asked).predictions
    np.testing.assert_allclose(by_crops["step_probabilities"][0], by_cuts["step_probabilities"][0], atol=0.02)
    next((tmp_path / "crops" / shelf.stem).glob("tea.png")).unlink()
    with pytest.raises(UserError, match="holds no picture of 'tea'"):
        load_study(samples.scanpaths, objects, crop=(20, 20))
