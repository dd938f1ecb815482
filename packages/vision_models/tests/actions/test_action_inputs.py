"""Which files a verb takes and how it names them; what of features, lengths and earlier results is said; what a training holds in memory."""

import csv
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from vision_models.actions.annotations import Action, Annotations, VideoTruth, plain_name, read_annotations
from vision_models.actions.cohort import gather, scale_of
from vision_models.actions.commands.extract import extract
from vision_models.actions.commands.inspect import inspect
from vision_models.actions.commands.predict import PredictionOptions, predict
from vision_models.actions.features import find_features, read_features, write_features
from vision_models.actions.inputs import find_inputs
from vision_models.actions.model.bmn import BMNConfig
from vision_models.actions.model.detector import DetectorConfig
from vision_models.actions.model.sequences import at_step
from vision_models.actions.stored import keep_stored
from vision_models.actions.training.data import Sequences


def annotate(videos) -> Annotations:
    labels = sorted({action.label for video in videos.values() for action in video.actions})
    return Annotations(Path("annotations.csv"), "made", videos, tuple(labels), (), 0)


def test_hidden_files_and_broken_links_are_left_out_and_counted(videos, tmp_path, capsys):
    real = sorted(videos["videos"].glob("*.mp4"))[0]
    (tmp_path / "good.mp4").symlink_to(real)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "._good.mp4").write_bytes(b"\0\5\x16\7Mac OS X")
    assert [file.name for file in find_inputs(tmp_path)] == ["good.mp4"]
    said = capsys.readouterr().err
    assert "1 hidden file left out: ._good.mp4" in said
    assert "1 link to files that are not there, left out: gone.mp4" in said


@pytest.mark.parametrize("other", ["clip.MKV", "v_clip.mp4", "Clip.mp4"])
def test_two_videos_of_one_name_are_refused_by_extract_and_predict_alike(videos, trained, tmp_path, other):
    real = sorted(videos["videos"].glob("*.mp4"))[0]
    for name in ("clip.mp4", other):
        (tmp_path / name).symlink_to(real)
    for verb in (extract, lambda path, out: predict(path, model=str(trained.model), out=out, device="cpu")):
        with pytest.raises(UserError, match=r"two videos called .*clip.*mp4"):
            verb(tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_ending_of_a_video_goes_from_its_name():
    assert {plain_name(name) for name in ("v_a.mp4", "a.MPG", "a.3gp.npz", "a.ts", "a")} == {"a"}


def test_tables_hold_the_videos_of_all_runs_into_a_folder(videos, trained, tmp_path, capsys):
    first, second, third = sorted(videos["videos"].glob("*.mp4"))[:3]
    where = {"model": str(trained.model), "out": tmp_path / "out", "device": "cpu"}
    lowest = PredictionOptions(threshold=0)
    predict(first, prediction=lowest, **where)
    found = predict(second, prediction=lowest, **where)
    assert found.held == 2
    rows = list(csv.DictReader(found.files["table"].read_text().splitlines()))
    assert {row["video"] for row in rows} == {first.stem, second.stem}
    assert set(json.loads(found.files["results"].read_text())["results"]) == {first.stem, second.stem}
    capsys.readouterr()
    other = predict(third, prediction=PredictionOptions(threshold=0.5), **where)
    assert set(json.loads(other.files["results"].read_text())["results"]) == {third.stem}
    assert "2 videos of another model or other options not in the tables" in capsys.readouterr().err


def test_features_unlike_those_of_the_training_are_said(features, trained, tmp_path):
    file = sorted(features.glob("*.npz"))[0]
    usual = predict(file, model=str(trained.model), out=tmp_path / "usual", device="cpu")
    assert list(usual.notes.values()) == [[]]
    read = read_features("a", find_features(features)[file.stem])
    write_features(tmp_path / "a.npz", read.values * 100, step=read.step, seconds=read.seconds, backbone=read.backbone)
    odd = predict(tmp_path / "a.npz", model=str(trained.model), out=tmp_path / "odd", device="cpu")
    assert "spreads from the mean of the model's training features" in odd.notes["a"][0]
    assert any("spreads from the mean" in line for line in odd.lines())
    write_features(tmp_path / "b.npz", read.values, step=read.step, seconds=read.seconds, backbone="another")
    with pytest.raises(UserError, match="another backbone"):
        predict(tmp_path / "b.npz", model=str(trained.model), out=tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_a_length_that_the_snippets_do_not_reach_is_said_with_both_numbers(features, trained, tmp_path):
    file = sorted(features.glob("*.npz"))[0]
    read = read_features("a", find_features(features)[file.stem])
    write_features(tmp_path / "a.npz", read.values, step=read.step, seconds=60.0, backbone=read.backbone)
    found = predict(tmp_path / "a.npz", model=str(trained.model), out=tmp_path / "out", device="cpu")
    covered = len(read.values) * read.step
    expected = f"stated to last 60.0 s, its {len(read.values)} snippets of {read.step:.3g} s cover {covered:.1f} s"
    assert expected in found.notes["a"][0]
    truth = annotate({"a": VideoTruth("a", None, "", (Action(1, 2, "jump"),))})
    notes = gather(find_features(tmp_path / "a.npz"), truth).notes
    assert any(expected in note for note in notes)


def test_rows_that_are_not_finite_are_named(tmp_path):
    values = np.zeros((9, 3))
    values[[2, 7], 1] = np.nan
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=r"values that are not finite: 2, in 2 snippets of 9 \(from 0: 2, 7\)"):
        read_features("a", find_features(tmp_path)["a"])


def test_rows_that_disagree_about_a_video_are_said(tmp_path):
    head, path = "video,start,end,label,subset,duration\n", tmp_path / "annotations.csv"
    path.write_text(f"{head}a,1,2,jump,training,12\na,3,4,jump,,500\na,5,6,jump,,\n")
    read = read_annotations(path)
    assert read.videos["a"].seconds == 500
    assert read.videos["a"].part == "train"
    assert any("1 video with two lengths, the longer one counts: a 12 and 500 s" in note for note in read.notes)
    path.write_text(f"{head}a,1,2,jump,training,12\na,3,4,jump,testing,12\n")
    with pytest.raises(UserError, match="line 3: a is a test video here and a train video before"):
        read_annotations(path)


def test_inspect_of_a_sample_names_its_videos_and_its_annotations(videos):
    found = inspect(videos["videos"].parent)
    kinds = [each.kind for each in found.findings]
    assert kinds.count("video") == 6
    assert kinds[-1].startswith("annotations of actions")


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "transposed", "csv", "float64", "one column"])
def test_stored_features_are_sliced_like_an_array(tmp_path, kind):
    values = np.random.default_rng(0).standard_normal((11, 1 if kind == "one column" else 4)).astype(np.float32)
    path = tmp_path / "a.npy"
    if kind == "csv":
        path = tmp_path / "a.csv"
        np.savetxt(path, values, delimiter=",", fmt="%.9g")
    elif kind in ("npz", "compressed"):
        path = tmp_path / "a.npz"
        {"npz": np.savez, "compressed": np.savez_compressed}[kind](path, step=0.5, features=values)
    elif kind == "transposed":
        np.save(path, np.asfortranarray(values))
    else:
        np.save(path, values.astype(np.float64 if kind == "float64" else np.float32))
    source = find_features(path)["a"]
    stored = keep_stored("a", source, read_features("a", source))
    assert (stored.layout is None) == (kind in ("compressed", "transposed", "csv"))
    for rows in (slice(None), slice(2, 7), slice(9, 30), slice(4, 4)):
        np.testing.assert_array_equal(stored[rows], values[rows])
    whole = at_step(values, 0.5, 0.3)
    np.testing.assert_array_equal(at_step(stored, 0.5, 0.3, slice(5, 12)), whole[5:12])


def test_features_that_change_during_a_training_are_said(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 3), np.float32))
    source = find_features(tmp_path)["a"]
    stored = keep_stored("a", source, read_features("a", source))
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match="changed while they were in use"):
        stored[4:8]


def most_held(folder, count: int) -> int:
    """The most bytes that were held while a cohort of so many videos was gathered, scaled and gone through once."""
    values = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
    videos = {}
    for number in range(count):
        name = f"video{number}"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", values)
        videos[name] = VideoTruth(name, 500.0, "", (Action(10, 20, "jump"), Action(300, 320, "run")))
    config = DetectorConfig(BMNConfig(channels=64, steps=16), labels=2)
    sources = find_features(folder)
    tracemalloc.start()
    clips = list(gather(sources, annotate(videos)).clips.values())
    fill, _ = scale_of(clips)
    sequences = Sequences(clips, config, ("jump", "run"), 0.5, fill, 0.9)
    for number in range(0, len(sequences), 7):
        sequences[number]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shutil.rmtree(folder)
    return most


def test_a_training_holds_no_features_of_the_videos_it_does_not_look_at(tmp_path):
    few, many = most_held(tmp_path / "few", 4), most_held(tmp_path / "many", 24)
    added = 20 * 1000 * 64 * 4  # bytes of the features that are more
    assert many - few < added / 20
