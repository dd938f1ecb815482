"""Files that once gave a wrong answer, each with what its row in the cases' README asks for."""

import shutil

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.commands.inspect import examine
from ieeg.recordings.finding import find_recordings
from ieeg.recordings.montage import derivations
from ieeg.recordings.opening import open_recording
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.settings import Settings

SIX_SECONDS = [[8.0, 14.0]]
UNKNOWN = None


@pytest.mark.reliability("seizure labels and tables of recorders", "their seizures, or unknown and the labels named")
@pytest.mark.parametrize(
    ("case", "seizures", "words"),
    [
        ("01_point_seizure_duration_0", [[8.0, 20.0]], "is not marked"),
        ("02_sz_onset_offset_rows", SIX_SECONDS, ""),
        ("03_onset_duration_na", SIX_SECONDS, ""),
        ("04_events_tsv_says_nothing_but_edf_does", SIX_SECONDS, "own annotations mark 1"),
        ("06_sz1_numbered", SIX_SECONDS, ""),
        ("08_focal_seizure", SIX_SECONDS, ""),
        ("09_no_seizure_label", UNKNOWN, ""),
        ("09e_onset_only_label", SIX_SECONDS, "are taken as those of seizures"),
        ("10_annot_only_eyes_open.edf", UNKNOWN, "'eyes open' (1)"),
        ("12_annot_seizure_point_end.edf", SIX_SECONDS, ""),
        ("15_annot_label_lower.edf", SIX_SECONDS, "read as the annotations"),
    ],
)
def test_seizures(cases, case, seizures, words):
    findings = examine(find_recordings(cases / case)[0].path)
    assert findings.data["seizures"] == seizures
    assert words in " | ".join(findings.warnings)


@pytest.mark.reliability("headers and time stamps of recordings", "read where they can be, what is odd said")
@pytest.mark.parametrize(
    ("case", "channels", "seconds", "gaps", "words"),
    [
        ("20_one_unused_channel_dmin_eq_dmax.edf", 5, 20.0, [], "digital range is 0"),
        ("21_decimal_comma.edf", 6, 20.0, [], ""),
        ("33_header_bytes_padded.edf", 6, 20.0, [], "data begin at byte 2048"),
        ("34b_discont_last_bad_tal.edf", 6, 20.0, [], "more than 3 days after"),
        ("35_discont_backwards.edf", 6, 20.0, [], "before the end of the record before"),
        ("36_discont_missing_tal.edf", 6, 120.0, [(10.0, 110.0)], "have no time stamp"),
        ("41_version_blank.edf", 6, 20.0, [], "version field of the header is blank"),
        ("50_rate_40Hz.edf", 6, 20.0, [], "hold nothing above half of that"),
        ("61_mef_gap", 4, 80.0, [(20.0, 60.0)], "40.0 s without samples"),
    ],
)
def test_headers_and_times(cases, case, channels, seconds, gaps, words):
    if case.startswith("61"):
        pytest.importorskip("pymef", reason="reads MEF3")
        case += "/61_gap.mefd"
    findings = examine(cases / case)
    assert len(findings.data["channels"]) == channels
    assert findings.data["duration"] == pytest.approx(seconds)
    assert np.ravel(findings.data["gaps"]) == pytest.approx(np.ravel(gaps))
    assert words in " | ".join(findings.warnings)


def test_the_padded_header_gives_the_samples_of_the_right_place(cases):
    padded = open_recording(cases / "33_header_bytes_padded.edf")
    content = (cases / "33_header_bytes_padded.edf").read_bytes()
    records = np.frombuffer(content[2048:], "<i2")
    signal = padded._file.signals[0]
    expected = (records[: signal.samples] - signal.digital_min) * signal.gain + signal.physical_min
    np.testing.assert_allclose(padded.read([0], 0, signal.samples)[0], expected, rtol=1e-4, atol=1e-2)


def test_a_duration_that_is_no_number_is_one_line(cases):
    with pytest.raises(UserError, match="header is damaged"):
        open_recording(cases / "30_duration_nan.edf")


def test_scalp_names_have_no_shafts(cases):
    recording = open_recording(cases / "49_scalp_1020.edf")
    with pytest.raises(UserError, match="scalp electrodes"):
        Prepared(recording, Settings(reference="bipolar"))
    assert Prepared(recording, Settings(reference="average")).names


def test_a_coarse_group_never_joins_shafts(cases):
    recording = open_recording(find_recordings(cases / "60_group_is_kind_of_electrode")[0].path)
    neural = [c for c in recording.channels if c.neural]
    pairs = [d.name for d in derivations([c.name for c in neural], "bipolar", [c.group for c in neural])]
    assert pairs == ["A1-A2", "A2-A3", "A3-A4", "B1-B2", "B2-B3", "B3-B4", "B4-B5", "B5-B6"]


def test_the_tables_that_mne_bids_writes(cases, data, tmp_path):
    shutil.copytree(cases / "63_mne_bids_writes_duration_0", tmp_path / "bids")
    recording = tmp_path / "bids" / "sub-pat01" / "ieeg" / "sub-pat01_task-ictal_ieeg.edf"
    shutil.copy(data / "sample_ecog.edf", recording)
    with_table, bare = examine(recording), examine(data / "sample_ecog.edf")
    assert with_table.data["seizures"][0] == pytest.approx([10.23, 21.7], abs=0.05)
    assert with_table.data["seizures"][0] == pytest.approx(bare.data["seizures"][0], abs=0.01)
