"""Seeded mutations of every text, header and config format: an answer or one plain line, in bounded time and memory, and nothing half-written.

The quick run takes forty of each format; ``-m slow`` takes a thousand.
"""

import copy
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError

TOKENS = [
    b"", b"0", b"-1", b"1", b"nan", b"inf", b"-inf", b"1e308", b"1e-308", b"99999999999999999999", b"n/a", b"null", b"true", b"[]", b"{}",
    b'"', b"'", b"\t", b",", b";", b"\n", b"\r\n", b"\0", b"\xff\xfe", b"\xb5", "µ".encode(), b" ", b"+5\x14\x14\0", b"sz", b"-", b"%s", b"../x",
]  # fmt: skip
SECONDS, MEBIBYTES = 20, 800  # of one mutation; of all of a format


def mutated(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bytes, pieces left out, repeated or exchanged, numbers and words replaced, the end cut off."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(raw) + 1)) if raw else 0
        end = min(len(raw), at + int(rng.integers(1, 12)))
        kind = rng.integers(0, 7)
        token = TOKENS[rng.integers(len(TOKENS))]
        if kind == 0:
            raw = raw[:at] + bytes([rng.integers(256)]) + raw[at + 1 :]
        elif kind == 1:
            raw = raw[:at] + raw[end:]
        elif kind == 2:
            raw = raw[:end] + raw[at:end] * int(rng.integers(1, 5)) + raw[end:]
        elif kind == 3:
            raw = raw[:at] + token + raw[at:]
        elif kind == 4:  # the same length: fields of headers stay where they are
            raw = raw[:at] + token.ljust(8)[:8] + raw[at + 8 :]
        elif kind == 5:
            words = raw.split(b"\t" if b"\t" in raw else b" ")
            words[rng.integers(len(words))] = token
            raw = (b"\t" if b"\t" in raw else b" ").join(words)
        else:
            raw = raw[:at] if rng.integers(4) == 0 else raw[:at] + raw[at:][::-1][:4] + raw[at + 4 :]
    return raw


@contextmanager
def within(seconds: int):
    def stop(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def survives(path: Path, use: Callable[[], object], count: int, header: int | None = None) -> int:
    """Mutates a file `count` times and uses it each time; how many were used after all.

    Args:
        header: only so many bytes are mutated.
    """
    whole = path.read_bytes()
    use()  # as it is; and imports are no part of the time and memory of a mutation
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = 0
    for seed in range(count):
        rng = np.random.default_rng([seed, len(path.name)])
        head, rest = (whole, b"") if header is None else (whole[:header], whole[header:])
        path.write_bytes(mutated(head, rng) + rest)
        try:
            with within(SECONDS):
                use()
            used += 1
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {path.name}: {type(error).__name__}: {error}") from error
    path.write_bytes(whole)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert grown < MEBIBYTES, f"{path.name}: {grown:.0f} MiB"
    return used


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """One patient of the samples, a minute at 256 Hz."""
    from ieeg.samples import SampleOptions, make_samples

    options = SampleOptions(patients=1, seconds=60, channels=(4, 4), rates=(64,))
    return make_samples(tmp_path_factory.mktemp("data"), options)[0]


def _tried(number: int):
    return pytest.mark.reliability(
        "mutations of headers, tables and configs", "an answer or one line, bounded time and memory", cases=number
    )


@pytest.fixture(
    params=[pytest.param(40, marks=_tried(40)), pytest.param(1000, marks=[_tried(1000), pytest.mark.slow])],
    ids=["quick", "slow"],
)
def count(request):
    return request.param


def looked_at(path: Path):
    from ieeg.commands.inspect import examine

    return lambda: (lambda findings: (list(findings.lines()), findings.facts()))(examine(path))


def prepared(path: Path):
    """Reads a little of it, as detecting does."""
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.prepared import Prepared

    return lambda: Prepared(open_recording(path)).segments(0, 1)


def test_edf_headers(data_set, tmp_path, count):
    path = shutil.copy(data_set, tmp_path / "a.edf")
    size = int(Path(path).read_bytes()[184:192])
    assert survives(Path(path), looked_at(Path(path)), count, header=size) > 0
    assert survives(Path(path), prepared(Path(path)), max(10, count // 4), header=size) > 0


def test_edf_time_stamps(data_set, tmp_path, count):
    path = tmp_path / "a.edf"
    path.write_bytes(data_set.read_bytes().replace(b"EDF+C", b"EDF+D"))
    whole = path.read_bytes()
    used = 0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        raw = whole
        for _ in range(3):
            stamp = f"+{rng.integers(60)}\x14\x14".encode()
            new = [f"+{10 ** rng.integers(1, 18)}", f"-{rng.integers(99)}", "", "+1.5", "+nan"][
                rng.integers(5)
            ].encode() + b"\x14\x14"
            raw = raw.replace(stamp + b"\0" * (len(new) - len(stamp)), new.ljust(len(stamp), b"\0"), 1)
        path.write_bytes(raw)
        try:
            with within(SECONDS):
                findings = looked_at(path)()
                used += 1
                assert findings
        except UserError:
            pass
    assert used > count / 2


SIDECARS = ["_events.tsv", "_channels.tsv", "_electrodes.tsv", "_coordsystem.json", "_ieeg.json"]


@pytest.mark.parametrize("suffix", SIDECARS)
def test_sidecars(data_set, tmp_path, count, suffix):
    folder = Path(shutil.copytree(data_set.parents[2], tmp_path / "bids")) / "sub-01" / "ieeg"
    recording = folder / data_set.name
    sidecar = next(path for path in folder.iterdir() if path.name.endswith(suffix))
    assert survives(sidecar, looked_at(recording), count) > count / 2


TABLES = {
    "a.csv_bi": "# version = csv_v1.0.0\nchannel,start_time,stop_time,label,confidence\nTERM,1.0,5.5,seiz,1.0\nTERM,5.5,60,bckg,1.0\n",
    "a-summary.txt": "File Name: a.edf\nFile Start Time: 11:42:54\nNumber of Seizures in File: 1\nSeizure Start Time: 5 seconds\n"
    "Seizure End Time: 9 seconds\n",
    "Seizures-list-a.txt": "Seizure n 1\nFile name: a.edf\nRegistration start time: 23.50.00\nSeizure start time: 23.50.30\nSeizure end time: 23.50.41\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_seizure_tables(data_set, tmp_path, count, name):
    recording = Path(shutil.copy(data_set, tmp_path / "a.edf"))
    (tmp_path / name).write_text(TABLES[name])
    assert survives(tmp_path / name, looked_at(recording), count) > count / 2


def test_label_maps(tmp_path, count):
    from ieeg.recordings.labels import read_label_map

    path = tmp_path / "map.csv"
    path.write_text("label,meaning\nEvent-7,seizure\n'quoted, text',other\n\"Event 8\",begin\n")
    assert survives(path, lambda: read_label_map(path), count) > 0


def test_brainvision_headers(tmp_path, count):
    import warnings

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
        assert survives(header, looked_at(header), count) > 0
        assert survives(tmp_path / "a.vmrk", looked_at(header), count) > 0


def test_model_configs(data_set, tmp_path, count):
    import torch

    from ieeg.model.folder import load_model, save_model
    from ieeg.model.mvpformer import SIZES, MVPFormer, MVPFormerConfig

    torch.manual_seed(0)
    network = MVPFormer(MVPFormerConfig(**SIZES["tiny"], classes=2)).eval()
    folder = save_model(network, tmp_path / "model", rate=128.0, window=4, preparing={"reference": "average"})
    survives(folder / "config.json", lambda: load_model(folder).settings, count)


def changed_configs(described: dict, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, dict]]:
    """A config.json with one field changed at a time: left out, misspelt, of another value or type; and which that is, in words."""
    inner = described
    for name in outer:
        inner = inner[name]
    for name, value in inner.items():
        others = [None, "x", -1, 0, 1.5, 1e9, True, [], {}, [1, 2]]
        if isinstance(value, list):
            others += [value[::-1], value[:-1]]
        elif isinstance(value, (int, float)):
            others += [-value, 2 * value, str(value)]
        for i, other in enumerate(["left out", "misspelt", *others]):
            changed = copy.deepcopy(described)
            place = changed
            for key in outer:
                place = place[key]
            if i == 0:
                del place[name]
            elif i == 1:
                place[f"{name}s"] = place.pop(name)
            else:
                place[name] = other
            if changed != described:
                yield f"{'.'.join((*outer, name))} {other!r}", changed
        if isinstance(value, dict):
            yield from changed_configs(described, (*outer, name))


def _changes(step: int):
    marks = [
        pytest.mark.reliability(
            "a model's config.json: each field left out, misspelt, of another value",
            "one line, or a word",
            cases=480 // step,
        )
    ]
    if step == 1:
        marks.append(pytest.mark.slow)
    return pytest.param(step, marks=marks)


@pytest.mark.parametrize("step", [_changes(10), _changes(1)], ids=["quick", "slow"])
def test_no_change_of_a_model_goes_unsaid(tmp_path, capsys, step):
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
    capsys.readouterr()
    assert load_model(folder).threshold == 0.5
    assert not capsys.readouterr().err
    config = folder / "config.json"
    tried = 0
    for words, changed in list(changed_configs(json.loads(config.read_text())))[::step]:
        config.write_text(json.dumps(changed))
        lines = []
        try:
            load_model(folder)
        except UserError as error:
            lines = str(error).splitlines()
        else:
            assert "config.json" in capsys.readouterr().err, words
        assert len(lines) <= 2, words
        tried += 1
    assert tried >= 480 // step


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

    assert survives(config, use, count) == count
