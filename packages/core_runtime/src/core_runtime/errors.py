"""What a command says when it cannot go on: one or two plain lines."""

from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: unusable input or usage, exit status 2.

    Args:
        message: what is wrong, naming the file or option.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both, so that the error survives the way back from a worker process
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


def clean(text: str) -> str:
    """One line of printable text: a file's name or a library's message may hold line breaks and control characters."""
    # a space in place of each, so that the words on both sides stay apart
    printable = [c if c.isprintable() else " " for c in text]
    return " ".join("".join(printable).split())


def shorten(text: str, most: int = 400) -> str:
    """A message in one line of at most so many characters: a list of a thousand missing tensors is no line that anybody reads."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…"


def named(path: Path, error: Exception) -> str:
    """The message of an error, with the file in front where the message does not name it."""
    message = str(error)
    if path.name in message:
        return message
    return f"{path}: {message}"


def few(names: Sequence[str]) -> str:
    """A handful of names for a message: ``a, b, c and 4 more``."""
    shown = ", ".join(names[:3])
    if len(names) <= 3:
        return shown
    return f"{shown} and {len(names) - 3} more"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 box", "2 boxes", "1,200 images".

    Args:
        number: how many.
        noun: of one.
        plural: of any other number; default: the noun with an s.
    """
    if number != 1:
        noun = plural or f"{noun}s"
    return f"{number:,} {noun}"
