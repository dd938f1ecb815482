"""What the instrument writes: CSV files with the columns ``seconds,value``. Imports nothing heavy."""

from pathlib import Path

from core_runtime.domains import Claim
from core_runtime.errors import UserError

HEADER = "seconds,value"


def claim(path: Path) -> Claim | None:
    """How sure this domain is that a file, or a folder of files, is its own: by the first line alone."""
    if path.is_dir():
        return (
            Claim("folder of signals", 0.8, f"it holds CSV files that begin with '{HEADER}'") if _files(path) else None
        )
    return Claim("signal (CSV)", 0.9, f"its first line is '{HEADER}'") if is_signal(path) else None


def is_signal(path: Path) -> bool:
    """Whether a file begins as signals do."""
    if not path.is_file() or path.suffix.lower() != ".csv":
        return False
    try:
        with path.open("rb") as file:
            return file.readline(64).strip() == HEADER.encode()
    except OSError:
        return False


def find_signals(path: Path) -> list[Path]:
    """The signals of a folder, or the one file.

    Raises:
        UserError: there are none.
    """
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no signals", f"signals are CSV files whose first line is '{HEADER}'")
    return files


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.csv") if is_signal(path))
