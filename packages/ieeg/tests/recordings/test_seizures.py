"""Seizure tables as the field writes them, marks inside recordings, both together, and what does not fit or is not understood."""

from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from core_runtime.tables import read_table
from ieeg.recordings.labels import LabelOptions, meaning_of
from ieeg.recordings.marks import Mark, read_marks
from ieeg.recordings.opening import open_recording
from ieeg.recordings.seizure_tables import chbmit, read_marks_table, siena, table_events
from ieeg.recordings.seizures import marked_seizures, seizures_of

NONE = LabelOptions()


def test_chb_mit(data):
    text = (data / "header_only/chb05-summary.txt").read_text()
    assert chbmit(text, "chb05_06.edf") == [(417, 532)]
    assert chbmit(text, "chb05_01.edf") == []
    assert chbmit(text, "chb99_01.edf") is None
    seizures = seizures_of(open_recording(data / "header_only/chb05_06.edf"))
    assert not len(seizures.events)  # the sample is two seconds long
    assert not seizures.known, "a seizure outside is not the same as none"
    assert "outside the recording of 2.0 s" in seizures.warnings[0]
    with pytest.raises(UserError, match="1 starts and 0 ends"):
        chbmit("File Name: a.edf\nSeizure Start Time: 5 seconds\n", "a.edf")


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


@pytest.mark.reliability("seizure labels and tables of recorders", "their seizures, or unknown and the labels named")
@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        ("sz", "seizure"),
        ("SZ1", "seizure"),
        ("Seizure", "seizure"),
        ("Seizure 2", "seizure"),
        ("focal aware seizure", "seizure"),
        ("Focal impaired awareness seizure", "seizure"),
        ("FBTCS", "seizure"),
        ("sz_foc_ia", "seizure"),
        ("fnsz", "seizure"),
        ("Comment/seizure", "seizure"),
        ("ictal", "seizure"),
        ("sc:Seizure", "seizure"),
        ("eeg sz start", "begin"),
        ("seizure_begin", "begin"),
        ("SeizureOnset", "begin"),
        ("Tonic-clonic-motor-onset-seizure", "begin"),  # a stretch all the same where it has a duration
        ("EEG SZ end", "end"),
        ("End of seizure", "end"),
        ("sz offset", "end"),
        ("bckg", "none"),
        ("no seizure", "none"),
        ("seizure free period", "none"),
        ("seizure-free", "none"),
        ("interictal", "none"),
        ("postictal seizure state", "none"),
        ("no further seizures", "none"),
        ("seizure: none", "none"),
        ("GTC", "seizure"),
        ("FAS", None),  # focal aware seizure, or the test of verbal fluency
        ("seizure, then postictal", None),  # a seizure, but where does it end?
        ("interictal to ictal", None),
        ("sz with postictal aphasia", None),
        ("pre-seizure", "none"),
        ("between the seizures", "none"),
        ("post-ictal", "none"),
        ("non-motor seizure", "seizure"),  # ILAE's words for absences and for seizures of feeling
        ("generalized non-motor seizure (absence)", "seizure"),
        ("non-convulsive seizure", "seizure"),
        ("seizure without loss of awareness", "seizure"),
        ("Focal-onset-epileptic-seizure", "begin"),
        ("non-epileptic seizure", None),
        ("non-electrographic seizure", None),
        ("seizure after stimulation", None),
        ("no motor seizure", None),
        ("seizure, not witnessed", None),
        ("seizure over left temporal", "seizure"),
        ("SZ over", "end"),
        ("seizure on video", "seizure"),
        ("sz on", "begin"),
        ("sz off 2", "end"),
        ("+Seizure", "begin"),
        ("-Seizure", "end"),
        ("\N{MINUS SIGN}SZ", "end"),
        ("- seizure", "seizure"),  # an entry of a list
        ("-no seizure", "none"),
        ("eyes open", None),
        ("Comment/size", None),
        ("seizure?", None),
        ("possible seizure", None),
        ("seizure onset zone", None),
        ("seizure medication given", None),
        ("", None),
    ],
)
def test_labels(label, meaning):
    assert meaning_of(label) == meaning


def spans(text: str, tmp_path: Path, duration: float = 100.0, labels: LabelOptions = NONE):
    path = tmp_path / "a_events.tsv"
    path.write_text(text, encoding="utf-8")
    return read_marks_table(read_table(path, comment="#"), duration, labels, {})


def test_tuh_merges_channels(tmp_path):
    text = (
        "# version = csv_v1.0.0\n# bname = a\nchannel,start_time,stop_time,label,confidence\n"
        "FP1-F7,10.0,20.0,cpsz,1\nF7-T3,12.0,25.0,cpsz,1\nTERM,40,50,bckg,1\nTERM,60,70,seiz,1\n"
    )
    assert spans(text, tmp_path).spans == [(10, 25), (60, 70)]


@pytest.mark.parametrize("onset", [120.369, 140.607, 120.225])
def test_tables_of_ieeg_epilepsy(tmp_path, onset):
    """The official BIDS example marks each seizure by a point: it is open-ended, and that is said."""
    reading = spans(f"onset\tduration\tevent_type\n{onset}\t0\tSeizure\n", tmp_path, 200)
    assert (reading.spans, reading.open_ended) == ([(onset, 200)], [onset])


def test_table_of_ieeg_epilepsy_ecog(tmp_path):
    """Three points "seizure_begin", the last line without an end of line; the markers of its BrainVision file say the same."""
    onsets = [890.375, 1371.2998, 1521.0752]
    rows = "\n".join(f"{onset:.4f}\t0\tseizure_begin" for onset in onsets)
    reading = spans(f"onset\tduration\ttrial_type\n{rows}", tmp_path, 1600)
    assert reading.open_ended == onsets
    assert reading.spans == [(890.375, 1371.2998), (1371.2998, 1521.0752), (1521.0752, 1600)], "three, not one"
    short = spans(f"onset\tduration\ttrial_type\n{rows}", tmp_path, 1600, LabelOptions(seizure_length=60.0))
    assert short.spans == [(onset, onset + 60) for onset in onsets]
    samples = [911744, 1404211, 1557581]
    marks = [Mark((sample - 1) / 1024, 1 / 1024, "Stimulus/seizure_begin") for sample in samples]
    marked = read_marks(marks, 1600, LabelOptions(seizure_length=60.0), {})
    np.testing.assert_allclose(marked.open_ended, onsets, atol=1e-3)


XEEG = {
    "run-002": (
        [(24.8325, 102.2255), (13.8275, 159.5516), (8.8275, 118.1255), (8.8275, 164.3851), (24.8325, 148.4851)],
        "Tonic-clonic-motor-onset-seizure",
        (8.8275, 173.3791),
    ),
    "run-004": (
        [(26.15, 124.3657), (1, 149.5157), (20.95, 129.5657), (26.15, 76.0424)],
        "Tonic-clonic-motor-onset-seizure",
        (1.0, 150.5157),
    ),
    "run-005": (
        [(207.9323, 308), (207.9434, 308), (240.0202, 290.2828), (207.9101, 308)],
        "Focal-onset-epileptic-seizure",
        (207.9101, 530.303),
    ),
}


@pytest.mark.parametrize("run", XEEG)
def test_tables_of_xeeg_hed_score(tmp_path, run):
    """HED tags of SCORE, a row for each group of channels: together one seizure."""
    rows, tag, whole = XEEG[run]
    lines = [f"{onset}\t{duration}\t{tag}\tT3-T5,T5-O{i}" for i, (onset, duration) in enumerate(rows)]
    reading = spans("onset\tduration\tHED_annotations\tchannel\n" + "\n".join(lines), tmp_path, 600)
    assert reading.spans == [pytest.approx(whole)]
    assert not reading.open_ended


def test_tables_of_xeeg_hed_score_without_seizures(tmp_path):
    """Other tags are no seizure, and do not say that there is none; a row that lacks a cell is left out and counted."""
    for text in (
        "onset\tduration\tHED_annotations\tchannel\n0\t224\tOther-organized-rhythm/non-interesting events\tFP1-F7,F7-T3\n",
        "onset\tduration\tHED\n0.656\t88.625\tOpen-eyes\n4.016\t7.742\tsc:Intermittent-photic-stimulation/1 Hz\n"
        "26.012\t8.1     sc:Intermittent-photic-stimulation/8 Hz\n95.027\t92.095\tClose-eyes\n",
    ):
        reading = spans(text, tmp_path, 250)
        assert not reading.spans
        assert not reading.says_none
        assert reading.not_understood
    assert any("1 left out" in warning for warning in reading.warnings)


def test_hed_tags_of_the_json_beside_it(tmp_path):
    (tmp_path / "a_events.json").write_text(
        '{"trial_type": {"HED": {"kind-7": "Seizure-PNES", "kind-8": "Focal-onset-seizure"}}}'
    )
    reading = spans("onset\tduration\ttrial_type\n10\t5\tkind-8\n30\t5\tkind-7\n", tmp_path)
    assert reading.spans == [(10, 15)]


def test_szcore_and_bids_tables(tmp_path):
    reading = spans("onset\tduration\teventType\n5\t10\tsz_foc_ia\n30\t5\tbckg\n40\tn/a\tartefact\n", tmp_path)
    assert reading.spans == [(5, 15)]
    assert spans("onset\tduration\ttrial_type\n1.5\t2\tseizure\n", tmp_path).spans == [(1.5, 3.5)]
    lost = spans("onset\tduration\teventType\nn/a\t10\tsz\nx\t1\tsz\n3\t-1\tsz\n", tmp_path)
    assert not lost.spans
    assert "3 rows, 0 used, 3 left out" in lost.warnings[0]
    assert spans("onset\tduration\teventType\n0\t100\tbckg\n", tmp_path).says_none
    assert not spans("onset\tduration\teventType\n0\t50\tbckg\n", tmp_path).says_none


@pytest.mark.reliability("seizure labels and tables of recorders", "their seizures, or unknown and the labels named")
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("8\t0\tsz onset\n14\t0\tsz offset\n", [(8, 14)]),
        ("8\tn/a\tsz start\n14\tn/a\tsz end\n", [(8, 14)]),
        ("8\t0\tonset\n14\t0\toffset\n", [(8, 14)]),
        ("8\t0\tSeizure\n14\t0\tEnd of seizure\n", [(8, 14)]),
        ("8\t6\tSZ1\n30\t5\tSZ2\n", [(8, 14), (30, 35)]),
        ("8\t6\tseizure free period\n", []),
        ("8\t0\tonset\n", []),
        ("14\t0\tsz end\n", []),
    ],
)
def test_points_and_pairs(tmp_path, rows, expected):
    reading = spans(f"onset\tduration\ttrial_type\n{rows}", tmp_path)
    assert reading.spans == expected
    assert not reading.open_ended


def test_a_seizure_whose_end_is_not_marked(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": (np.random.default_rng(0).normal(size=5120), 256)})
    (tmp_path / "a_events.tsv").write_text("onset\tduration\ttrial_type\n8\t0\tSeizure\n")
    seizures = seizures_of(open_recording(path))
    assert seizures.events.tolist() == [[8, 20]]
    assert seizures.open_ended == (8.0,)
    assert any("is not marked" in warning for warning in seizures.warnings)
    short = seizures_of(open_recording(path), LabelOptions(seizure_length=5))
    assert short.events.tolist() == [[8, 13]]


def test_marks_inside_a_recording():
    marks = [
        Mark(10, 0, "eeg sz start"),
        Mark(50, 0, "EEG SZ end"),
        Mark(70, 9, "Seizure 2"),
        Mark(80, 4, "artefact"),
    ]
    reading = read_marks(marks, 100, NONE, {})
    assert reading.spans == [(10, 50), (70, 79)]
    assert dict(reading.not_understood) == {"artefact": 1}
    assert read_marks(marks[:1], 21.7, NONE, {}).spans == [(10, 21.7)]


@pytest.fixture
def two_sources(tmp_path, write_edf):
    """A recording of 20 s with annotations, and a table beside it: (annotations, rows) → Seizures."""

    def build(annotations, rows):
        values = np.random.default_rng(0).normal(size=5120)
        path = write_edf(tmp_path / "a.edf", {"A1": (values, 256)}, annotations=annotations)
        if rows is not None:
            (tmp_path / "a_events.tsv").write_text("onset\tduration\ttrial_type\n" + rows)
        return seizures_of(open_recording(path))

    return build


def test_only_labels_that_say_nothing_are_unknown_and_not_none(two_sources):
    seizures = two_sources([(2.0, 1.0, "eyes open")], None)
    assert not seizures.known
    assert any("'eyes open' (1)" in warning and "--label-map" in warning for warning in seizures.warnings)


def test_labels_of_no_seizure_for_a_part_are_said(two_sources):
    seizures = two_sources([], "2\t3\tno seizure seen\n")
    assert not seizures.known
    assert any("1 label of no seizure, for a part of the recording" in warning for warning in seizures.warnings)


def test_both_sources_are_read(two_sources):
    seizures = two_sources([(8.0, 6.0, "seizure")], "2\t0\teyes closed\n5\t0\tclapping\n")
    assert seizures.events.tolist() == [[8, 14]]
    assert any("marks no seizure, the recording's own annotations mark 1" in warning for warning in seizures.warnings)


def test_disagreement_is_said_and_agreement_is_not(two_sources):
    seizures = two_sources([(8.0, 6.0, "seizure")], "3\t1\tseizure\n")
    assert seizures.events.tolist() == [[3, 4]]
    assert any("they disagree" in warning for warning in seizures.warnings)
    seizures = two_sources([(8.0, 6.0, "seizure")], "8\t5\tseizure\n")
    assert not seizures.warnings


def test_a_label_map_explains(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": (np.random.default_rng(0).normal(size=5120), 256)})
    (tmp_path / "a_events.tsv").write_text("onset\tduration\ttrial_type\n8\t6\tEvent-7\n15\t1\tseizure like\n")
    recording = open_recording(path)
    assert not seizures_of(recording).known
    table = tmp_path / "map.csv"
    table.write_text("label;meaning\nevent-7;seizure\nseizure like;other\n")
    seizures = seizures_of(recording, LabelOptions(label_map=table))
    assert seizures.events.tolist() == [[8, 14]]
    assert not seizures.warnings
    table.write_text("label;meaning\nevent-7;fit\n")
    with pytest.raises(UserError, match=r"map\.csv, line 2: 'fit' is not one of seizure"):
        seizures_of(recording, LabelOptions(label_map=table))


def test_seizures_outside_the_recording_are_cut_or_left_out(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": (np.random.default_rng(0).normal(size=2560), 256)})
    table = tmp_path / "a_events.tsv"
    table.write_text("onset\tduration\teventType\n-3\t5\tsz\n4\t2\tsz\n8\t99\tsz\n150\t5\tsz\n5\t-2\tsz\n")
    seizures = seizures_of(open_recording(path))
    assert seizures.events.tolist() == [[0, 2], [4, 6], [8, 10]]
    assert len(seizures.warnings) == 4
    assert seizures.known
    table.unlink()
    assert not seizures_of(open_recording(path)).known
    (tmp_path / "t.txt").write_text("nothing")
    with pytest.raises(UserError, match="not a seizure table"):
        seizures_of(open_recording(path), table=tmp_path / "t.txt")
    with pytest.raises(UserError, match="cannot read"):
        seizures_of(open_recording(path), table=Path("/no/such.tsv"))
    table.write_bytes(b"PK\x03\x04 not a table")
    unreadable = marked_seizures(open_recording(path))
    assert not unreadable.known
    assert "unknown" in unreadable.warnings[0]


def test_events_of_a_detector(tmp_path):
    path = tmp_path / "x_events.tsv"
    path.write_text("onset\tduration\teventType\n3\t0.2\tsz\n1\t1\tsz\n9\t1\tbckg\n")
    assert table_events(path).tolist() == [[1, 2], [3, 3.2]]
    path.write_text("onset\tduration\teventType\n3\tn/a\tsz\n")
    with pytest.raises(UserError, match="line 2: an event without onset and duration"):
        table_events(path)


def test_other_labels_beside_seizures_are_named_with_counts(two_sources):
    seizures = two_sources([], "3\t0\tbutton press\n5\t0\tbutton press\n8\t6\tSeizure\n9\t0\tSz?-like\n")
    assert seizures.events.tolist() == [[8, 14]]
    words = " | ".join(seizures.warnings)
    assert "labels that were not taken as seizures: 'button press' (2)" in words
    assert "labels that are not understood: 'Sz?-like' (1)" in words
    assert "--label-map" in words
