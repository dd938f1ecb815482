"""BIDS folders: what is found, whose it is, and sidecars joined whatever their order and number."""

import json
import shutil

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.recordings.finding import find_recordings
from ieeg.recordings.opening import open_recording
from ieeg.recordings.seizures import seizures_of
from ieeg.samples import SampleOptions, make_samples


@pytest.fixture
def bids(tmp_path, write_edf):
    folder = tmp_path / "sub-01" / "ses-a" / "ieeg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text("{}")
    rng = np.random.default_rng(0)
    signals = {n: (rng.normal(scale=30, size=2560), 256) for n in ("A1", "A'2", "X9")}
    write_edf(folder / "sub-01_ses-a_task-ltm_ieeg.edf", signals)
    return folder


def test_sidecars_are_joined_by_name(bids):
    stem = "sub-01_ses-a_task-ltm"
    rows = ["name\ttype\tunits\tgroup\tstatus\tstatus_description", "Z1\tSEEG\tµV\tZ\tgood\tn/a"]
    rows += ["a’2\tECOG\tµV\tgrid\tbad\tno contact", "A1\tECG\tµV\tn/a\tgood\tn/a"]
    (bids / f"{stem}_channels.tsv").write_text("\n".join(rows))
    (bids / "sub-01_ses-a_electrodes.tsv").write_text("name\tx\ty\tz\nA1\t10\t20\t30\nX9\tn/a\tn/a\tn/a\n")
    (bids.parents[2] / "task-ltm_ieeg.json").write_text(json.dumps({"PowerLineFrequency": 60}))
    recording = open_recording(bids / f"{stem}_ieeg.edf")
    first, second, third = recording.channels
    assert (first.kind, second.kind, third.kind) == ("ecg", "ecog", "seeg")
    assert second.bad == "marked bad in channels.tsv: no contact"
    assert second.group == "grid"
    assert first.position == pytest.approx((0.01, 0.02, 0.03))
    assert third.position is None
    assert recording.power_line == 60
    assert any("names Z1, not in the recording" in w for w in recording.warnings)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A recording of the samples with all its sidecars, which agree with it."""
    options = SampleOptions(patients=1, seconds=60, channels=(4, 4), rates=(64,))
    return make_samples(tmp_path_factory.mktemp("sample"), options)[0]


@pytest.mark.reliability(
    "sidecars that differ from their recording, or are not understood",
    "the recording is believed; the difference is said",
)
@pytest.mark.parametrize(
    ("suffix", "before", "after", "said"),
    [
        ("_channels.tsv", "\t64\t", "\t256\t", "another sampling rate than the file for C'1 (256, not 64 Hz)"),
        ("_channels.tsv", "µV", "mV", "another unit than the file for C'1 (mV, not"),
        ("_channels.tsv", "C'1\tSEEG", "C'1\tSEGE", "types that BIDS does not know, of C'1 ('SEGE'): left out"),
        ("_channels.tsv", "good", "bda", "neither good nor bad, of C'1 ('bda')"),
        ("_channels.tsv", "C'1\t", "Q1\t", "has no row for C'1"),
        ("_ieeg.json", '"SamplingFrequency": 64', '"SamplingFrequency": 512', "says 512 Hz, the file 64, 128 Hz"),
        ("_ieeg.json", '"RecordingDuration": 60', '"RecordingDuration": 720', "lasts 720 s, the file holds 60 s"),
        ("_ieeg.json", '"SEEGChannelCount": 4', '"SEEGChannelCount": 40', "SEEGChannelCount 40, the recording has 4"),
        ("_ieeg.json", "50.0", '"60"', "'60' as PowerLineFrequency"),
        ("_ieeg.json", "50.0", "55", "55 as PowerLineFrequency"),
        ("_ieeg.json", "{", "[{", "is not readable as JSON"),
        ("_coordsystem.json", '"mm"', '"pixels"', "'pixels' as the unit of coordinates: positions are not used"),
    ],
)
def test_sidecars_that_differ_are_said(sample, tmp_path, suffix, before, after, said):
    folder = shutil.copytree(sample.parents[2], tmp_path / "bids") / "sub-01" / "ieeg"
    recording = open_recording(folder / sample.name)
    assert recording.warnings == []
    sidecar = next(path for path in folder.iterdir() if path.name.endswith(suffix))
    text = sidecar.read_text()
    assert before in text
    sidecar.write_text(text.replace(before, after))
    changed = open_recording(folder / sample.name)
    assert any(said in warning and sidecar.name in warning for warning in changed.warnings), changed.warnings
    assert (changed.duration, set(changed.rates)) == (recording.duration, set(recording.rates))


def test_a_table_of_seizures_of_another_recording_is_said(sample, tmp_path):
    folder = shutil.copytree(sample.parents[2], tmp_path / "bids") / "sub-01" / "ieeg"
    table = next(path for path in folder.iterdir() if path.name.endswith("_events.tsv"))
    assert seizures_of(open_recording(folder / sample.name)).warnings == ()
    table.write_text(table.read_text().replace("60.00", "7200.00"))
    (warning,) = seizures_of(open_recording(folder / sample.name)).warnings
    assert "is of a recording of 7200 s, this one has 60 s" in warning


def test_missing_and_broken_sidecars_are_said(bids):
    path = bids / "sub-01_ses-a_task-ltm_ieeg.edf"
    assert any("no channels.tsv" in w for w in open_recording(path).warnings)
    (bids / "sub-01_ses-a_task-ltm_channels.tsv").write_text("nonsense\n\x00")
    (bids / "sub-01_ses-a_task-ltm_ieeg.json").write_text("{")
    (bids / "sub-01_ses-a_electrodes.tsv").write_text("label\tx\nA1\t3\n")
    warnings = " ".join(open_recording(path).warnings)
    assert "not readable as JSON" in warnings
    assert "no column 'name'" in warnings


def test_what_a_folder_holds(bids, tmp_path):
    (tmp_path / "derivatives").mkdir()
    source = bids / "sub-01_ses-a_task-ltm_ieeg.edf"
    (tmp_path / "derivatives" / "x.edf").write_bytes(source.read_bytes())
    (tmp_path / "notes.txt").write_text("x")
    found = find_recordings(tmp_path)
    assert [(f.name, f.patient) for f in found] == [("sub-01_ses-a_task-ltm_ieeg", "sub-01")]
    for case, patient in (("chb05_06.edf", "chb05"), ("PN00-1.edf", "PN00"), ("someone.edf", "someone")):
        path = tmp_path / "plain" / case
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source.read_bytes())
        assert next(f for f in find_recordings(path.parent) if f.path == path).patient == patient
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no recording"):
        find_recordings(tmp_path / "empty")
    with pytest.raises(UserError, match="no such"):
        find_recordings(tmp_path / "absent")


def test_samples_are_a_data_set_that_is_read_back(tmp_path):
    import mne

    paths = make_samples(tmp_path / "data", SampleOptions(patients=2, seconds=60))
    assert [f.patient for f in find_recordings(tmp_path / "data")] == ["sub-01", "sub-02"]
    rates = set()
    for path in paths:
        recording = open_recording(path)
        assert recording.duration == 60
        assert recording.warnings == []
        assert len(seizures_of(recording).events) == 1
        assert recording.power_line == 50
        assert all(c.position for c in recording.channels if c.neural)
        rates |= set(recording.rates)
        raw = mne.io.read_raw_edf(path, verbose="error")
        assert len(raw.ch_names) == len(recording.channels)
    assert rates == {256.0, 512.0, 128.0}
    with pytest.raises(UserError, match="already holds"):
        make_samples(tmp_path / "data")
    again = make_samples(tmp_path / "again", SampleOptions(patients=2, seconds=60))
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
