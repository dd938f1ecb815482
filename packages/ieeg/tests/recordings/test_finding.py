"""What a folder holds: split recordings count once, patients of two data sets are not the same, a claim says how sure it is."""

import json

import numpy as np

from ieeg.recordings.finding import dataset_of, files_of, find_recordings
from ieeg.recordings.formats import claim
from ieeg.recordings.opening import open_recording


def test_a_fif_recording_in_parts_is_one(tmp_path):
    import mne

    rng = np.random.default_rng(0)
    info = mne.create_info([f"A{i}" for i in range(1, 33)], 256, "seeg")
    raw = mne.io.RawArray(1e-5 * rng.normal(size=(32, 150 * 256)), info, verbose="error")
    raw.set_annotations(mne.Annotations([20.0, 130.0], [5.0, 5.0], ["seizure", "seizure"]))
    raw.save(tmp_path / "long_raw.fif", split_size="2MB", verbose="error")
    parts = sorted(path.name for path in tmp_path.iterdir())
    assert len(parts) >= 3
    files = find_recordings(tmp_path)
    assert [file.path.name for file in files] == ["long_raw.fif"]
    recording = open_recording(files[0].path)
    assert recording.duration == 150
    assert [event.onset for event in recording.events] == [20, 130]
    assert [path.name for path in files_of(files[0].path)] == sorted(parts)


def test_split_entities_of_bids_count_once(tmp_path):
    for name in ("sub-01_split-01_ieeg.fif", "sub-01_split-02_ieeg.fif", "sub-02_split-02_ieeg.fif", "a-1.fif"):
        (tmp_path / name).write_bytes(b"x")
    names = [file.path.name for file in find_recordings(tmp_path)]
    assert names == ["a-1.fif", "sub-01_split-01_ieeg.fif", "sub-02_split-02_ieeg.fif"], (
        "parts without a first one stay"
    )


def test_data_sets_are_told_apart(tmp_path, write_edf):
    values = np.random.default_rng(0).normal(size=2560), 256
    for name in ("one", "two"):
        folder = tmp_path / name / "sub-01" / "ieeg"
        folder.mkdir(parents=True)
        write_edf(folder / "sub-01_task-x_ieeg.edf", {"A1": values})
    (tmp_path / "one" / "dataset_description.json").write_text(json.dumps({"Name": "First"}))
    (tmp_path / "two" / "dataset_description.json").write_text("[]")
    first, second = (find_recordings(tmp_path / name)[0] for name in ("one", "two"))
    assert first.patient == second.patient == "sub-01"
    assert first.dataset == "First"
    assert first.dataset != second.dataset
    assert dataset_of(first.path, first.path.parent) == "First"


def test_claims(tmp_path, write_edf):
    values = np.random.default_rng(0).normal(size=2560), 256
    edf = write_edf(tmp_path / "a.edf", {"A1": values})
    assert claim(edf).certainty == 0.8
    assert claim(tmp_path).kind == "folder of recordings"
    assert claim(tmp_path / "absent") is None
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty") is None
    (tmp_path / "empty" / "dataset_description.json").write_text("{}")
    assert claim(tmp_path / "empty") is None, "a data set of another kind"
    folder = tmp_path / "bids" / "sub-01" / "ieeg"
    folder.mkdir(parents=True)
    (tmp_path / "bids" / "dataset_description.json").write_text("{}")
    edf.rename(folder / "sub-01_ieeg.edf")
    assert claim(tmp_path / "bids").certainty == 1
