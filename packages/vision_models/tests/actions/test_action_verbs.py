"""The verbs on made videos, and every kind of unusable input in one line."""

import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from core_runtime.videos import open_video, write_video
from vision_models.actions.annotations import AnnotationOptions, read_annotations
from vision_models.actions.backbones import BackboneOptions, build_backbone
from vision_models.actions.classifiers import read_scores
from vision_models.actions.cohort import gather
from vision_models.actions.commands.compare import compare
from vision_models.actions.commands.evaluate import EvaluationOptions, evaluate
from vision_models.actions.commands.extract import extract as extract_videos
from vision_models.actions.commands.inspect import inspect
from vision_models.actions.commands.predict import PredictionOptions, predict
from vision_models.actions.commands.train import train
from vision_models.actions.features import FeatureOptions, find_features, read_features, widths
from vision_models.actions.snippets import extract
from vision_models.actions.training.recipe import Recipe

from .conftest import TINY


def first_video(videos) -> Path:
    return sorted(videos["videos"].glob("*.mp4"))[0]


def test_from_a_video_to_files_that_play(videos, trained, tmp_path):
    found = predict(first_video(videos), model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert found.code == 0
    (folder,) = found.folders.values()
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "segments.csv", "segments.eaf", "segments.json", "timeline.png"}
    page = (folder / "index.html").read_text()
    source = page.split('<video src="')[1].split('"')[0]
    assert (folder / source).resolve() == first_video(videos).resolve()
    elan = ElementTree.parse(folder / "segments.eaf").getroot()
    assert (folder / elan.find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL")).resolve().is_file()
    results = json.loads((folder / "segments.json").read_text())["results"]
    segments = next(iter(results.values()))
    assert all(0 <= row["segment"][0] < row["segment"][1] <= 10.01 for row in segments)
    scores = [row["score"] for row in segments]
    assert scores == sorted(scores, reverse=True)
    before = (folder / "segments.json").stat().st_mtime_ns
    predict(first_video(videos), model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert (folder / "segments.json").stat().st_mtime_ns == before, "a rerun does nothing twice"


def test_a_folder_with_a_broken_video_names_it_and_goes_on(videos, trained, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(first_video(videos).read_bytes())
    (folder / "cut.mp4").write_bytes(first_video(videos).read_bytes()[:3000])
    found = predict(folder, model=str(trained.model), out=tmp_path / "out", device="cpu")
    assert found.code == 1
    assert set(found.failed) == {"cut"}
    assert not (tmp_path / "out" / "cut").exists()
    assert set(found.videos) == {"good"}


def test_evaluation_and_comparison(videos, features, trained, tmp_path):
    how = EvaluationOptions(resamples=20)
    one = evaluate(features, annotations=videos["json"], model=str(trained.model), out=tmp_path / "a", options=how)
    assert "None of these" in one.origin
    assert all(0 <= value <= 1 for value in one.measures.values.values())
    everything = EvaluationOptions(resamples=0, part="all")
    evaluate(features, annotations=videos["table"], model=str(trained.model), out=tmp_path / "b", options=everything)
    evaluate(features, annotations=videos["table"], model=str(trained.model), out=tmp_path / "c", options=everything)
    same = compare([tmp_path / "b", tmp_path / "c"], out=tmp_path / "compared", resamples=20)
    assert same.tests[0]["difference"] == 0
    assert same.tests[0]["p"] == 1
    with pytest.raises(UserError, match="other videos or actions"):
        compare([tmp_path / "a", tmp_path / "b"], out=tmp_path / "d")


def test_features_of_another_backbone_are_refused_with_the_way_to_make_them(videos, trained, tmp_path):
    extract_videos(videos["videos"], out=tmp_path / "slow", backbone=BackboneOptions(rate=2), device="cpu")
    with pytest.raises(UserError, match="another backbone") as caught:
        evaluate(tmp_path / "slow", annotations=videos["json"], model=str(trained.model), out=tmp_path / "evaluation")
    assert "--backbone motion --rate 4.0 --frames 4 --size 64" in str(caught.value.hint)


def test_a_killed_training_ends_like_one_that_was_not(videos, features, tmp_path):
    def go(out, epochs, resume=False):
        run = RunOptions(out=out, device="cpu", resume=resume)
        recipe = Recipe(epochs=epochs, batch=4)
        return train(features, annotations=videos["json"], network=TINY, recipe=recipe, run=run)

    whole = go(tmp_path / "whole", 2)

    class Killed(Exception):
        pass

    from vision_models.actions.training import module

    original = module.DetectionTraining.on_train_epoch_start

    def die(self):
        if self.current_epoch == 1:
            raise Killed
        original(self)

    module.DetectionTraining.on_train_epoch_start = die
    try:
        with pytest.raises(Killed):
            go(tmp_path / "killed", 2)
    finally:
        module.DetectionTraining.on_train_epoch_start = original
    resumed = go(tmp_path / "killed", 2, resume=True)
    assert [row["train_loss"] for row in resumed.history] == [row["train_loss"] for row in whole.history]


def test_extraction_goes_on_after_a_kill(videos, tmp_path, monkeypatch):
    from dataclasses import replace

    from vision_models.actions import snippets

    monkeypatch.setattr(snippets, "PART", 8)
    backbone = build_backbone(BackboneOptions())
    whole = extract(first_video(videos), backbone, tmp_path / "whole.npz")
    calls = []

    def dies(clips):
        calls.append(len(clips))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return backbone.features(clips)

    with pytest.raises(KeyboardInterrupt):
        extract(first_video(videos), replace(backbone, features=dies), tmp_path / "killed.npz")
    assert not (tmp_path / "killed.npz").exists()
    calls.clear()

    def counts(clips):
        calls.append(len(clips))
        return backbone.features(clips)

    again = extract(first_video(videos), replace(backbone, features=counts), tmp_path / "killed.npz")
    np.testing.assert_array_equal(again.values, whole.values)
    assert sum(calls) == len(whole.values) - 16, "two parts were there"


def frames(count, height=48, width=64):
    for number in range(count):
        image = np.zeros((height, width, 3), np.uint8)
        image[8:20, number % 40 : number % 40 + 12] = 200
        yield image


def write_audio(path: Path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for number in range(20):
            frame.pts = number * 1024
            for packet in stream.encode(frame):
                container.mux(packet)


def write_video_at(path: Path, *, stated: int, gap: int):
    """Twenty frames whose times are `gap` ticks of 1/`stated` s apart, in a file that states `stated` frames per second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=stated)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, stated)
        for number, image in enumerate(frames(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number * gap, Fraction(1, stated)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_a_stated_frame_rate_that_is_not_true_is_not_used(tmp_path):
    write_video_at(tmp_path / "lying.mkv", stated=30, gap=3)
    video = open_video(tmp_path / "lying.mkv")
    assert video.rate == pytest.approx(10)
    assert "it states 30 frames per second; by their times they come at 10, which is used" in video.notes
    assert max(frame.seconds for frame in video.frames()) == pytest.approx(1.9)


def test_frames_without_times_are_said(tmp_path):
    write_video_at(tmp_path / "bare.h264", stated=30, gap=1)  # a bare stream: no container, no times
    video = open_video(tmp_path / "bare.h264")
    assert any("have no times" in note and "per second" in note for note in video.notes)


def write_variable(path: Path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        moment = 0
        for number, image in enumerate(frames(60)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = moment
            moment += 20 if number % 3 else 140
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_unusable_videos_are_named(tmp_path, videos):
    whole = first_video(videos).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "audio.m4a")
    write_video(tmp_path / "one.mp4", frames(1), 25)
    backbone = build_backbone(BackboneOptions())
    for name, words in {
        "cut.mp4": "cannot be read|breaks off|damaged",
        "noise.mp4": "cannot be read",
        "empty.mp4": "is empty",
        "audio.m4a": "audio alone",
        "one.mp4": "single frame",
        "absent.mp4": "no such file",
    }.items():
        with pytest.raises(UserError, match=words):
            extract(tmp_path / name, backbone, tmp_path / "cache" / f"{name}.npz")
        assert not (tmp_path / "cache" / f"{name}.npz").exists()
        assert not list((tmp_path / "cache").glob(".*.parts")) if (tmp_path / "cache").exists() else True


def test_a_video_that_was_cut_behind_its_index_breaks_off(tmp_path):
    import av

    # the index in front, as for the web: half of the frames are then still promised
    with av.open(str(tmp_path / "web.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in frames(200):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    whole = (tmp_path / "web.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"breaks off at|is damaged"):
        extract(tmp_path / "cut.mp4", build_backbone(BackboneOptions()), tmp_path / "cut.npz")


def test_a_variable_frame_rate_is_taken_by_its_times(tmp_path):
    write_variable(tmp_path / "variable.mp4")
    video = open_video(tmp_path / "variable.mp4")
    assert any("variable" in note for note in video.notes)
    times = [frame.seconds for frame in video.frames()]
    assert len(times) == 60
    shown = [frame.seconds for frame in video.frames_at([0.0, 0.5, 1.0, 99.0])]
    assert shown == [max(t for t in times if t <= moment) for moment in (0.0, 0.5, 1.0, 99.0)]
    found = extract(tmp_path / "variable.mp4", build_backbone(BackboneOptions()), tmp_path / "v.npz")
    assert len(found.values) == pytest.approx(times[-1] * 4, abs=1.5)


def test_seeking_gives_the_frames_of_reading_through(videos):
    video = open_video(first_video(videos))
    through = {frame.seconds: frame.image for frame in video.frames()}
    for frame in video.frames(start=6.3):
        np.testing.assert_array_equal(frame.image, through[frame.seconds])
    first = next(iter(video.frames(start=6.3)))
    assert first.seconds <= 6.3 < first.seconds + 0.2


def write_marked(path: Path, *, turn: int = 0, gap: int = 1, count: int = 12):
    """A video whose upper left corner is white as stored; `turn` by metadata, `gap` seconds between frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        stream.codec_context.time_base = Fraction(1, 1)
        for number in range(count):
            image = np.zeros((48, 64, 3), np.uint8)
            image[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number * gap
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.mark.parametrize(("turn", "corner"), [(90, (-8, 8)), (180, (-8, -8)), (270, (8, -8))])
def test_turned_videos_are_read_upright(tmp_path, turn, corner):
    write_marked(tmp_path / "turned.mp4", turn=turn)
    video = open_video(tmp_path / "turned.mp4")
    assert (video.width, video.height) == ((64, 48) if turn == 180 else (48, 64))
    assert any("turned" in note for note in video.notes)
    for size in (None, (video.width, video.height)):
        image = next(iter(video.frames(size=size))).image
        assert image.shape[:2] == (video.height, video.width)
        # turned against the clock, the upper left corner goes down, then right, then up
        assert image[corner].min() > 200


def test_ten_hours_are_read_by_their_times(tmp_path):
    write_marked(tmp_path / "long.mp4", gap=900, count=41)
    found = extract(tmp_path / "long.mp4", build_backbone(BackboneOptions(rate=0.01, frames=2)), tmp_path / "long.npz")
    assert found.seconds >= 36_000
    assert len(found.values) == pytest.approx(found.seconds / 100, abs=2)


def write_features(folder: Path, **arrays):
    folder.mkdir(exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 8), np.nan), "values that are not finite: 160"),
        (np.zeros((0, 8)), "no snippet"),
        (np.zeros((20, 5)), "5 channels, expected 8"),
        (np.zeros((8, 20)), "20 channels, expected 8"),
        (np.zeros(20), "shape"),
        (np.array(["a"]), "not numbers"),
    ],
)
def test_unusable_features_are_named(tmp_path, values, words):
    folder = write_features(tmp_path / "f", video=values)
    with pytest.raises(UserError, match=words):
        read_features("video", find_features(folder)["video"], channels=8)


def test_features_in_every_container_are_the_same(tmp_path):
    import h5py

    values = np.random.default_rng(0).random((12, 4)).astype(np.float32)
    places = {name: tmp_path / name for name in ("npy", "npz", "csv", "h5")}
    for place in places.values():
        place.mkdir()
    np.save(places["npy"] / "v_a.npy", values)
    np.savez(places["npz"] / "a.npz", features=values)
    np.savetxt(places["csv"] / "v_a.csv", values, delimiter=",", header="c0,c1,c2,c3", comments="")
    with h5py.File(places["h5"] / "all.h5", "w") as file:
        file["v_a"] = values
    for place in places.values():
        sources = find_features(place)
        np.testing.assert_allclose(read_features("a", sources["a"]).values, values, rtol=1e-5)
    with pytest.raises(UserError, match="differ in their number of channels"):
        widths(find_features(write_features(tmp_path / "mixed", a=np.zeros((4, 3)), b=np.zeros((5, 2)))))


ROWS = "video,start,end,label,duration\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ROWS + "a,5,3,run,10\n", "1 segment whose end is not after its start"),
        (ROWS + "a,50,60,run,10\n", "1 segment outside the video"),
        (ROWS + "a,x,3,run,10\n", "not a number"),
        (ROWS, "holds no action"),
        ("video,label\na,run\n", "no column 'start'"),
        (ROWS + "a,1,2,run,0\n", "0 seconds long"),
    ],
)
def test_unusable_annotations_are_named(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_annotations(tmp_path / "a.csv")


def test_odd_annotations_are_counted(tmp_path):
    rows = "a,1,4,run,10\na,1,4,run,10\na,3,6,run,10\na,8,14,run,10\na,7,5,run,10\n"
    (tmp_path / "a.csv").write_text(ROWS + rows)
    truth = read_annotations(tmp_path / "a.csv", AnnotationOptions(drop_bad=True))
    assert len(truth.videos["a"].actions) == 3
    assert truth.videos["a"].actions[-1].end == 10
    notes = " ".join(truth.notes)
    for words in (
        "1 segment whose end is not after its start",
        "1 action stated twice",
        "1 action cut at the end",
        "1 action overlapping",
    ):
        assert words in notes
    assert not inspect(tmp_path / "a.csv").usable


def test_videos_without_a_partner_are_counted(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS + "a,1,4,run,10\nb,1,4,run,10\n")
    folder = write_features(tmp_path / "f", a=np.zeros((10, 4)), c=np.zeros((10, 4)))
    cohort = gather(find_features(folder), read_annotations(tmp_path / "a.csv"))
    assert list(cohort.clips) == ["a"]
    assert any("1 annotated video without features" in note for note in cohort.notes)
    assert any("1 file of features without annotation" in note for note in cohort.notes)
    with pytest.raises(UserError, match="no annotated video has features"):
        gather(find_features(write_features(tmp_path / "g", z=np.zeros((3, 4)))), read_annotations(tmp_path / "a.csv"))
    (tmp_path / "late.csv").write_text("video,start,end,label\na,50,60,run\n")
    late = read_annotations(tmp_path / "late.csv")
    with pytest.raises(UserError, match="an action begins at 50"):
        gather(find_features(folder), late, FeatureOptions(snippet_seconds=0.1))
    with pytest.raises(UserError, match="nothing says how long"):
        gather(find_features(folder), late)


def test_scores_of_other_classes_are_named(tmp_path):
    (tmp_path / "s.csv").write_text("video,swim,fly\na,0.4,0.6\n")
    with pytest.raises(UserError, match="scores other classes: it lacks 1 of 1 labels"):
        read_scores(tmp_path / "s.csv", ["a"], ["run"])
    assert read_scores(tmp_path / "s.csv", ["a"], ["swim"]) == {"a": {"swim": 0.4}}
    with pytest.raises(UserError, match="no scores of 1 of 2 videos"):
        read_scores(tmp_path / "s.csv", ["a", "b"], ["swim"])


@pytest.mark.parametrize("backbone", ["resnet10t", "torchvision:r2plus1d_18"])
@pytest.mark.slow
def test_networks_of_timm_and_torchvision(videos, tmp_path, backbone):
    built = build_backbone(BackboneOptions(backbone=backbone, size=32, rate=1))
    assert np.isfinite(extract(first_video(videos), built, tmp_path / "f.npz").values).all()


def test_a_video_model_of_transformers(videos, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.VideoMAEModel(config).save_pretrained(tmp_path / "mae")
    built = build_backbone(BackboneOptions(backbone=str(tmp_path / "mae"), rate=1))
    assert extract(first_video(videos), built, tmp_path / "f.npz").values.shape[1] == 24
    with pytest.raises(UserError, match="takes 4 frames"):
        build_backbone(BackboneOptions(backbone=str(tmp_path / "mae"), frames=2))
    with pytest.raises(UserError, match="no_such_net"):
        build_backbone(BackboneOptions(backbone="no_such_net"))


def test_a_network_of_pytorchvideo(videos, tmp_path, monkeypatch):
    """Where the library is absent it is named; of a network like its own, the head's projection is left out."""
    from torch import nn

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool3d((4, 5, 5), stride=1)
            self.proj, self.activation = nn.Linear(6, 400), nn.Softmax(1)

        def forward(self, x):
            x = self.pool(x).permute(0, 2, 3, 4, 1)
            x = self.proj(x).permute(0, 4, 1, 2, 3)
            x = x if self.activation is None else self.activation(x)
            return x.mean((2, 3, 4))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv3d(3, 6, 1), Head()])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    how = BackboneOptions(backbone="pytorchvideo:x3d_xs", size=32, rate=1)
    monkeypatch.setitem(sys.modules, "pytorchvideo.models", None)
    with pytest.raises(UserError, match="needs pytorchvideo"):
        build_backbone(how)
    hub = SimpleNamespace(x3d_xs=lambda pretrained: Network())
    monkeypatch.setitem(sys.modules, "pytorchvideo", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pytorchvideo.models", SimpleNamespace(hub=hub))
    assert extract(first_video(videos), build_backbone(how), tmp_path / "f.npz").values.shape[1] == 6
    with pytest.raises(UserError, match="does not take 2 frames"):
        build_backbone(replace(how, frames=2))
    with pytest.raises(UserError, match="no such network here"):
        build_backbone(replace(how, backbone="pytorchvideo:slowfast_r50"))


@pytest.mark.slow
def test_x3d_of_pytorchvideo(videos, tmp_path):
    pytest.importorskip("pytorchvideo.models", reason="pytorchvideo is not installed")
    built = build_backbone(BackboneOptions(backbone="pytorchvideo:x3d_xs", rate=1))
    assert extract(first_video(videos), built, tmp_path / "f.npz").values.shape[1] == 2048


@pytest.mark.parametrize("fact", [{"step": np.nan}, {"step": 0.0}, {"seconds": -30.0}])
def test_times_of_features_that_cannot_be_are_refused(tmp_path, fact):
    np.savez(tmp_path / "a.npz", features=np.zeros((5, 3)), **fact)
    (name,) = fact
    with pytest.raises(UserError, match=f"{name} of a is"):
        read_features("a", find_features(tmp_path)["a"])


@pytest.mark.parametrize(
    ("row", "words"), [("a,2,3,,10", "without a label: a 2 to 3 s"), ("a,nan,3,run,10", "without a start or an end")]
)
def test_segments_without_a_label_or_an_end_stop_unless_left_out(tmp_path, row, words):
    (tmp_path / "a.csv").write_text(ROWS + "a,1,4,run,10\n" + row + "\n")
    with pytest.raises(UserError, match=words):
        read_annotations(tmp_path / "a.csv")
    left = read_annotations(tmp_path / "a.csv", AnnotationOptions(drop_bad=True))
    assert left.labels == ("run",)
    assert any(words.partition(":")[0] in note for note in left.notes)


def test_features_of_our_own_that_are_damaged_are_made_anew(videos, tmp_path):
    backbone, cache = build_backbone(BackboneOptions(rate=1)), tmp_path / "f.npz"
    whole = extract(first_video(videos), backbone, cache)
    cache.write_bytes(b"not an archive")
    np.testing.assert_array_equal(extract(first_video(videos), backbone, cache).values, whole.values)


def test_a_classifier_of_other_labels_leaves_nothing_behind(videos, trained, tmp_path):
    (tmp_path / "s.csv").write_text("video,swim\nx,0.4\n")
    how = PredictionOptions(classifier=tmp_path / "s.csv")
    with pytest.raises(UserError, match="scores other classes"):
        predict(first_video(videos), model=str(trained.model), out=tmp_path / "out", prediction=how, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_run_does_not_lie_among_its_features(features, videos):
    with pytest.raises(UserError, match="holds the features"):
        train(features, annotations=videos["json"], run=RunOptions(out=features, device="cpu"))
