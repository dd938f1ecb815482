"""Seeded mutations of the files that users bring, and changes of a model's config.json: the frame that the tests of all packages share.

A mutation ends in an answer or one plain line, in bounded time and memory, and leaves nothing half-written. A change of a model's config.json is
refused in a line, or said on standard error.

    mutations = mutated("mutations of headers and tables", "an answer or one line, bounded time and memory", quick=40)

    @mutations
    def test_tables(tmp_path, count):
        ...
        assert try_mutations(path, lambda: read(path), count) > 0
"""

import copy
import gzip
import json
import resource
import signal
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core_runtime.errors import UserError

THOROUGH = 1000  # mutations of each format under ``-m slow``
SECONDS, MEBIBYTES = 20, 800  # of one mutation; of all of a format
MESSAGE = 700  # the most characters of a plain line
HEADER = 600  # bytes in which most formats keep what says how the rest is read

# What stands in the wrong place in the files of users: numbers out of every range, marks of formats, halves of encodings.
WORDS = (
    b"", b"0", b"-1", b"1", b"nan", b"inf", b"-inf", b"1e308", b"1e-308", b"99999999999999999999", b"NA", b"n/a", b"null", b"true", b"[]", b"{}",
    b'"', b"'", b"\t", b",", b";", b".", b"-", b" ", b"\n", b"\r\n", b"\r", b"\0", b"\xff\xfe", b"\xb5", "µ".encode(), b"<", b"</", b"&", b"%s",
    b"../x", b"Polygon", b"sz", b"+5\x14\x14\0", b"EFIX L ", b"SFIX L   5\n", b"START", b"END", b"MSG\t",
)  # fmt: skip
# The same for values of JSON.
VALUES = (
    None, True, 0, -1, 1e308, float("nan"), "", "x", [], {}, [[]], [1, 2, 3, 4], ["a"] * 4, {"a": 1}, 10**30, "\0", "../../x.png",
)  # fmt: skip

Mutate = Callable[[bytes, np.random.Generator], bytes]


def mutated(kind: str, outcome: str, *, quick: int, thorough: int = THOROUGH) -> pytest.MarkDecorator:
    """Runs a test with few mutations as `count`, and with a thousand under ``-m slow``; docs/reliability.md counts both.

    Args:
        kind: what is tried, in words.
        outcome: what happens, in words.
        quick: mutations of the quick run.
        thorough: of the slow one.
    """

    def tried(number: int) -> pytest.MarkDecorator:
        return pytest.mark.reliability(kind, outcome, cases=number)

    few = pytest.param(quick, marks=tried(quick), id="quick")
    many = pytest.param(thorough, marks=[tried(thorough), pytest.mark.slow], id="slow")
    return pytest.mark.parametrize("count", [few, many])


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bytes turned, pieces left out, repeated, replaced or reversed, words exchanged, the end cut off."""
    for _ in range(rng.integers(1, 4)):
        # half of the changes are made where the header is
        reach = len(raw) if rng.integers(2) else min(len(raw), HEADER)
        at = int(rng.integers(0, reach + 1))
        end = min(len(raw), at + int(rng.integers(1, 40)))
        word = WORDS[rng.integers(len(WORDS))]
        kind = rng.integers(8)
        if kind == 0:
            raw = raw[:at] + bytes([rng.integers(256)]) + raw[at + 1 :]
        elif kind == 1:
            raw = raw[:at] + raw[end:]
        elif kind == 2:
            raw = raw[:end] + raw[at:end] * int(rng.integers(1, 5)) + raw[end:]
        elif kind == 3:
            raw = raw[:at] + word + raw[at:]
        elif kind == 4:
            raw = raw[:at] + word + raw[end:]
        elif kind == 5:  # the same length: fields of headers stay where they are
            raw = raw[:at] + word.ljust(8)[:8] + raw[at + 8 :]
        elif kind == 6:
            between = b"\t" if b"\t" in raw and rng.integers(2) else b" "
            words = raw.split(between)
            words[rng.integers(len(words))] = word
            raw = between.join(words)
        elif rng.integers(3):
            raw = raw[:at] + raw[at:end][::-1] + raw[end:]
        else:
            raw = raw[:at]
    return raw


def mutate_json(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to three values replaced or removed, at any depth: what remains is JSON."""
    value = json.loads(raw)
    for _ in range(rng.integers(1, 4)):
        places = list(_holders(value))
        if not places:
            break
        place = places[rng.integers(len(places))]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[int(rng.integers(len(keys)))]
        if rng.integers(4) == 0:
            del place[key]
        else:
            place[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return json.dumps(value).encode()


def _holders(value: Any) -> Iterator[Any]:
    """Every list and object inside a value that holds something."""
    if not isinstance(value, (list, dict)) or not value:
        return
    yield value
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _holders(inner)


def mutate_header(size: int) -> Mutate:
    """Mutates the first bytes of a file alone."""

    def mutate_first(raw: bytes, rng: np.random.Generator) -> bytes:
        return mutate(raw[:size], rng) + raw[size:]

    return mutate_first


def try_mutations(
    path: Path,
    use: Callable[[], object],
    count: int,
    *,
    mutate: Mutate = mutate,
    folder: Path | None = None,
    allowed: tuple[str, ...] = (),
) -> int:
    """Puts `count` mutations of a file in its place and uses each; the content of a ``.gz`` is mutated unpacked.

    Args:
        path: what is mutated; it is whole again at the end.
        use: a function without arguments that reads it.
        count: how many.
        mutate: how.
        folder: in which nothing may be left behind (default: the file's own).
        allowed: names of files that a use which succeeds may leave there.

    Returns:
        How many were used after all.

    Raises:
        AssertionError: one ends in anything but an answer or a `UserError` of a line, takes too long or too much memory, or leaves something behind.
    """
    folder = folder or path.parent
    whole = path.read_bytes()
    zipped = path.suffix == ".gz"
    text = gzip.decompress(whole) if zipped else whole
    files = _files_below(folder)
    use()  # as it is; and imports are no part of the time and memory of a mutation
    _remove(_files_below(folder) - files)
    peak = _peak_mebibytes()
    used = 0
    for seed in range(count):
        what = f"mutation {seed} of {path.name}"
        content = mutate(text, np.random.default_rng([seed, zlib.crc32(path.name.encode())]))
        path.write_bytes(gzip.compress(content) if zipped else content)
        try:
            with within(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
        except UserError as error:
            check_line(error, what)
            left: set[Path] = _files_below(folder) - files
            assert not left, f"{what}: {left} left behind"
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        else:
            used += 1
            left = _files_below(folder) - files
            assert {file.name for file in left} <= set(allowed), f"{what}: {left} left behind"
            _remove(left)
    path.write_bytes(whole)
    grown = _peak_mebibytes() - peak
    assert grown < MEBIBYTES, f"{path.name}: {grown:.0f} MiB"
    return used


def check_line(error: UserError, what: str) -> None:
    """The message is one plain line."""
    assert "\n" not in error.message, f"{what}: more than one line"
    assert "\n" not in error.hint, f"{what}: a hint of more than one line"
    assert len(error.message) < MESSAGE, f"{what}: {len(error.message)} characters"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Stops what takes longer than so many seconds of this process, or ten times as long by the clock: other work on the machine hardly counts."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])


def _files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _remove(files: set[Path]) -> None:
    for file in files:
        file.unlink()


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def changed(least: int, *, step: int = 10) -> pytest.MarkDecorator:
    """Runs a test with every `step`-th change of a model's config.json as `changes`, and with all of them under ``-m slow``.

    Args:
        least: how many changes there are at least.
        step: every how many-eth of them the quick run tries; 1 where all of them are quick.
    """

    def tried(step: int) -> pytest.MarkDecorator:
        kind = "a model's config.json: each field left out, misspelt, of another value"
        return pytest.mark.reliability(kind, "one line, or a word", cases=least // step)

    few = pytest.param((least, step), marks=tried(step), id="quick")
    if step == 1:
        return pytest.mark.parametrize("changes", [few])
    every = pytest.param((least, 1), marks=[tried(1), pytest.mark.slow], id="slow")
    return pytest.mark.parametrize("changes", [few, every])


def try_changes(
    config: Path,
    load: Callable[[], object],
    capsys: pytest.CaptureFixture[str],
    changes: tuple[int, int],
) -> None:
    """Every change of a model's config.json is refused in a line, or said on standard error.

    Args:
        config: the file.
        load: a function without arguments that loads the model.
        capsys: pytest's.
        changes: how many there are at least, and every how many-eth is tried (`changed`).
    """
    least, step = changes
    capsys.readouterr()
    load()
    assert not capsys.readouterr().err, "as it is, there is nothing to say"
    tried = 0
    for words, other in list(changed_configs(json.loads(config.read_text())))[::step]:
        config.write_text(json.dumps(other))
        try:
            load()
        except UserError as error:
            check_line(error, words)
            capsys.readouterr()
        else:
            assert "config.json" in capsys.readouterr().err, words
        tried += 1
    assert tried >= least // step


def changed_configs(described: dict[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """A config.json with one field changed at a time: left out, misspelt, of another value or type; and which that is, in words."""
    for name, value in _inside(described, outer).items():
        others: list[Any] = ["left out", "misspelt", None, "x", -1, 0, 1.5, 1e9, True, [], {}, [1, 2]]
        if isinstance(value, list):
            others += [value[::-1], value[:-1]]
        elif isinstance(value, (int, float)):
            others += [-value, 2 * value, str(value)]
        for i, other in enumerate(others):
            whole = copy.deepcopy(described)
            place = _inside(whole, outer)
            if i == 0:
                del place[name]
            elif i == 1:
                place[f"{name}s"] = place.pop(name)
            else:
                place[name] = other
            if whole != described:
                yield f"{'.'.join((*outer, name))} {other!r}", whole
        if isinstance(value, dict):
            yield from changed_configs(described, (*outer, name))


def _inside(described: dict[str, Any], outer: tuple[str, ...]) -> dict[str, Any]:
    """The object at the end of these names."""
    for name in outer:
        described = described[name]
    return described
