"""The notice that every picture of a model carries if its training tiles have one: the first line of their NOTICE.txt. Imports nothing heavy."""

from pathlib import Path

FILE = "NOTICE.txt"
DRAWN = "trained on drawings only"  # of models trained only on our drawn samples


def read_notice(folder: Path) -> str:
    """The first line of a folder's NOTICE.txt; "" where there is none."""
    try:
        return (folder / FILE).read_text(encoding="utf-8").splitlines()[0][:120]
    except (OSError, ValueError, IndexError):
        return ""
