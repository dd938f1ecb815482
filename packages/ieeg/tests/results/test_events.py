"""Probabilities to events, and the files that other tools open."""

import datetime as dt
import json
from types import SimpleNamespace

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.results.detection import earliest
from ieeg.results.events import SeizureEvent, smoothed, to_events
from ieeg.results.files import COLUMNS, annotations, events_sidecar, events_table, write_edf, write_trace
from ieeg.results.options import EventOptions

P = np.array([0.1, 0.4, 0.9, 0.4, 0.1, 0.4, 0.1, 0.6, 0.1, 0.7], np.float32)


def test_threshold_hysteresis_length_and_merging():
    def spans(**options):
        return [(e.onset, e.offset) for e in to_events(P, 5, EventOptions(**options))]

    assert spans() == [(10, 15), (35, 40), (45, 50)]
    assert spans(low=0.3) == [(5, 20), (35, 40), (45, 50)]
    assert spans(low=0.3, min_duration=6) == [(5, 20)]
    assert spans(merge_gap=6) == [(10, 15), (35, 50)]
    assert spans(merge_gap=5) == [(10, 15), (35, 40), (45, 50)], "a gap as long as --merge-gap stays"
    assert spans(merge_gap=20.1) == [(10, 50)]
    assert spans(min_duration=5) == [(10, 15), (35, 40), (45, 50)], "an event as long as --min-duration stays"
    assert spans(min_duration=5.1) == []
    assert spans(merge_gap=6, min_duration=6) == [(35, 50)], "merged first, then measured"
    at_limits = np.array([0.25, 0.5, 0.25, 0.125], np.float32)
    limits = EventOptions(threshold=0.5, low=0.25)
    assert [(e.onset, e.offset) for e in to_events(at_limits, 5, limits)] == [(0, 15)], "a limit that is reached counts"
    assert spans(threshold=0.8) == [(10, 15)]
    assert spans(threshold=0.95) == []
    assert [round(e.confidence, 2) for e in to_events(P, 5)] == [0.9, 0.6, 0.7]
    merged = to_events(P, 5, EventOptions(merge_gap=21))
    assert [round(e.confidence, 2) for e in merged] == [0.9]


def test_smoothing_is_a_centred_mean():
    np.testing.assert_allclose(smoothed(np.array([0.0, 3.0, 0.0, 6.0]), 3), [1.5, 1, 3, 3])
    one = np.array([0.0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_allclose(smoothed(one, 2), [0, 0, 0, 0.5, 0.5, 0, 0])
    np.testing.assert_allclose(smoothed(one, 4), [0, 0, 0.25, 0.25, 0.25, 0.25, 0])
    assert np.isnan(smoothed(np.array([np.nan, np.nan, np.nan]), 3)).all()
    assert to_events(np.array([np.nan, 0.9]), 5)[0].onset == 5
    assert to_events(np.zeros(0), 5) == []


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"threshold": 0.4, "low": 0.5}, {"smoothing": 0}, {"merge_gap": -1}]
)
def test_options_that_cannot_be(options):
    with pytest.raises(UserError):
        EventOptions(**options)


def test_files_open_in_other_tools(tmp_path):
    import mne
    import pandas

    events = [SeizureEvent(10, 25, 0.93), SeizureEvent(40, 45, 0.6)]
    start = dt.datetime(2024, 2, 1, 23, 55, 0)
    write_edf(tmp_path / "d.edf", events, P, 5, start)
    raw = mne.io.read_raw_edf(tmp_path / "d.edf", preload=True, verbose="error")
    assert raw.n_times == 10
    assert raw.info["meas_date"].replace(tzinfo=None) == start
    np.testing.assert_allclose(raw.get_data()[0], P, atol=2e-5)
    assert list(zip(raw.annotations.onset, raw.annotations.duration, raw.annotations.description, strict=True)) == [
        (10, 15, "sz"),
        (40, 5, "sz"),
    ]
    annotations(events).save(tmp_path / "d-annot.fif", verbose="error")
    back = mne.read_annotations(tmp_path / "d-annot.fif")
    assert back.onset.tolist() == [10, 40]
    for suffix, read in ((".tsv", lambda p: pandas.read_csv(p, sep="\t")), (".parquet", pandas.read_parquet)):
        write_trace(tmp_path / f"p{suffix}", P, 5)
        table = read(tmp_path / f"p{suffix}")
        assert list(table) == ["onset", "duration", "probability"]
        np.testing.assert_allclose(table["probability"], P, atol=1e-6)


def test_events_tsv_has_szcores_columns():
    from timescoring.annotations import Annotation

    table = events_table([SeizureEvent(10, 25, 0.93)], 50, dt.datetime(2024, 1, 2, 3, 4, 5), [["A1", "A2"]])
    header, row = (line.split("\t") for line in table.splitlines())
    assert tuple(header) == COLUMNS
    assert row == ["10.000", "15.000", "sz", "0.9300", "A1,A2", "2024-01-02 03:04:05", "50.000"]
    assert "bckg" in events_table([], 50)
    assert json.loads(events_sidecar()).keys() == set(COLUMNS)
    assert Annotation([(10, 25)], 10, 500).events == [(10, 25)]


def test_channels_that_begin_together_are_in_the_order_of_their_evidence():
    evidence = np.zeros((12, 3), np.float32)
    evidence[6:10] = [0.6, 0.9, 0.7]
    evidence[5, 2] = 0.7  # one begins a segment before the others
    event = SimpleNamespace(onset=30.0, offset=50.0, duration=20.0)
    order = earliest(evidence, ["a", "b", "c"], event, 5.0, 0.5)
    assert order == [("c", 25.0), ("b", 30.0), ("a", 30.0)]
