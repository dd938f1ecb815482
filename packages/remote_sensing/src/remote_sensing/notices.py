"""What must be said of every picture of a model that learned from certain tiles: the first line of a NOTICE.txt beside them. Imports nothing heavy."""

from pathlib import Path

FILE = "NOTICE.txt"
DRAWN = "trained on drawings only"  # of models that saw our samples and nothing else


def read_notice(folder: Path) -> str:
    """The first line of a folder's NOTICE.txt; "" where there is none."""
    try:
        return (folder / FILE).read_text(encoding="utf-8").splitlines()[0][:120]
    except (OSError, ValueError, IndexError):
        return ""
