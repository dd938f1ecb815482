"""Who is in it: the labels of a folder of signals, and which signals learn and which judge."""

from collections.abc import Iterator
from pathlib import Path

from core_runtime.errors import UserError
from newdomain.signals.formats import find_signals


def read_labels(folder: Path) -> dict[str, int]:
    """``labels.csv`` of a folder (signal,label with label 0 or 1) as {signal name: label}.

    Raises:
        UserError: absent, malformed, or naming a signal that is not there.
    """
    path = folder / "labels.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no labels.csv", "its lines are 'signal,label', the label 0 or 1")
    labels = dict(_rows(path))
    absent = sorted(set(labels) - {p.stem for p in find_signals(folder)})
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
