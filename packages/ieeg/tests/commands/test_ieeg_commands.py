"""The command as a user calls it: real files, folders, resume, bad input."""

import json
import os
import warnings

import numpy as np
import pytest
import torch

from ieeg.samples import SampleOptions, make_samples


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model of 5 s segments at 512 Hz, as the published ones."""
    from ieeg.model.folder import save_model
    from ieeg.model.mvpformer import MVPFormer, MVPFormerConfig

    torch.manual_seed(0)
    config = MVPFormerConfig(segment=2560, width=16, layers=2, heads=4, kv_heads=2, inner=32, positions=32, classes=2)
    return save_model(MVPFormer(config).eval(), tmp_path_factory.mktemp("m") / "model", window=25)


@pytest.mark.parametrize(
    ("name", "channels", "event"),
    [("sample_ecog.edf", 76, True), pytest.param("sample_seeg.edf", 88, False, marks=pytest.mark.slow)],
)
def test_real_recordings_end_to_end(data, model, ieeg, tmp_path, name, channels, event):
    import mne
    import pandas

    looked = ieeg("inspect", data / name, "--json", "--picture", tmp_path / "look.png").json
    assert looked["usable"]
    assert sum(c["kind"] in ("seeg", "ecog", "eeg") for c in looked["channels"]) >= channels
    assert (tmp_path / "look.png").stat().st_size > 10_000
    if event:
        assert looked["seizures"][0][0] == pytest.approx(10.23, abs=0.01)
    made = ieeg("detect", data / name, "--model", model, "--out", tmp_path / "d", "--threshold", "0", "--json").json
    facts = made["detections"][0]
    assert len(facts["channels"]) == 32
    assert any("shorter than the model's window (4 of 25 segments)" in n for n in facts["notes"])
    assert any("do not fill a segment" in n for n in facts["notes"]) == event
    folder, stem = tmp_path / "d" / name.removesuffix(".edf"), name.removesuffix(".edf")
    trace = pandas.read_csv(folder / f"{stem}_probability.tsv", sep="\t")
    assert len(trace) == 4
    assert trace["probability"].between(0, 1).all()
    table = pandas.read_csv(folder / f"{stem}_events.tsv", sep="\t")
    assert table["eventType"].tolist() == ["sz"]
    raw = mne.io.read_raw_edf(folder / f"{stem}_detections.edf", verbose="error")
    assert raw.annotations.description.tolist() == ["sz"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = mne.io.read_raw_edf(data / name, verbose="error")
        source.set_annotations(mne.read_annotations(folder / f"{stem}-annot.fif"))
    assert source.annotations.onset[0] == 0
    page = (folder / "report.html").read_text()
    assert "not for diagnosis" in page
    assert page.count("data:image/png") >= 4


def test_a_recording_shorter_than_a_segment(data, model, ieeg, tmp_path):
    looked = ieeg("inspect", data / "sample_ecog_ieeg.fif", "--json").json
    assert not looked["usable"]
    assert "shorter than one segment" in looked["problem"]
    code, _, err = ieeg("detect", data / "sample_ecog_ieeg.fif", "--model", model, "--out", tmp_path / "d")
    assert code == 2
    assert "shorter than one segment: 0.7 s of 5 s" in err
    assert len(err.splitlines()) <= 2


def test_a_folder_goes_on_where_it_was_killed(model, ieeg, tmp_path):
    make_samples(tmp_path / "data", SampleOptions(patients=3, seconds=60))
    broken = tmp_path / "data" / "sub-02" / "ieeg" / "sub-02_task-ltm_run-01_ieeg.edf"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:900])
    out = tmp_path / "d"
    arguments = ("detect", tmp_path / "data", "--model", model, "--out", out, "--no-report")
    code, _, err = ieeg(*arguments)
    assert code == 1
    assert "sub-02" in err
    first = out / "sub-01_task-ltm_run-01_ieeg"
    before = (first / "detection.json").stat().st_mtime_ns
    broken.write_bytes(whole)
    leftover = out / ".sub-02_task-ltm_run-01_ieeg.x-1.part"
    leftover.mkdir()
    assert ieeg(*arguments)[0] == 0
    assert (first / "detection.json").stat().st_mtime_ns == before
    folders = [p.name for p in out.iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert sorted(folders) == [f"sub-0{i}_task-ltm_run-01_ieeg" for i in (1, 2, 3)]
    code, _, err = ieeg(*arguments, "--threshold", "0.9")
    assert code == 2
    assert "threshold (None, now 0.9)" in err


def test_what_is_written_passes_the_conventions_of_bids(model, ieeg, tmp_path):
    """By BIDS' own rules for names, and read by mne-bids: the samples, and detections laid beside the recording."""
    import shutil

    import mne_bids
    from bids_validator import BIDSValidator

    make_samples(tmp_path / "data", SampleOptions(patients=1, seconds=60))
    recording = next((tmp_path / "data").rglob("*.edf"))
    assert ieeg("detect", recording, "--model", model, "--out", tmp_path / "d", "--threshold", "0").code == 0
    stem = "sub-01_task-ltm_run-01"
    for suffix in ("tsv", "json"):
        found = tmp_path / "d" / f"{stem}_ieeg" / f"{stem}_events.{suffix}"
        shutil.copy(found, recording.with_name(found.name))
    files = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert [p for p in files if not BIDSValidator().is_bids(f"/{p.relative_to(tmp_path / 'data')}")] == []
    header = (recording.parent / f"{stem}_events.tsv").read_text().split("\n")[0].split("\t")
    assert header[:2] == ["onset", "duration"]
    assert set(json.loads((recording.parent / f"{stem}_events.json").read_text())) == set(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = mne_bids.BIDSPath(subject="01", task="ltm", run="01", datatype="ieeg", root=tmp_path / "data")
        raw = mne_bids.read_raw_bids(path, verbose="error")
    assert set(raw.get_channel_types()) == {"seeg", "ecg"}
    assert raw.info["line_freq"] == 50
    assert raw.annotations.onset.tolist() == [0.0]


def test_evaluate_model_and_detections(model, ieeg, tmp_path):
    make_samples(tmp_path / "data", SampleOptions(patients=3, seconds=60))
    out = tmp_path / "e"
    result = ieeg("evaluate", tmp_path / "data", "--model", model, "--out", out, "--json").json
    assert result["subjects"] == 3
    assert (out / "evaluation.png").is_file()
    assert "not for diagnosis" in (out / "report.html").read_text()
    # the truth as detections of another tool: perfect, and significantly so where three subjects allow it
    perfect = tmp_path / "perfect"
    perfect.mkdir()
    for path in (tmp_path / "data").rglob("*_events.tsv"):
        (perfect / path.name).write_bytes(path.read_bytes())
    both = ("--detections", perfect, "--against", model, "--out", tmp_path / "e2")
    result = ieeg("evaluate", tmp_path / "data", *both, "--json").json
    assert result["measures"]["event_f1"]["pooled"] == 1
    assert result["measures"]["sample_f1"]["pooled"] > 0.97
    assert "curve" not in result
    assert result["against"]["measures"]["window_f1"]["p"] >= 0.25
    assert ieeg("evaluate", tmp_path / "data", "--model", model, "--out", out)[0] == 2


def test_inputs_that_are_odd_but_usable(model, ieeg, tmp_path, write_edf):
    rng = np.random.default_rng(0)

    def signal(rate, scale=30.0):
        return scale * np.cumsum(rng.normal(size=20 * rate)) / rate**0.5, rate

    cases = {
        "one": {"A1": signal(256)},
        "many": {f"G{i}": signal(128) for i in range(1, 301)},
        "mixed": {"A1": signal(256), "A2": signal(512), "A3": signal(1000)},
        "volts": {f"A{i}": signal(256, 3e-5) for i in range(1, 5)},
    }
    for name, signals in cases.items():
        path = write_edf(tmp_path / f"{name}.edf", signals)
        made = ieeg("detect", path, "--model", model, "--out", tmp_path / name, "--json", "--no-report").json
        assert len(made["detections"][0]["channels"]) == min(len(signals), 32)
    assert any("volts" in n for n in made_notes(tmp_path / "volts"))
    flat = write_edf(tmp_path / "flat.edf", {"A1": (np.zeros(5120), 256), "A2": (np.zeros(5120), 256)})
    code, _, err = ieeg("detect", flat, "--model", model, "--out", tmp_path / "flat")
    assert code == 2
    assert "no usable channel" in err
    assert ieeg("inspect", flat, "--json").json["microvolts"] is None
    kept = ("--keep-bads", "--no-report", "--json")  # a run that failed does not stand in the way of other options
    assert ieeg("detect", flat, "--model", model, "--out", tmp_path / "flat", *kept).code == 0
    heart = write_edf(tmp_path / "heart.edf", {"ECG": signal(256)})
    assert ieeg("detect", heart, "--model", model, "--out", tmp_path / "heart")[0] == 2


def made_notes(folder):
    return [n for p in folder.rglob("detection.json") for n in json.loads(p.read_text())["notes"]]


def test_a_scheduler_that_does_not_answer_is_one_line(model, ieeg, tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": (np.random.default_rng(0).normal(size=5120), 256)})
    code, _, err = ieeg("detect", path, "--model", model, "--out", tmp_path / "d", "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2
    assert len(err.splitlines()) <= 2
    assert os.listdir(tmp_path) == ["a.edf"]


@pytest.mark.slow
def test_killed_and_run_again_nothing_is_doubled_or_half(model, ieeg, tmp_path):
    import signal
    import subprocess
    import sys
    import time

    make_samples(tmp_path / "data", SampleOptions(patients=4, seconds=60))
    out = tmp_path / "d"
    words = ["detect", str(tmp_path / "data"), "--model", str(model), "--out", str(out)]
    command = [sys.executable, "-c", "import sys; from ieeg.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(out.glob("sub-*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    done = {p: p.stat().st_mtime_ns for p in out.glob("sub-*/detection.json")}
    assert len(list(out.glob("sub-*"))) < 4, "it was killed in the middle"
    assert ieeg(*words)[0] == 0
    assert len([p for p in out.iterdir() if p.is_dir()]) == 4, "no remains of the killed run"
    assert all(p.stat().st_mtime_ns == when for p, when in done.items()), "what was done is not done again"
    assert len({json.loads(line)["name"] for line in (out / "log.jsonl").read_text().splitlines()}) == 4
