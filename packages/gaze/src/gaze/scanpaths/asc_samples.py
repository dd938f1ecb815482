"""Samples of EyeLink ASC files, a block of lines at a time."""

import io
import re
from collections.abc import Iterator, Sequence
from math import isfinite, nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from gaze.scanpaths.columns import LARGEST
from gaze.scanpaths.samples import Samples
from gaze.scanpaths.scanpath import Eye

BLOCK = 4 * 1024 * 1024  # bytes read at a time
LONGEST_LINE = 1024 * 1024  # bytes: longer ones are no lines of a tracker
_OTHER_LINES = re.compile(rb"\n(?:[^\n0-9][^\n]*)?(?=\n)")


def number_in(text: bytes) -> float:
    """NaN for ".", "n/a" and what is not a number."""
    try:
        value = float(text)
    except ValueError:
        return nan
    if abs(value) < LARGEST:
        return value
    return nan


def eyes_in(words: Sequence[bytes]) -> tuple[Eye, ...]:
    both: tuple[tuple[bytes, Eye], ...] = ((b"LEFT", "left"), (b"RIGHT", "right"))
    return tuple(eye for name, eye in both if name in words)


def read_samples(path: Path) -> Samples:
    """The samples of an EyeLink ASC file: time in ms, x and y of each eye in pixels, NaN where the eye was not seen.

    Blocks may differ in their eyes; columns after the pupil (input, status, velocity, head) are passed over.

    Raises:
        UserError: it has no samples, or in coordinates that are not on the screen.
    """
    parts: list[NDArray[np.float64]] = []
    block, notes = -1, []
    for eyes, chunk in _sample_chunks(path):
        if eyes is None:
            block += 1
            continue
        values = _parse(chunk, len(eyes), path)
        table = np.full((len(values), 6), np.nan)
        table[:, 0], table[:, 5] = values[:, 0], block
        for place, eye in enumerate(eyes):
            first = 3
            if eye == "left":
                first = 1
            table[:, first : first + 2] = values[:, 1 + 3 * place : 3 + 3 * place]
        parts.append(table)
    if not parts or not sum(map(len, parts)):
        raise UserError(f"{path} holds no samples", "convert the EDF with samples")
    table = np.concatenate(parts)
    del parts
    return Samples(table[:, 0], {"left": table[:, 1:3], "right": table[:, 3:5]}, table[:, 5].astype(np.int64), notes)


def _sample_chunks(path: Path) -> Iterator[tuple[tuple[Eye, ...] | None, bytes]]:
    """(eyes, whole lines that are samples or events) in order; (None, b"") at each START."""
    eyes: tuple[Eye, ...] = ()
    border = re.compile(rb"\n(START|SAMPLES|END)\b([^\n]*)")
    in_block = False
    try:
        with path.open("rb") as file:
            rest = b"\n"
            while block := file.read(BLOCK):
                data = rest + block
                cut = data.rfind(b"\n")
                if cut <= 0 and len(data) > LONGEST_LINE:
                    raise UserError(
                        f"{path} has a line of more than {LONGEST_LINE:,} characters: it is not an ASC file"
                    )
                whole, rest = data[: cut + 1], data[cut:]
                at = 0
                for match in border.finditer(whole):
                    if in_block and eyes:
                        yield eyes, whole[at : match.start() + 1]
                    at = match.end()
                    word, others = match.group(1), match.group(2).split()
                    if word == b"SAMPLES":
                        if others and others[0] != b"GAZE":
                            raise UserError(
                                f"{path}: samples are in {others[0].decode('ascii', 'replace')} coordinates, not on the screen"
                            )
                        eyes = eyes_in(others)
                    elif word == b"START":
                        in_block, eyes = True, eyes_in(others)
                        yield None, b""
                    else:
                        in_block = False
                if in_block and eyes:
                    yield eyes, whole[at:]
            if in_block and eyes and rest.strip():
                yield eyes, rest
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _parse(chunk: bytes, eyes: int, path: Path) -> NDArray[np.float64]:
    """(samples, 1 + 3 × eyes): time, then x, y and pupil of each eye."""
    import pandas as pd

    lines = _OTHER_LINES.sub(b"", b"\n" + chunk if not chunk.startswith(b"\n") else chunk)
    if not lines.strip():
        return np.empty((0, 1 + 3 * eyes))
    names = list(range(1 + 3 * eyes))
    read = {
        "sep": "\t",
        "header": None,
        "names": names,
        "usecols": names,
        "skipinitialspace": True,
        "na_values": [".", "n/a"],
    }
    try:
        frame = pd.read_csv(
            io.BytesIO(lines), engine="c", dtype=np.float64, quoting=3, index_col=False, on_bad_lines="skip", **read
        )
    except (ValueError, pd.errors.ParserError):
        return _parse_slowly(lines, 1 + 3 * eyes)
    return frame.to_numpy()


def _parse_slowly(lines: bytes, width: int) -> NDArray[np.float64]:
    """As `_parse` where some line is damaged: its values become NaN, lines without a time are passed over."""
    rows = []
    for line in lines.split(b"\n"):
        values = [number_in(word) for word in line.split()[:width]]
        if values and isfinite(values[0]):
            rows.append(values + [np.nan] * (width - len(values)))
    return np.array(rows, np.float64).reshape(-1, width)
