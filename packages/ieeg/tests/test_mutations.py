"""Seeded mutations of every text, header and config format: an answer or one plain line, in bounded time and memory, and nothing half-written.

The quick run takes forty of each format; ``-m slow`` takes a thousand.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from mutating import changed, mutate_header, mutated, try_changes, try_mutations

mutations = mutated(
    "mutations of headers, tables and configs", "an answer or one line, bounded time and memory", quick=40
)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """One patient of the samples, a minute at 256 Hz."""
    from ieeg.samples import SampleOptions, make_samples

    options = SampleOptions(patients=1, seconds=60, channels=(4, 4), rates=(64,))
    return make_samples(tmp_path_factory.mktemp("data"), options)[0]


def looked_at(path: Path):
    from ieeg.commands.inspect import examine

    return lambda: (lambda findings: (list(findings.lines()), findings.facts()))(examine(path))


def prepared(path: Path):
    """Reads a little of it, as detecting does."""
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.prepared import Prepared

    return lambda: Prepared(open_recording(path)).segments(0, 1)


@mutations
def test_edf_headers(data_set, tmp_path, count):
    path = Path(shutil.copy(data_set, tmp_path / "a.edf"))
    header = mutate_header(int(path.read_bytes()[184:192]))
    assert try_mutations(path, looked_at(path), count, mutate=header) > 0
    assert try_mutations(path, prepared(path), max(10, count // 4), mutate=header) > 0


def other_stamps(raw: bytes, rng: np.random.Generator) -> bytes:
    """Three time stamps of an EDF+D file that are far away, before the beginning, missing, shifted or not numbers."""
    for _ in range(3):
        stamp = f"+{rng.integers(60)}\x14\x14".encode()
        stamps = [f"+{10 ** rng.integers(1, 18)}", f"-{rng.integers(99)}", "", "+1.5", "+nan"]
        other = stamps[rng.integers(len(stamps))].encode() + b"\x14\x14"
        # the annotations of a record have a fixed length, filled up with zeros
        raw = raw.replace(stamp + b"\0" * (len(other) - len(stamp)), other.ljust(len(stamp), b"\0"), 1)
    return raw


@mutations
def test_edf_time_stamps(data_set, tmp_path, count):
    path = tmp_path / "a.edf"
    path.write_bytes(data_set.read_bytes().replace(b"EDF+C", b"EDF+D"))
    assert try_mutations(path, looked_at(path), count, mutate=other_stamps) > count / 2


SIDECARS = ["_events.tsv", "_channels.tsv", "_electrodes.tsv", "_coordsystem.json", "_ieeg.json"]


@mutations
@pytest.mark.parametrize("suffix", SIDECARS)
def test_sidecars(data_set, tmp_path, count, suffix):
    folder = Path(shutil.copytree(data_set.parents[2], tmp_path / "bids")) / "sub-01" / "ieeg"
    recording = folder / data_set.name
    sidecar = next(path for path in folder.iterdir() if path.name.endswith(suffix))
    assert try_mutations(sidecar, looked_at(recording), count) > count / 2


TABLES = {
    "a.csv_bi": "# version = csv_v1.0.0\nchannel,start_time,stop_time,label,confidence\nTERM,1.0,5.5,seiz,1.0\nTERM,5.5,60,bckg,1.0\n",
    "a-summary.txt": "File Name: a.edf\nFile Start Time: 11:42:54\nNumber of Seizures in File: 1\nSeizure Start Time: 5 seconds\n"
    "Seizure End Time: 9 seconds\n",
    "Seizures-list-a.txt": "Seizure n 1\nFile name: a.edf\nRegistration start time: 23.50.00\nSeizure start time: 23.50.30\nSeizure end time: 23.50.41\n",
}


@mutations
@pytest.mark.parametrize("name", TABLES)
def test_seizure_tables(data_set, tmp_path, count, name):
    recording = Path(shutil.copy(data_set, tmp_path / "a.edf"))
    (tmp_path / name).write_text(TABLES[name])
    assert try_mutations(tmp_path / name, looked_at(recording), count) > count / 2


@mutations
def test_label_maps(tmp_path, count):
    from ieeg.recordings.labels import read_label_map

    path = tmp_path / "map.csv"
    path.write_text("label,meaning\nEvent-7,seizure\n'quoted, text',other\n\"Event 8\",begin\n")
    assert try_mutations(path, lambda: read_label_map(path), count) > 0


@mutations
def test_brainvision_headers(tmp_path, count):
    rng = np.random.default_rng(0)
    (tmp_path / "a.eeg").write_bytes(rng.integers(-300, 300, (60 * 64, 4)).astype("<i2").tobytes())
    header = tmp_path / "a.vhdr"
    channels = "".join(f"Ch{i}=A{i},,0.1,µV\n" for i in range(1, 5))
    header.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\nMarkerFile=a.vmrk\n"
        "DataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=4\nSamplingInterval=15625\n\n"
        f"[Binary Infos]\nBinaryFormat=INT_16\n\n[Channel Infos]\n{channels}"
    )
    (tmp_path / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=a.eeg\n\n"
        "[Marker Infos]\nMk1=New Segment,,1,1,0,20240101000000000000\nMk2=Comment,seizure,640,64,0\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert try_mutations(header, looked_at(header), count) > 0
        assert try_mutations(tmp_path / "a.vmrk", looked_at(header), count) > 0


@mutations
def test_model_configs(data_set, tmp_path, count):
    import torch

    from ieeg.model.folder import load_model, save_model
    from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig

    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
    folder = save_model(network, tmp_path / "model", rate=128.0, window=4, preparing={"reference": "average"})
    try_mutations(folder / "config.json", lambda: load_model(folder).settings, count)


@changed(480)
def test_no_change_of_a_model_goes_unsaid(tmp_path, capsys, changes):
    import torch

    from ieeg.model.folder import load_model, save_model
    from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig

    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
    signature = {
        "name": "a",
        "patient": "p",
        "channels": 1,
        "rate": 64.0,
        "samples": 9,
        "values": [1.0],
        "landmarks": [5],
    }
    folder = save_model(network, tmp_path / "model", rate=64.0, window=4, provenance={"recordings": [signature]})
    try_changes(folder / "config.json", lambda: load_model(folder), capsys, changes)


@mutations
def test_config_files(tmp_path, ieeg, count):
    """A run's config.yaml with --config: refused in a line, and no run folder is left."""
    config = tmp_path / "config.yaml"
    values = {
        "model": "tiny",
        "epochs": 1,
        "lr": 0.001,
        "class_weights": [1, 5],
        "balanced": True,
        "reference": "median",
    }
    config.write_text("arguments:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in values.items()))

    def use():
        called = ieeg("train", tmp_path / "absent", "--config", config, "--out", tmp_path / "run")
        assert called.code == 2
        assert "unexpected" not in called.err, called.err
        assert not (tmp_path / "run").exists()

    assert try_mutations(config, use, count) == count
