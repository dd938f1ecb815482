"""The verbs train, forecast, stream and models as a person uses them, on written recordings and on the real ones."""

import json

import numpy as np
import pytest

from ieeg.model.folder import load_model, save_model
from ieeg.model.mvpformer import build
from ieeg.model.published import RESEARCH_ONLY

QUICK = ["--epochs", "2", "--batches", "3", "--batch", "4", "--window", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three patients of two minutes at 200 Hz; a loud rhythm is a seizure."""
    import edfio

    root = tmp_path_factory.mktemp("data")
    for patient in range(3):
        random = np.random.default_rng(patient)
        x = 20 * random.standard_normal((4, 120 * 200))
        t = np.arange(40 * 200, 60 * 200)
        x[:2, t] += 80 * np.sin(2 * np.pi * 5 * t / 200)
        signals = [
            edfio.EdfSignal(row, 200, label=f"A{i + 1}", physical_dimension="uV", physical_range=(-400, 400))
            for i, row in enumerate(x)
        ]
        place = root / f"sub-{patient + 1:02}" / "ieeg"
        place.mkdir(parents=True)
        edfio.Edf(signals).write(place / f"sub-{patient + 1:02}_task-x_ieeg.edf")
        (place / f"sub-{patient + 1:02}_task-x_events.tsv").write_text(
            "onset\tduration\teventType\n40.0\t20.0\tsz\n", encoding="utf-8"
        )
    return root


@pytest.fixture(scope="module")
def detector(folder, ieeg, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert ieeg("train", folder, "--out", out, *QUICK, "--validation", "sub-03").code == 0
    return out


def test_the_same_seed_gives_the_same_model(folder, tmp_path, ieeg):
    quick = ["--epochs", "1", "--batches", "1", "--batch", "2", "--window", "4", "--validation", "0", "--json"]
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        assert ieeg("train", folder, "--out", tmp_path / name, *quick, "--seed", seed).code == 0
    one, two, three = ((tmp_path / n / "model/model.safetensors").read_bytes() for n in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_train_leaves_a_run_folder_and_a_model_that_says_what_it_is(detector, folder, ieeg):
    made = json.loads((detector / "metrics.json").read_text())
    assert (made["learned"], made["held_out"]) == (["sub-01", "sub-02"], ["sub-03"])
    assert 0 < made["threshold"] < 1
    assert {"config.yaml", "metrics.csv", "model", "checkpoints", "figures"} <= {p.name for p in detector.iterdir()}
    loaded = load_model(detector / "model")
    assert (loaded.rate, loaded.window, loaded.segment_seconds, loaded.detects) == (128.0, 4, 2.0, True)
    assert RESEARCH_ONLY in (detector / "model" / "README.md").read_text()
    assert loaded.provenance is not None
    assert [r["patient"] for r in loaded.provenance["recordings"]] == ["sub-01", "sub-02", "sub-03"]
    assert "already holds a run" in ieeg("train", folder, "--out", detector, *QUICK).err


def test_a_copy_under_another_name_is_refused_or_dropped(folder, tmp_path, ieeg):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(folder, data)
    copy = data / "sub-09" / "ieeg"
    copy.mkdir(parents=True)
    shutil.copy(data / "sub-01/ieeg/sub-01_task-x_ieeg.edf", copy / "sub-09_task-x_ieeg.edf")
    refused = ieeg("train", data, "--out", tmp_path / "run", *QUICK)
    assert refused.code == 2
    assert "the same recording, or parts of one, under different names" in refused.err
    assert not (tmp_path / "run").exists()
    assert ieeg("train", data, "--out", tmp_path / "run", *QUICK, "--drop-copies").code == 1, "one was left out"


def test_judging_on_what_the_model_knows_is_said(folder, detector, tmp_path, ieeg):
    made = ieeg("evaluate", folder, "--model", detector / "model", "--out", tmp_path / "e", "--json").json
    seen = made["seen_in_training"]
    assert "the model was trained on this recording" in seen["sub-01_task-x_ieeg"]
    assert "its threshold was chosen on this recording" in seen["sub-03_task-x_ieeg"]
    assert json.loads((tmp_path / "e/metrics.json").read_text())["seen_in_training"] == seen
    assert "Not a test of the model: it knows 3 of 3 recordings" in (tmp_path / "e/report.html").read_text()
    printed = ieeg("evaluate", folder, "--model", detector / "model", "--out", tmp_path / "f")
    assert "Not a test of the model: it knows 3 of 3 recordings" in printed.err
    for name in seen:
        assert f"known from training: {name}: " in printed.err
    page = (tmp_path / "e/report.html").read_text()
    assert all(name in page.partition("Known from training")[2] for name in seen)
    file = folder / "sub-01/ieeg/sub-01_task-x_ieeg.edf"
    found = ieeg("detect", file, "--model", detector / "model", "--out", tmp_path / "d", "--no-report", "--json").json
    assert any("trained on this recording: this is not a test" in note for note in found["detections"][0]["notes"])


def test_fine_tuning_a_generative_model_and_forecasting_with_it(folder, tmp_path, ieeg):
    assert ieeg("train", folder, "--task", "pretrain", "--out", tmp_path / "base", *QUICK).code == 0
    file = folder / "sub-03/ieeg/sub-03_task-x_ieeg.edf"
    facts = ieeg(
        "forecast", file, "--model", tmp_path / "base/model", "--steps", 2, "--out", tmp_path / "f", "--json"
    ).json
    assert [s["step"] for s in facts["steps"]] == [1, 2]
    assert facts["notice"] == RESEARCH_ONLY
    assert any("not a test of the model" in note for note in facts["notes"])
    assert {"forecast.npz", "forecast.tsv", "figures", "report.html"} == {p.name for p in (tmp_path / "f").iterdir()}
    arrays = np.load(tmp_path / "f" / "forecast.npz")
    assert arrays["predicted"].shape == arrays["truth"].shape == (2, 4, 256)
    again = ieeg("forecast", file, "--model", tmp_path / "base/model", "--out", tmp_path / "f")
    assert "already holds a forecast" in again.err
    assert ieeg("train", folder, "--model", tmp_path / "base/model", "--out", tmp_path / "tuned", *QUICK).code == 0
    assert load_model(tmp_path / "tuned/model").network.config.lora_rank == 8
    refused = ieeg("forecast", file, "--model", tmp_path / "tuned/model", "--out", tmp_path / "g")
    assert "cannot forecast" in refused.err


def test_a_stream_that_was_killed_says_nothing_twice(folder, detector, tmp_path, ieeg):
    file = folder / "sub-03/ieeg/sub-03_task-x_ieeg.edf"
    options = ["stream", file, "--model", detector / "model", "--every", "--threshold", "0.5"]
    whole = ieeg(*options, "--out", tmp_path / "a.jsonl").records
    assert [r["index"] for r in whole if r["type"] == "segment"] == list(range(60))
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole
    cut = next(i for i, r in enumerate(whole) if r.get("index") == 30)
    (tmp_path / "b.jsonl").write_text("\n".join(lines[: cut + 3]) + '\n{"type": "seg')
    position = json.loads((tmp_path / "a.jsonl.position").read_text())
    (tmp_path / "b.jsonl.position").write_text(json.dumps(position | {"next": 31}))
    assert ieeg(*options, "--out", tmp_path / "b.jsonl", "--resume").code == 0
    again = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [r.get("index") for r in again] == [r.get("index") for r in whole]
    for a, b in zip(again, whole, strict=True):
        assert (
            a == pytest.approx(b, abs=1e-3)
            if a["type"] == "segment" and (a := _plain(a)) and (b := _plain(b))
            else True
        )
    assert "already there" in ieeg(*options, "--out", tmp_path / "b.jsonl").err


def _plain(record: dict) -> dict:
    return {k: v for k, v in record.items() if k != "type"}


def test_bad_wishes_are_one_line(folder, tmp_path, ieeg):
    run = ["train", folder, "--out", tmp_path / "run", *QUICK[:-2]]
    for more, words in (
        (["--model", "huge"], "neither a size"),
        (["--validation", "sub-77"], "no patient sub-77"),
        (["--validation", "sub-01,sub-02,sub-03"], "no patient is left"),
        (["--selection", "never"], "never"),
        (["--window", "500"], "no recording holds a window"),
    ):
        refused = ieeg(*run, *more)
        assert refused.code == 2
        assert words in refused.err
        if (tmp_path / "run").exists():
            import shutil

            shutil.rmtree(tmp_path / "run")
    assert "no such file" in ieeg("train", tmp_path / "absent", "--out", tmp_path / "run").err
    file = folder / "sub-03/ieeg/sub-03_task-x_ieeg.edf"
    assert "no such folder" in ieeg("stream", file, "--model", tmp_path / "no" / "model").err


def test_real_recordings_are_forecast_with_the_padding_said(data, tmp_path, ieeg):
    save_model(build("tiny").eval(), tmp_path / "base/model", rate=128.0, window=12)
    for name, channels in (("sample_ecog", 32), ("sample_seeg", 32)):
        facts = ieeg(
            "forecast", data / f"{name}.edf", "--model", tmp_path / "base/model", "--out", tmp_path / name, "--json"
        ).json
        assert len(facts["channels"]) == channels
        assert facts["padded_segments"] > 0
        assert any("its first segment is repeated in their place" in note for note in facts["notes"])


def test_a_file_that_is_still_written_is_followed_to_its_end(folder, detector, tmp_path, ieeg):
    import threading

    whole = (folder / "sub-03/ieeg/sub-03_task-x_ieeg.edf").read_bytes()
    growing = tmp_path / "growing.edf"
    growing.write_bytes(whole[: len(whole) // 3])

    def write_on():
        with growing.open("ab") as file:
            for part in (whole[len(whole) // 3 : len(whole) // 2], whole[len(whole) // 2 :]):
                file.write(part)
                file.flush()
                threading.Event().wait(0.3)

    writer = threading.Timer(0.2, write_on)
    writer.start()
    follow = ["--follow", "--poll", "0.05", "--patience", "2"]
    said = ieeg("stream", growing, "--model", detector / "model", "--every", *follow).records
    writer.join()
    assert [r["index"] for r in said if r["type"] == "segment"] == list(range(60))
