"""Seizure tables of four data sets, marks inside recordings, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.recordings.opening import open_recording
from ieeg.recordings.recording import Event
from ieeg.recordings.seizures import chbmit, from_annotations, seizures_of, siena, tsv, tuh


def test_chb_mit(data):
    text = (data / "header_only/chb05-summary.txt").read_text()
    assert chbmit(text, "chb05_06.edf") == [(417, 532)]
    assert chbmit(text, "chb05_01.edf") == []
    assert chbmit(text, "chb99_01.edf") is None
    seizures = seizures_of(open_recording(data / "header_only/chb05_06.edf"))
    assert seizures.source == "chb05-summary.txt"
    assert not len(seizures.events)  # the sample is two seconds long
    assert "outside the recording of 2.0 s" in seizures.warnings[0]


def test_siena_and_midnight(data):
    text = (data / "header_only/Seizures-list-PN00.txt").read_text()
    assert siena(text, "PN00-1.edf") == [(19 * 60 + 3, 19 * 60 + 3 + 70)]
    assert siena(text, "PN77-1.edf") is None
    over = (
        "Seizure n 1\nFile name: PN01-1.edf\nRegistration start time: 23.50.00\nRegistration end time: 01.00.00\n"
        "Seizure start time: 00:10.30\nSeizure end time: 0.11.00\n"
        "Seizure n 2\nRegistration start time: 23.50.00\nStart time: 23.59.30\nEnd time: 00.00.30\n"
    )
    assert siena(over, "PN01-1.edf") == [(1230, 1260), (570, 630)]


def test_tuh_merges_channels():
    text = (
        "# version = csv_v1.0.0\n# bname = a\nchannel,start_time,stop_time,label,confidence\n"
        "FP1-F7,10.0,20.0,cpsz,1\nF7-T3,12.0,25.0,cpsz,1\nTERM,40,50,bckg,1\nTERM,60,70,seiz,1\n"
    )
    assert tuh(text) == [(10, 25), (60, 70)]


def test_szcore_and_bids_tables():
    text = "onset\tduration\teventType\n5\t10\tsz_foc_ia\n30\t5\tbckg\n40\tn/a\tartefact\n"
    assert tsv(text, "x") == [(5, 15)]
    assert tsv("onset\tduration\ttrial_type\n1.5\t2\tseizure\n", "x") == [(1.5, 3.5)]
    with pytest.raises(UserError, match="without onset"):
        tsv("onset\tduration\teventType\nn/a\t10\tsz\n", "x")


def test_marks_inside_a_recording():
    events = [
        Event(10, 0, "eeg sz start"),
        Event(50, 0, "EEG SZ end"),
        Event(70, 9, "Seizure 2"),
        Event(80, 4, "artefact"),
    ]
    assert from_annotations(events, 100) == [(10, 50), (70, 79)]
    assert from_annotations(events[:1], 21.7) == [(10, 21.7)]
    assert from_annotations([Event(5, 2, "Comment/seizure"), Event(9, 2, "Comment/size")], 100) == [(5, 7)]


def test_seizures_outside_the_recording_are_cut_or_left_out(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": (np.random.default_rng(0).normal(size=2560), 256)})
    table = tmp_path / "a_events.tsv"
    table.write_text("onset\tduration\teventType\n-3\t5\tsz\n4\t2\tsz\n8\t99\tsz\n50\t5\tsz\n5\t-2\tsz\n")
    seizures = seizures_of(open_recording(path))
    assert seizures.events.tolist() == [[0, 2], [4, 6], [8, 10]]
    assert len(seizures.warnings) == 4
    assert seizures.known
    table.unlink()
    assert not seizures_of(open_recording(path)).known
    (tmp_path / "t.txt").write_text("nothing")
    with pytest.raises(UserError, match="no seizure table"):
        seizures_of(open_recording(path), tmp_path / "t.txt")
    with pytest.raises(UserError, match="cannot read"):
        seizures_of(open_recording(path), Path("/no/such.tsv"))
