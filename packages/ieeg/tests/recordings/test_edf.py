"""EDF headers and time stamps as recorders leave them: read where they can be, said, or refused; never from the wrong place."""

import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.recordings.edf import open_edf
from ieeg.recordings.montage import derivations, is_scalp, shafts
from ieeg.recordings.opening import open_recording
from ieeg.recordings.recording import microvolts
from ieeg.recordings.seizures import seizures_of

COUNT = 3  # signals: A1, A2 and the annotations


@pytest.fixture
def edf(tmp_path, write_edf):
    """Ten seconds of two channels with a marked seizure; `change(bytes)` before it is written."""

    def build(change=lambda raw: raw):
        values = np.random.default_rng(0).normal(scale=50, size=2560)
        signals = {"A1": (values, 256), "A2": (-values, 256)}
        path = write_edf(tmp_path / "a.edf", signals, annotations=[(2.0, 3.0, "sz")])
        path.write_bytes(change(path.read_bytes()))
        return path

    return build


def put(raw: bytes, at: int, text: str) -> bytes:
    return raw[:at] + text.encode().ljust(8)[:8] + raw[at + 8 :]


def field_at(field: int, signal: int) -> int:
    """Where a field of eight bytes of a signal's header stands: 0 physical minimum … 3 digital maximum."""
    return 256 + COUNT * (16 + 80 + 8 + 8 * field) + 8 * signal


def stamps(times):
    """Changes the time stamps of an EDF+C file to these, and makes it an EDF+D."""

    def change(raw: bytes) -> bytes:
        raw = raw.replace(b"EDF+C", b"EDF+D")
        for i, time in enumerate(times):
            old = f"+{i}\x14\x14".encode()
            new = b"\0" * len(old) if time is None else f"+{time}\x14\x14".encode()
            raw = raw.replace(old + b"\0" * max(0, len(new) - len(old)), new.ljust(len(old), b"\0"), 1)
        return raw

    return change


def test_annotations_in_other_letters(edf):
    recording = open_recording(edf(lambda raw: raw.replace(b"EDF Annotations ", b"EDF annotations ")))
    assert recording.names == ["A1", "A2"]
    assert seizures_of(recording).events.tolist() == [[2, 5]]
    assert any("read as the annotations" in warning for warning in recording.warnings)


def test_a_signal_without_a_digital_range_is_left_out(edf):
    whole = open_recording(edf()).read([1], 0, 2560)
    lost = open_recording(edf(lambda raw: put(put(raw, field_at(2, 0), "0"), field_at(3, 0), "0")))
    assert lost.names == ["A2"]
    assert any("'A1' (its digital range is 0)" in warning for warning in lost.warnings)
    np.testing.assert_array_equal(lost.read([0], 0, 2560), whole)


def test_digital_steps_become_physical_ones(edf):
    """A range of few steps, where one step more or less would show: digital −2 … 2 is −4 … 4 µV."""

    def few_steps(raw):
        for field, value in enumerate(("-4", "4", "-2", "2")):
            raw = put(raw, field_at(field, 0), value)
        return raw

    path = edf(few_steps)
    raw = np.frombuffer(path.read_bytes()[256 * (COUNT + 1) :][:512], "<i2")
    np.testing.assert_array_equal(open_edf(path).read([0], 0, 256)[0], 2.0 * raw)


@pytest.mark.parametrize(("digits", "year"), [("84", 2084), ("85", 1985), ("99", 1999), ("00", 2000), ("26", 2026)])
def test_years_of_two_digits(edf, digits, year):
    path = edf(lambda raw: raw[:168] + f"03.02.{digits}".encode() + raw[176:])
    start = open_edf(path).start
    assert (start.year, start.month, start.day) == (year, 2, 3)


def test_a_decimal_comma(edf):
    def comma(raw):
        at = field_at(0, 0)
        return put(raw, at, "-200,5")

    assert open_edf(edf(comma)).signals[0].physical_min == -200.5


@pytest.mark.reliability("numbers of an EDF header that are none", "refused in one line")
@pytest.mark.parametrize("text", ["nan", "inf", "x", ""])
def test_numbers_that_are_none(edf, text):
    for at in (244, field_at(0, 0), field_at(3, 1)):
        with pytest.raises(UserError, match="header is damaged"):
            open_edf(edf(lambda raw, at=at: put(raw, at, text)))


def test_where_the_data_begin(edf):
    header = (COUNT + 1) * 256
    whole = open_recording(edf()).read([0], 0, 2560)
    padded = open_recording(edf(lambda raw: put(raw[:header] + bytes(256) + raw[header:], 184, str(header + 256))))
    np.testing.assert_array_equal(padded.read([0], 0, 2560), whole)
    assert any("as the header says" in warning for warning in padded.warnings)
    wrong = open_recording(edf(lambda raw: put(raw, 184, str(header + 256))))
    np.testing.assert_array_equal(wrong.read([0], 0, 2560), whole)
    assert any("fits the file's size" in warning for warning in wrong.warnings)
    with pytest.raises(UserError, match="fits neither"):
        open_edf(edf(lambda raw: put(raw[:-100], 184, str(header + 256))))


def test_a_blank_version(edf):
    recording = open_recording(edf(lambda raw: put(raw, 0, "")))
    assert recording.duration == 10
    assert any("blank" in warning for warning in recording.warnings)


@pytest.mark.reliability("headers and time stamps of recordings", "read where they can be, what is odd said")
@pytest.mark.parametrize(
    ("times", "duration", "gaps", "words"),
    [
        ([0, 1, 2, 3, 4, 15, 16, 17, 18, 19], 20, [(5, 15)], ""),
        ([0, 1, 2, 3, 4, 15, 16, None, 18, 19], 20, [(5, 15)], "1 of 10 records have no time stamp"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 10**9], 10, [], "more than 3 days after"),
        ([0, 1, 2, 3, 4, 5, 6, 2, 3, 4], 10, [], "3 of 10 records have time stamps before"),
    ],
)
def test_time_stamps(edf, times, duration, gaps, words):
    recording = open_recording(edf(stamps(times)))
    assert recording.duration == duration
    assert recording.gaps == gaps
    assert words in " ".join(recording.warnings)


def test_units_that_are_not_volts_stay_out(tmp_path, write_edf):
    values = np.random.default_rng(0).normal(size=2560)
    signals = {"A1": (values, 256), "A2": (values, 256, "degC"), "A3": (values, 256, "%")}
    recording = open_recording(write_edf(tmp_path / "a.edf", signals))
    assert [channel.name for channel in recording.channels if channel.neural] == ["A1"]
    assert sum("is not a voltage" in warning for warning in recording.warnings) == 2
    assert [microvolts(unit) for unit in ("", "uV", "µV", "mV", "V", "nV", "Volts", "?V")] == [
        1,
        1,
        1,
        1e3,
        1e6,
        1e-3,
        1e6,
        1,
    ]
    assert [microvolts(unit) for unit in ("degC", "%", "mmHg", "bpm", "kOhm", "div")] == [None] * 6


def test_a_unit_that_is_not_stated_is_said(tmp_path, write_edf):
    values = np.random.default_rng(0).normal(size=2560)
    recording = open_recording(write_edf(tmp_path / "a.edf", {"A1": (values, 256, ""), "A2": (values, 256)}))
    assert "no unit is stated for A1: taken as µV" in recording.warnings


def test_scalp_electrodes_are_told_from_shafts():
    scalp = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "Fz", "Cz", "Pz", "T3", "T4"]
    assert is_scalp(scalp)
    assert not shafts(scalp)
    assert not derivations(scalp, "bipolar")
    depth = [f"{letter}{number}" for letter in "FCOP" for number in range(1, 13)]
    assert not is_scalp(depth)
    assert not is_scalp(["F1", "F2", "F3"])
    assert set(shafts(depth)) == set("FCOP")


def test_groups_finer_than_names_tell_shafts_apart():
    names = [f"E{i}" for i in range(1, 7)]
    assert [d.name for d in derivations(names, "bipolar", ["L"] * 3 + ["R"] * 3)] == [
        "E1-E2",
        "E2-E3",
        "E4-E5",
        "E5-E6",
    ]
