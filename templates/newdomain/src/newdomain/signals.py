"""Signals on disk: CSV files with a header line ``seconds,value`` and one row a sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HEADER = "seconds,value"
WINDOW = 32  # samples a window: the model attends over windows


@dataclass(frozen=True)
class Signal:
    """One recording: `seconds` and `values`, both of shape (samples,)."""

    name: str
    seconds: "np.ndarray"
    values: "np.ndarray"

    def windows(self) -> "np.ndarray":
        """The signal cut into windows of `WINDOW` samples, (windows, WINDOW) float32; an incomplete last one is left out."""
        count = len(self.values) // WINDOW
        return self.values[: count * WINDOW].reshape(count, WINDOW).astype("float32")


def recognises(path: Path) -> str | None:
    """Whether a file is a signal of ours, from its first line alone."""
    if not path.is_file() or path.suffix.lower() != ".csv":
        return None
    with path.open("rb") as file:
        return "signal (CSV)" if file.readline(64).strip() == HEADER.encode() else None


def read_signal(path: Path) -> Signal:
    """Reads and checks one signal.

    Raises:
        UserError: absent, not a signal, empty, not numbers, or too short for one window.
    """
    import numpy as np

    if not path.exists():
        raise UserError(f"no such file: {path}", "give a CSV file with the columns seconds,value")
    if recognises(path) is None:
        raise UserError(f"{path} is not a signal", f"the first line must be '{HEADER}'")
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{path}: a row does not hold two numbers", "look for text or a missing column") from None
    if len(table) < WINDOW or table.shape[1] != 2:
        raise UserError(f"{path}: {len(table)} samples are too few", f"at least {WINDOW} are needed")
    if not np.isfinite(table).all():
        raise UserError(f"{path} holds NaN or infinite values", "remove or interpolate them")
    return Signal(path.stem, table[:, 0], table[:, 1])


def signal_files(path: Path) -> list[Path]:
    """The signals of a folder, or the one file.

    Raises:
        UserError: there are none.
    """
    files = sorted(p for p in path.rglob("*.csv") if recognises(p)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no signals", f"signals are CSV files whose first line is '{HEADER}'")
    return files


def read_labels(folder: Path) -> dict[str, int]:
    """``labels.csv`` of a folder (signal,label with label 0 or 1) as {signal name: label}.

    Raises:
        UserError: absent, malformed, or naming a signal that is not there.
    """
    path = folder / "labels.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no labels.csv", "its lines are 'signal,label', the label 0 or 1")
    labels = dict(_rows(path))
    absent = sorted(set(labels) - {p.stem for p in signal_files(folder)})
    if absent:
        raise UserError(
            f"{path} names signals that are not there: {', '.join(absent[:5])}", "add the files or remove the lines"
        )
    return labels


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], 2):
        name, _, label = line.partition(",")
        if label not in ("0", "1"):
            raise UserError(f"{path}, line {number}: {line!r} is not 'signal,label'", "the label is 0 or 1")
        yield name, int(label)
