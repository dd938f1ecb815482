"""Readers: equal to MNE on real files, windows equal to the whole, and every bad file handled or refused in words."""

import warnings
from datetime import datetime

import h5py
import numpy as np
import pytest

from core_runtime.errors import UserError
from ieeg.recordings.edf import open_edf
from ieeg.recordings.formats import kind_of
from ieeg.recordings.opening import open_recording
from ieeg.recordings.recording import Channel, kind_by_name

RNG = np.random.default_rng(0)


def noise(seconds=4, rate=256, scale=50):
    return RNG.normal(scale=scale, size=int(seconds * rate)), rate


@pytest.mark.parametrize("name", ["sample_ecog.edf", "sample_seeg.edf", "header_only/PN00-1.edf"])
def test_real_edf_equals_mne(data, name):
    import mne

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw(data / name, preload=False, verbose="error")
        theirs = raw.get_data(start=100, stop=700) * 1e6
    ours = open_recording(data / name)
    group = list(range(len(ours.channels)))
    assert ours.duration == pytest.approx(raw.n_times / raw.info["sfreq"], abs=1e-6)
    same = [i for i in group if ours.channels[i].unit.lower() in ("uv", "µv")]
    assert len(same) > 10
    np.testing.assert_allclose(ours.read(same, 100, 700), theirs[same], rtol=1e-5, atol=1e-3)


def test_ecog_is_understood(data):
    recording = open_recording(data / "sample_ecog.edf")
    assert sum(c.neural for c in recording.channels) == 76
    assert {c.name for c in recording.channels if not c.neural} == {"EKGL", "EKGR"}
    assert [(round(e.onset, 2), e.label) for e in recording.events] == [(10.23, "eeg sz start")]
    assert recording.channels[0].rate == pytest.approx(999.41, abs=0.01)


def test_fif_is_understood(data):
    recording = open_recording(data / "sample_ecog_ieeg.fif")
    assert len(recording.channels) == 394
    assert recording.duration == pytest.approx(0.7, abs=0.1)
    assert sum(c.position is not None for c in recording.channels) > 100
    assert recording.read([0, 5], 0, 50).shape == (2, 50)


def test_windows_are_pieces_of_the_whole_and_zero_outside(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": noise(), "A2": noise(), "ECG": noise(4, 128)})
    recording = open_recording(path)
    assert recording.rates == {256.0: [0, 1], 128.0: [2]}
    whole = recording.read([1, 0], 0, 1024)
    np.testing.assert_array_equal(recording.read([1, 0], 300, 777), whole[:, 300:777])
    outside = recording.read([1, 0], -10, 1034)
    assert not outside[:, :10].any()
    assert not outside[:, -10:].any()
    np.testing.assert_array_equal(outside[:, 10:-10], whole)
    with pytest.raises(ValueError, match="one rate"):
        recording.read([0, 2], 0, 10)


def test_units_become_microvolts(tmp_path, write_edf):
    values, rate = noise()
    path = write_edf(
        tmp_path / "a.edf", {"A1": (values, rate), "A2": (values / 1e3, rate, "mV"), "A3": (values, rate, "?")}
    )
    recording = open_recording(path)
    read = recording.read([0, 1, 2], 0, 1024)
    np.testing.assert_allclose(read[0], values, atol=0.02)
    np.testing.assert_allclose(read[1], values, atol=0.02)
    assert any("the unit '?' of A3 is not a voltage: left out" in w for w in recording.warnings)
    assert recording.channels[2].kind == "misc"


def test_bdf_equals_mne(tmp_path):
    import edfio
    import mne

    path = tmp_path / "a.bdf"
    values, rate = noise()
    edfio.Bdf([edfio.BdfSignal(values, rate, label="A1", physical_dimension="uV", physical_range=(-400, 400))]).write(
        path
    )
    ours = open_recording(path).read([0], 3, 900)
    theirs = mne.io.read_raw_bdf(path, verbose="error").get_data(start=3, stop=900) * 1e6
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_a_truncated_file_reads_as_far_as_it_goes(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": noise(10)})
    raw = path.read_bytes()
    path.write_bytes(raw[:-700])
    recording = open_recording(path)
    assert recording.duration == 8
    assert any("claims 10 records" in w for w in recording.warnings)
    path.write_bytes(raw[:600])
    with pytest.raises(UserError, match="holds no samples"):
        open_recording(path)


def test_a_recording_in_one_long_record(tmp_path):
    """Some exports have a single record: then only the samples asked for are read."""
    import edfio

    values = RNG.normal(scale=50, size=(3, 60 * 1024))
    signals = [edfio.EdfSignal(v, 1024, label=f"A{i}", physical_range=(-400, 400)) for i, v in enumerate(values)]
    edfio.Edf(signals, data_record_duration=60).write(tmp_path / "a.edf")
    recording = open_recording(tmp_path / "a.edf")
    np.testing.assert_allclose(recording.read([2, 0], 30_001, 30_777), values[[2, 0], 30_001:30_777], atol=0.02)


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"A1": noise(10), "A2": noise(10)})
    recording = open_recording(path)
    path.write_bytes(path.read_bytes()[:-700])
    assert recording.read([0, 1], 0, 256).any()
    with pytest.raises(UserError, match="become shorter"):
        recording.read([0, 1], 0, 2560)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        recording.read([0], 0, 10)


@pytest.mark.parametrize(
    ("at", "text", "says"),
    [
        (252, b"9999", "damaged"),
        (236, b"-1      ", None),
        (244, b"0       ", "no samples"),
        (236, b"many    ", "damaged"),
    ],
)
def test_headers_that_lie(tmp_path, write_edf, at, text, says):
    path = write_edf(tmp_path / "a.edf", {"A1": noise()})
    raw = bytearray(path.read_bytes())
    raw[at : at + len(text)] = text
    path.write_bytes(raw)
    if says:
        with pytest.raises(UserError, match=says):
            open_recording(path)
    else:
        recording = open_recording(path)
        assert recording.duration == 4
        assert any("does not state the number of records" in w for w in recording.warnings)


def test_duplicate_and_foreign_names(tmp_path, write_edf):
    path = write_edf(tmp_path / "a.edf", {"B1": noise(), "B2": noise(), "B3": noise()})
    raw = path.read_bytes()
    raw = raw.replace(b"B2" + b" " * 14, b"B1" + b" " * 14).replace(b"B3" + b" " * 14, "Ü'3".encode() + b" " * 12)
    path.write_bytes(raw)
    recording = open_recording(path)
    assert recording.names == ["B1", "B1-2", "Ü'3"]
    assert any("more than once" in w for w in recording.warnings)
    path.write_bytes(raw.replace("Ü'3 ".encode(), b"\xdc'3  "))
    assert open_recording(path).names[2] == "Ü'3"


def test_gaps_of_a_discontinuous_file(tmp_path, write_edf):
    values, rate = noise(6)
    path = write_edf(tmp_path / "a.edf", {"A1": (values, rate)}, annotations=[(0.5, 1.0, "sz")])
    raw = path.read_bytes().replace(b"EDF+C", b"EDF+D")
    for second in (3, 4, 5):
        raw = raw.replace(f"+{second}\x14\x14".encode(), f"+{second + 4}\x14\x14".encode())
    path.write_bytes(raw)
    recording = open_recording(path)
    assert recording.gaps == [(3.0, 7.0)]
    assert recording.duration == 10
    read = recording.read([0], 0, 2560)[0]
    assert not read[3 * 256 : 7 * 256].any()
    np.testing.assert_allclose(read[7 * 256 :], values[3 * 256 :], atol=0.02)
    np.testing.assert_array_equal(recording.read([0], 700, 1900)[0], read[700:1900])


def test_the_start_keeps_its_fraction(tmp_path, write_edf):
    import datetime as dt

    path = write_edf(
        tmp_path / "a.edf", {"A1": noise()}, annotations=[(1.5, None, "x")], starttime=dt.time(23, 59, 58, 250000)
    )
    recording = open_recording(path)
    assert (recording.start or datetime.min).time() == dt.time(23, 59, 58, 250000)
    assert recording.events[0].onset == pytest.approx(1.5)


def test_swec(tmp_path):
    import hdf5plugin

    values = RNG.normal(scale=40, size=(5, 4000)).astype(np.float32)
    path = tmp_path / "ID20_part_1.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/ieeg", data=values, chunks=(5, 1000), **hdf5plugin.LZ4())
        file["data/seizures"] = np.array([(1.5, 3.0)], dtype=[("onsets", "f8"), ("offsets", "f8")])
        file.attrs["sampling_rate"] = 512
    recording = open_recording(path)
    assert kind_of(path) == "SWEC iEEG recording"
    assert [(e.onset, e.duration, e.label) for e in recording.events] == [(1.5, 1.5, "sz")]
    np.testing.assert_array_equal(recording.read([3, 0], 900, 1200), values[[3, 0], 900:1200])
    total = tmp_path / "ID01_total.h5"
    with h5py.File(total, "w") as file:
        layout = h5py.VirtualLayout((5, 4000), np.float32)
        layout[:] = h5py.VirtualSource(path.name, "data/ieeg", (5, 4000))
        file.create_virtual_dataset("data/ieeg", layout)
        file.attrs["sampling_rate"] = 512
    np.testing.assert_array_equal(open_recording(total).read([1], 0, 4000), values[[1]])
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["data/ieeg"] = values[:, :0]
        file.attrs["sampling_rate"] = 512
    with pytest.raises(UserError, match="holds no samples"):
        open_recording(tmp_path / "empty.h5")
    path.rename(tmp_path / "elsewhere.h5")
    with pytest.raises(UserError, match=r"ID20_part_1\.h5"):
        open_recording(total)


def test_mef(tmp_path):
    mef = pytest.importorskip("pymef.mef_session", reason="pip install 'attention-suite-ieeg[mef]'")
    path = tmp_path / "a.mefd"
    values = RNG.integers(-2000, 2000, (2, 5000)).astype(np.int32)
    session = mef.MefSession(str(path), "", False, True)
    begin = 1_600_000_000_000_000
    for name, row in zip(("A1", "A2"), values, strict=True):
        header = {
            "recording_duration": 10_000_000,
            "sampling_frequency": 500.0,
            "number_of_samples": len(row),
            "units_conversion_factor": 0.5,
            "units_description": b"uV",
        }
        session.write_mef_ts_segment_metadata(name, 0, "", "", begin, begin + 10_000_000, header, {})
        session.write_mef_ts_segment_data(name, 0, "", "", 500, row)
    session.close()
    recording = open_recording(path)
    assert recording.names == ["A1", "A2"]
    np.testing.assert_allclose(recording.read([1, 0], 100, 900), values[[1, 0], 100:900] * 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("A'12", "seeg"),
        ("EKGL", "ecg"),
        ("ECG1+", "ecg"),
        ("EOG left", "eog"),
        ("EMG chin", "emg"),
        ("DC01", "misc"),
        ("LOC", "eog"),
        ("Status", "stim"),
        ("HR", "misc"),
    ],
)
def test_kinds_by_name(name, kind):
    assert kind_by_name(name) == kind
    assert Channel(name, kind, 512).neural == (kind == "seeg")


def test_files_that_are_none(tmp_path):
    for name, content, says in (
        ("a.edf", b"", "empty"),
        ("a.edf", b"nonsense" * 90, "not an EDF"),
        ("a.xyz", b"x", "no known"),
        ("a.vhdr", b"nonsense", "cannot be read"),
        ("a.h5", b"nonsense", "not a SWEC"),
        ("a.fif", b"nonsense", "cannot be read"),
        ("a.set", b"nonsense", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_recording(tmp_path / name)
        assert kind_of(tmp_path / name) is None or name.endswith((".vhdr", ".fif", ".set"))
    with pytest.raises(UserError, match="no such file"):
        open_recording(tmp_path / "absent.edf")
    with pytest.raises(ValueError, match="outside"):
        open_edf_small(tmp_path).read([0], 0, 99999)


def open_edf_small(tmp_path):
    import edfio

    edfio.Edf([edfio.EdfSignal(np.arange(256.0), 256, label="A")]).write(tmp_path / "small.edf")
    return open_edf(tmp_path / "small.edf")


def test_brainvision(tmp_path):
    values = RNG.integers(-3000, 3000, (3, 2000)).astype("<i2")
    (tmp_path / "a.eeg").write_bytes(values.T.tobytes())
    (tmp_path / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile=a.eeg\nMarkerFile=a.vmrk\n"
        "DataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=3\nSamplingInterval=2000\n"
        "[Binary Infos]\nBinaryFormat=INT_16\n[Channel Infos]\nCh1=A1,,0.5,µV\nCh2=A2,,0.5,µV\nCh3=ECG,,0.5,µV\n",
        encoding="utf-8",
    )
    (tmp_path / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nDataFile=a.eeg\n"
        "[Marker Infos]\nMk1=New Segment,,1,1,0,20240201235500000000\nMk2=Comment,seizure,501,250,0\n"
    )
    recording = open_recording(tmp_path / "a.vhdr")
    assert [(c.name, c.neural, c.rate) for c in recording.channels] == [
        ("A1", True, 500),
        ("A2", True, 500),
        ("ECG", False, 500),
    ]
    np.testing.assert_allclose(recording.read([1, 0], 10, 700), values[[1, 0], 10:700] * 0.5, rtol=1e-5, atol=1e-3)
    assert ("Comment/seizure", 1.0, 0.5) in [(e.label, e.onset, e.duration) for e in recording.events]
    (tmp_path / "a.eeg").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_recording(tmp_path / "a.vhdr")


def test_persyst(tmp_path):
    values = RNG.integers(-3000, 3000, (3, 2000)).astype("<i2")
    (tmp_path / "a.dat").write_bytes(values.T.tobytes())
    lay = "[FileInfo]\nFile=a.dat\nFileType=Interleaved\nSamplingRate=256\nCalibration=0.25\nWaveformCount=3\nDataType=0\n"
    lay += "[ChannelMap]\nA1-Ref=1\nA2-Ref=2\nEKG-Ref=3\n[Patient]\nBirthDate=01/31/80\nSex=\nHand=\nTestDate=02/01/2024\nTestTime=23:59:50\n"
    (tmp_path / "a.lay").write_text(lay + "[Comments]\n2.5,1.5,0,100,seizure\n")
    recording = open_recording(tmp_path / "a.lay")
    assert [(c.name, c.neural, c.rate) for c in recording.channels] == [
        ("A1", True, 256),
        ("A2", True, 256),
        ("EKG", False, 256),
    ]
    np.testing.assert_allclose(recording.read([1, 0], 10, 700), values[[1, 0], 10:700] * 0.25, rtol=1e-5, atol=1e-3)
    assert [(e.onset, e.duration, e.label) for e in recording.events] == [(2.5, 1.5, "seizure")]
    assert recording.start == datetime(2024, 2, 1, 23, 59, 50)
    assert kind_of(tmp_path / "a.lay") is not None
    (tmp_path / "a.dat").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_recording(tmp_path / "a.lay")


def test_eeglab(tmp_path):
    """A .set file with its data in it, and with a .fdt file beside it."""
    from scipy.io import savemat

    values = RNG.normal(scale=40, size=(3, 1280)).astype(np.float32)
    places = np.array([(n, n, "") for n in ("A1", "A2", "EKG")], dtype=[(k, object) for k in ("labels", "ref", "type")])
    marks = np.array(
        [("seizure", 257.0, 256.0), ("boundary", 640.5, 90.0)],
        dtype=[("type", object), ("latency", object), ("duration", object)],
    )
    about = {
        "setname": "a",
        "nbchan": 3.0,
        "pnts": 1280.0,
        "trials": 1.0,
        "srate": 256.0,
        "xmin": 0.0,
        "xmax": 1279 / 256,
    }
    about |= {"chanlocs": places, "event": marks, "epoch": [], "icawinv": [], "icaweights": [], "icasphere": []}
    savemat(tmp_path / "in.set", {"EEG": {**about, "data": values}}, appendmat=False)
    savemat(tmp_path / "out.set", {"EEG": {**about, "data": "out.fdt"}}, appendmat=False)
    values.T.astype("<f4").tofile(tmp_path / "out.fdt")
    for name in ("in.set", "out.set"):
        recording = open_recording(tmp_path / name)
        assert [(c.name, c.neural, c.rate) for c in recording.channels] == [
            ("A1", True, 256),
            ("A2", True, 256),
            ("EKG", False, 256),
        ]
        np.testing.assert_allclose(recording.read([1, 0], 10, 700), values[[1, 0], 10:700], rtol=1e-4, atol=1e-3)
        assert ("seizure", 1.0, 1.0) in [(e.label, e.onset, e.duration) for e in recording.events]
        assert any("joined at 2.5 s" in w for w in recording.warnings)


def test_nihon_kohden(tmp_path):
    """Written from the layout that MNE reads: no file of a recorder was at hand."""
    import struct

    names = {0: "A1", 1: "NA'2", 2: "X1", 3: "ECG"}
    values = RNG.integers(-3000, 3000, (4, 2000))
    block, data, version = 0x400, 0x1900, b"EEG-1100A V01.00"
    raw = bytearray(data + 0x27 + 40)
    raw[0:16] = raw[0x81:0x91] = raw[block + 1 : block + 17] = version
    raw[0x91], raw[0x17FE], raw[block + 17], raw[data + 0x26] = 1, 1, 1, len(names)
    raw[0x92:0x96], raw[block + 18 : block + 22] = struct.pack("<I", block), struct.pack("<I", data)
    raw[data + 0x1A : data + 0x20] = struct.pack("<HI", 500 | 0xC000, 40)
    for i, number in enumerate(names):
        raw[data + 0x27 + 10 * i] = number
    samples = np.concatenate([values, np.zeros((1, 2000), int)]).T + 32768  # offset binary, a marker channel at the end
    (tmp_path / "a.EEG").write_bytes(bytes(raw) + samples.astype("<u2").tobytes())
    electrodes = "".join(f"{number:04}={name}\n" for number, name in names.items())
    (tmp_path / "a.21E").write_text("[ELECTRODE]\n" + electrodes)
    assert kind_of(tmp_path / "a.EEG") == "Nihon Kohden recording"
    recording = open_recording(tmp_path / "a.EEG")
    assert [(c.name, c.neural) for c in recording.channels] == [
        ("A1", True),
        ("NA'2", True),
        ("X1", True),
        ("ECG", False),
    ]
    assert (recording.duration, recording.channels[0].rate) == (4.0, 500)
    microvolts = values * (6399.902 / 65535)
    np.testing.assert_allclose(recording.read([2, 0], 10, 700), microvolts[[2, 0], 10:700], rtol=1e-4, atol=0.1)


def test_what_mne_marks_as_not_recorded(tmp_path):
    import mne

    info = mne.create_info(["A1", "A2"], 256, "dbs")
    raw = mne.io.RawArray(RNG.normal(scale=4e-5, size=(2, 2560)), info, verbose="error")
    raw.set_annotations(
        mne.Annotations([2.0, 5.0, 5.0], [1.5, 0, 0], ["BAD_ACQ_SKIP", "BAD boundary", "EDGE boundary"])
    )
    raw.save(tmp_path / "a_ieeg.fif", verbose="error")
    recording = open_recording(tmp_path / "a_ieeg.fif")
    assert all(c.neural for c in recording.channels)
    assert recording.gaps == [(2.0, 3.5)]
    assert any("joined at 5 s:" in w for w in recording.warnings)


def test_annotations_of_a_piece_cut_out_count_from_its_first_sample(tmp_path):
    import datetime

    import mne

    info = mne.create_info(["A1", "A2"], 128, "seeg")
    raw = mne.io.RawArray(RNG.normal(scale=4e-5, size=(2, 30 * 128)), info, verbose="error")
    raw.set_meas_date(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))
    raw.set_annotations(mne.Annotations([20.0], [4.0], ["seizure"], orig_time=raw.info["meas_date"]))
    path = tmp_path / "piece_raw.fif"
    raw.crop(10.0).save(path, verbose="error")
    assert [(event.onset, event.duration) for event in open_recording(path).events] == [(10.0, 4.0)]
