"""Seeded mutations of files: a reading or one plain line, in bounded time."""

import gzip
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from core_runtime.errors import UserError
from gaze.scanpaths.opening import read_scanpaths
from gaze.scanpaths.writing import write_scanpaths

from .conftest import make_scanpath, write_amazon, write_tobii

TOKENS = [
    b"", b"0", b"-1", b"nan", b"inf", b"1e308", b"99999999999999999999", b".", b"n/a", b"null", b"true", b"[]", b"{}", b'"', b"'", b"\t", b",",
    b";", b"\n", b"\r\n", b"\r", b"\0", b"\xff\xfe", b"\xb5", "µ".encode(), b" ", b"EFIX L ", b"START", b"END", b"MSG\t", b"SFIX L   5\n", b"-", b"%s",
]  # fmt: skip
FORMATS = ("asc", "coco.json", "amazon.json", "tobii.tsv", "csv", "jsonl", "sidecar", "events")


def mutated(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes of bytes, pieces, words or the end."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(raw) + 1))
        end = min(len(raw), at + int(rng.integers(1, 40)))
        token = TOKENS[rng.integers(len(TOKENS))]
        kind = rng.integers(6)
        if kind == 0:
            raw = raw[:at] + bytes([rng.integers(256)]) + raw[at + 1 :]
        elif kind == 1:
            raw = raw[:at] + raw[end:]
        elif kind == 2:
            raw = raw[:end] + raw[at:end] * int(rng.integers(1, 5)) + raw[end:]
        elif kind == 3:
            raw = raw[:at] + token + raw[at:]
        elif kind == 4:
            words = raw.split(b"\t" if rng.integers(2) else b" ")
            words[rng.integers(len(words))] = token
            raw = b"\t".join(words)
        elif rng.integers(3) == 0:
            raw = raw[:at]
    return raw


@contextmanager
def within(seconds: int):
    """Stops what takes longer, in seconds of this process: other work on the machine does not count."""

    def stop(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def prepare(folder, kind: str):
    """(the file that is mutated, what is read)."""
    scanpaths = [
        make_scanpath("a.png", "01", count=4, eye="left"),
        make_scanpath("b.png", "01", 1, count=3, eye="left"),
    ]
    if kind == "tobii.tsv":
        path = write_tobii(scanpaths, folder / kind)
    elif kind == "amazon.json":
        path = write_amazon(scanpaths, folder / kind)
    elif kind in ("sidecar", "events"):
        write_scanpaths(scanpaths, folder / "bids")
        if kind == "sidecar":
            return folder / "bids" / "task-search_physio.json", folder / "bids"
        return next((folder / "bids").rglob("*_physioevents.tsv.gz")), folder / "bids"
    else:
        path = folder / ("a." + kind.split(".")[-1])
        write_scanpaths(scanpaths, path)
    return path, path


def _tried(number: int):
    return pytest.mark.reliability("mutations of gaze recordings", "a reading or one line, bounded time", cases=number)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "count",
    [pytest.param(40, marks=_tried(40)), pytest.param(1000, marks=[_tried(1000), pytest.mark.slow])],
    ids=["quick", "slow"],
)
def test_mutations(tmp_path, kind, count):
    changed, path = prepare(tmp_path, kind)
    whole = changed.read_bytes()
    zipped = changed.name.endswith(".gz")
    text = gzip.decompress(whole) if zipped else whole
    read_scanpaths(path)
    used = 0
    for seed in range(count):
        content = mutated(text, np.random.default_rng([seed, len(kind)]))
        changed.write_bytes(gzip.compress(content) if zipped else content)
        said = ""
        try:
            with within(20):
                reading = read_scanpaths(path)
        except UserError as error:
            said = error.message
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {kind}: {type(error).__name__}: {error}") from error
        else:
            assert all(np.isfinite(scanpath.points).all() for scanpath in reading.scanpaths)
            used += 1
        assert "\n" not in said
    assert used
