"""What a command prints while it works: notes and progress bars on standard error; only results go to standard output."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

note = Console(stderr=True, highlight=False)


def warn(text: str) -> None:
    """Prints a warning on standard error, not wrapped and without markup."""
    note.print(text, style="yellow", markup=False, soft_wrap=True)


@contextmanager
def silent() -> Iterator[None]:
    """Within it nothing is printed on standard error: for a look at a file that may be of another field."""
    before, note.quiet = note.quiet, True
    try:
        yield
    finally:
        note.quiet = before


def progress(description: str, total: int | None = None) -> Progress:
    """A progress bar on standard error (silent where that is not a terminal), used as a context manager with one task already added."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=note,
        transient=True,
        disable=not note.is_terminal,
    )
    bar.add_task(description, total=total)
    return bar


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` behind a progress bar."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # pyright: ignore[reportArgumentType]
    with progress(description, total) as bar:
        for item in items:
            yield item
            bar.advance(bar.task_ids[0])
