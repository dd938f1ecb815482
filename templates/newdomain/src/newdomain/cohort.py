"""Who is in it: the labels of a folder of signals, and what tells them from others."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.errors import UserError, few
from core_runtime.identity import identity
from newdomain.signals.formats import find_signals
from newdomain.signals.reading import read_signal

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset


def read_labels(folder: Path) -> dict[str, int]:
    """``labels.csv`` of a folder (signal,label with label 0 or 1) as {signal name: label}.

    Raises:
        UserError: absent, malformed, or naming a signal that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}", "give a folder of signals with a labels.csv")
    path = folder / "labels.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no labels.csv", "its lines are 'signal,label', the label 0 or 1")
    labels = dict(_rows(path))
    files: dict[str, Path] = {}
    for file in find_signals(folder):
        if file.stem in labels and files.setdefault(file.stem, file) != file:
            raise UserError(f"{path}: {file.stem} is two signals, {files[file.stem]} and {file}", "rename one of them")
    absent = sorted(set(labels) - set(files))
    if absent:
        raise UserError(f"{path} names signals that are not there: {few(absent)}", "add the files or remove the lines")
    return labels


def load_data(folder: Path) -> "tuple[TensorDataset, list[str]]":
    """All labelled signals of a folder, cut to the shortest one's windows, and their digests.

    Raises:
        UserError: no labels, no signals, or an unusable one.
    """
    import torch
    from torch.utils.data import TensorDataset

    labels = read_labels(folder)
    files = {file.stem: file for file in find_signals(folder)}
    bags = [torch.from_numpy(read_signal(files[name]).windows()) for name in labels]
    shortest = min(len(bag) for bag in bags)
    data = TensorDataset(torch.stack([bag[:shortest] for bag in bags]), torch.tensor(list(labels.values())))
    return data, [identity(files[name], full=True)["sha256"][:16] for name in labels]


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[1:], 2):
        name, _, label = line.partition(",")
        if label not in ("0", "1"):
            raise UserError(f"{path}, line {number}: {line!r} is not 'signal,label'", "the label is 0 or 1")
        yield name, int(label)
