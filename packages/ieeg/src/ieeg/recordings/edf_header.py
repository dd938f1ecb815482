"""The header of EDF, EDF+ and BDF files: a fixed part of 256 bytes, then 256 for each signal, all of it text."""

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core_runtime.errors import UserError

ANNOTATIONS = ("edf annotations", "bdf annotations")  # in lower case, as some recorders write them
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # of a signal's fields; each field of all signals stands together


@dataclass(frozen=True)
class EdfSignal:
    """One signal of the header. `samples` is per record; physical = (digital − digital_min) · gain + physical_min, in `unit`."""

    label: str
    unit: str
    physical_min: float
    physical_max: float
    digital_min: float
    digital_max: float
    samples: int
    offset: int  # in samples, inside a record

    @property
    def gain(self) -> float:
        return (self.physical_max - self.physical_min) / (self.digital_max - self.digital_min)


def is_annotation(label: str) -> bool:
    """Whether a signal of that label holds the annotations of EDF+."""
    return " ".join(label.casefold().split()) in ANNOTATIONS


def find_data(
    path: Path, claimed: int, computed: int, size: int, records: int, record_bytes: int, warnings: list[str]
) -> int:
    """Where the records begin: after the headers of all signals, or where the header says, whichever fits the file's size.

    Raises:
        UserError: they differ, and neither fits.
    """
    if claimed == computed:
        return computed

    def fits(offset: int) -> bool:
        data = size - offset
        if record_bytes == 0 or data <= 0:
            return False
        if records > 0:
            return data == records * record_bytes
        return data % record_bytes == 0

    if claimed > computed and fits(claimed):
        warnings.append(f"data begin at byte {claimed}, as the header says; its signals end at {computed}")
        return claimed
    if fits(computed):
        warnings.append(
            f"the header says that data begin at byte {claimed}; {computed} is where its signals end, which fits the file's size"
        )
        return computed
    raise UserError(
        f"{path}: the header says that data begin at byte {claimed}, its signals end at {computed}, and the file's size fits neither",
        "copy the file again from the recorder, or export it again",
    )


def number_of(text: str) -> float:
    """A number of the header, perhaps with a decimal comma.

    Raises:
        ValueError: it is not a finite number.
    """
    value = float(text.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def read_signals(block: bytes, count: int) -> tuple[list[EdfSignal], list[tuple[str, str]], int]:
    """The signals of the header, those that cannot be read (label, why), and the number of samples in a record.

    Raises:
        ValueError: a field that should be a number is not a number.
    """
    signals: list[EdfSignal] = []
    dropped: list[tuple[str, str]] = []
    position = 0
    for label, unit, pmin, pmax, dmin, dmax, samples in _signal_fields(block, count):
        number = int(samples)
        if number < 0:
            raise ValueError(samples)
        why = ""
        if number == 0:
            why = "it has no samples"
        elif not is_annotation(label) and number_of(dmin) == number_of(dmax):
            why = "its digital range is 0"
        if why:
            dropped.append((label, why))
        elif is_annotation(label):  # its ranges do not matter, whatever recorders write there
            signals.append(EdfSignal(label, unit, -1, 1, -32768, 32767, number, position))
        else:
            ranges = number_of(pmin), number_of(pmax), number_of(dmin), number_of(dmax)
            signals.append(EdfSignal(label, unit, *ranges, number, position))
        position += number
    return signals, dropped, position


def _signal_fields(block: bytes, count: int) -> list[tuple[str, str, str, str, str, str, str]]:
    """(label, unit, physical minimum and maximum, digital minimum and maximum, samples) of each signal, as text.

    EDF stores the labels of all signals together, then all transducers, all units and so on.
    """
    columns = []
    start = 0
    for width in _WIDTHS:
        end = start + width * count
        texts = []
        for at in range(start, end, width):
            texts.append(text_of(block[at : at + width]))
        columns.append(texts)
        start = end
    labels, _, units, pmin, pmax, dmin, dmax, _, samples, _ = columns
    return list(zip(labels, units, pmin, pmax, dmin, dmax, samples, strict=True))


def text_of(raw: bytes) -> str:
    """The format prescribes ASCII; recorders write UTF-8 or Latin-1."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip().strip("\0").strip()


def start_time(head: bytes) -> datetime | None:
    """The date and time of the fixed header; None where they are not such."""
    try:
        day, month, year = map(int, head[168:176].decode("ascii").split("."))
        hour, minute, second = map(int, head[176:184].decode("ascii").replace(":", ".").split("."))
        century = 1900 if year >= 85 else 2000  # EDF's clipping date: two digits mean 1985 to 2084
        return datetime(century + year, month, day, hour, minute, second)
    except ValueError:
        return None
