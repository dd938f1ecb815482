"""Published lists that are pickles, read without executing anything in them: plain containers, text, numbers, and arrays of numbers.

A pickle is a program that names the functions to call. Only the three with which NumPy spells an array are answered, by functions of this
module that make arrays of numbers and nothing else; any other name ends the reading.
"""

import pickle
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError

_LARGEST = 4 * 1024**3  # bytes; the published lists have at most a few hundred megabytes


def read_pickle(path: Path, *, arrays: bool = False) -> Any:
    """What a pickle holds.

    Text written by Python 2 is read as Latin-1, in which every byte is a character.

    Args:
        path: the file.
        arrays: whether arrays of numbers are read, too (needs NumPy).

    Raises:
        UserError: it cannot be read, is not a pickle, or would run something; the name of that is quoted.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} has {path.stat().st_size / 1e9:.1f} GB: that is not a published list")
        with path.open("rb") as file:
            return _Plain(file, arrays, path).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # what a damaged pickle raises is of any kind
        raise UserError(f"{path} is not a readable pickle ({type(error).__name__})", "fetch it again") from None


class _Plain(pickle.Unpickler):
    def __init__(self, file: Any, arrays: bool, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self.path = path
        self.answers: dict[tuple[str, str], Any] = {}
        if arrays:
            self.answers = _array_answers()

    def find_class(self, module: str, name: str) -> Any:
        answer = self.answers.get((module, name))
        if answer is None:
            raise UserError(
                f"{self.path} would call {module}.{name}", "only lists, dictionaries, text and numbers are read"
            )
        return answer

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"{self.path} refers to something outside itself", "only lists and numbers are read")


def _array_answers() -> dict[tuple[str, str], Any]:
    """What stands for the functions that a pickled array of numbers names."""
    import numpy as np

    def number_type(name: Any, *flags: Any) -> Any:
        kind = np.dtype(name)
        if kind.hasobject or kind.fields:
            raise ValueError(f"{name} is not a type of numbers")
        return kind

    class _Numbers(np.ndarray):
        """An array that takes its state only where that is of numbers."""

        def __setstate__(self, state: Any) -> None:
            if state[2].hasobject:
                raise ValueError("an array of objects")
            super().__setstate__(state)

    def reconstruct(kind: Any, shape: Any, letter: Any) -> Any:
        return np.ndarray.__new__(_Numbers, (0,), np.int8)

    def encode(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"bytes written as {encoding}")
        return text.encode("latin1")

    answers: dict[tuple[str, str], Any] = {("_codecs", "encode"): encode}
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
        answers[module, "ndarray"] = _Numbers
        answers[module, "dtype"] = number_type
        answers[module, "_reconstruct"] = reconstruct
    return answers


__all__ = ["read_pickle"]
