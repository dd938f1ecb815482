"""Seeded mutations of files: each ends in an answer or one plain line, in bounded time and memory, and nothing is half-written."""

import contextlib
import copy
import json
import random
import resource
import signal
import warnings
from collections.abc import Iterator

from core_runtime.errors import UserError

WORDS = (
    b"",
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"1e308",
    b"99999999999",
    b'"',
    b",",
    b"\n",
    b"\0",
    b"<",
    b"null",
    b"[]",
    b"\xff",
)
QUICK, THOROUGH = 12, 1000
SECONDS, MEBIBYTES = 20, 600  # of one mutation; of all of a format


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three changes: bytes turned, pieces left out, repeated or replaced by words, the end cut off."""
    for _ in range(rng.randint(1, 3)):
        # headers and tags stand at the beginning: half of the changes are made there
        reach = len(data) if rng.random() < 0.5 else min(len(data), 600)
        at = rng.randrange(reach + 1)
        end = at + rng.randint(1, 12)
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:end] + data[at:end] * rng.randint(1, 4) + data[end:]
        elif kind == 3:
            data = data[:at] + rng.choice(WORDS) + data[at:]
        elif kind == 4:
            data = data[:at] + rng.choice(WORDS) + data[end:]
        elif rng.random() < 0.3:
            data = data[:at]
    return data


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


def try_changes(config, load, capsys, least, step=1):
    """Every change of a model's config.json is refused in a line, or said on standard error.

    Args:
        config: the file.
        load: a function without arguments that loads the model.
        capsys: pytest's.
        least: how many changes there are at least.
        step: every how many-eth of them is tried.
    """
    load()
    assert not capsys.readouterr().err
    tried = 0
    for words, changed in list(changed_configs(json.loads(config.read_text())))[::step]:
        config.write_text(json.dumps(changed))
        message = ""
        try:
            load()
        except UserError as error:
            message = error.message
        else:
            assert "config.json" in capsys.readouterr().err, words
        assert "\n" not in message, words
        tried += 1
    assert tried >= least // step


def try_mutations(kind, count, file, read, folder, allowed=()):
    """Puts `count` mutations of a file in its place and reads each.

    Args:
        kind: of the format, in words.
        count: how many.
        file: what is mutated.
        read: a function without arguments that reads it.
        folder: in which nothing else may be left behind.
        allowed: names of files that a mutation which can be read may leave.

    Raises:
        AssertionError: one of them ends in anything but an answer or a `UserError` of one line, takes too long or too much memory, or
            leaves something behind.
    """
    original = file.read_bytes()
    files = {path for path in folder.rglob("*") if path.is_file()}
    with contextlib.suppress(UserError):  # whole, it loads what is imported when it is first used
        read()
    for path in {path for path in folder.rglob("*") if path.is_file()} - files:
        path.unlink()
    complaints: dict[int, str] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def stop(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    handler = signal.signal(signal.SIGALRM, stop)
    try:
        for seed in range(count):
            file.write_bytes(mutate(original, random.Random(f"{kind} {seed}")))
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read()
            except UserError as error:
                complaints[seed] = error.message
            except Exception as error:
                raise AssertionError(f"{kind}, seed {seed}: unexpected {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
            left = {path for path in folder.rglob("*") if path.is_file()} - files
            if seed in complaints:
                assert not left, f"{kind}, seed {seed}: {left} left behind"
            assert {path.name for path in left} <= set(allowed), f"{kind}, seed {seed}"
            for path in left:
                path.unlink()
    finally:
        signal.signal(signal.SIGALRM, handler)
        file.write_bytes(original)
    long = {seed: text for seed, text in complaints.items() if len(text.splitlines()) != 1}
    assert not long, f"{kind}: more than one line"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEBIBYTES, f"{kind}: {grown:.0f} MiB"
