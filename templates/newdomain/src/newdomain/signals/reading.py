"""Signals on disk: CSV files with a header line ``seconds,value`` and one row per sample."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.errors import UserError
from newdomain.signals.formats import HEADER, is_signal

if TYPE_CHECKING:
    import numpy as np

WINDOW = 32  # samples per window: the model attends over windows


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


def read_signal(path: Path) -> Signal:
    """Reads and checks one signal.

    Raises:
        UserError: absent, not a signal, empty, not numbers, or too short for one window.
    """
    import numpy as np

    if not path.exists():
        raise UserError(f"no such file: {path}", "give a CSV file with the columns seconds,value")
    if not is_signal(path):
        raise UserError(f"{path} is not a signal", f"the first line must be '{HEADER}'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a file holds no rows; it is refused below
            table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (ValueError, UnicodeDecodeError):
        raise UserError(f"{path}: a row does not hold two numbers", "look for text or a missing column") from None
    if table.size and table.shape[1] != 2:
        raise UserError(f"{path} has {table.shape[1]} columns", "seconds and value are expected, nothing else")
    if len(table) < WINDOW:
        raise UserError(f"{path}: {len(table)} samples are too few", f"at least {WINDOW} are needed")
    if not np.isfinite(table).all():
        raise UserError(f"{path} holds NaN or infinite values", "remove or interpolate them")
    return Signal(path.stem, table[:, 0], table[:, 1])
