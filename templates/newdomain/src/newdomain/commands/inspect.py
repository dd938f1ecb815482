"""``newdomain inspect``."""

from pathlib import Path

from core_runtime.findings import Findings, FolderFindings, examine_files
from newdomain.signals.formats import find_signals


def inspect(path: Path, /) -> Findings | FolderFindings:
    """Says what a file holds and whether it can be used.

    Example: newdomain inspect signal.csv

    Args:
        path: a signal (CSV), or a folder of them.
    """
    if not path.is_dir():
        return examine(path)
    return examine_files(path, find_signals(path), examine)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first signal."""
    return examine(find_signals(path)[0], pictures=True)


def examine(path: Path, *, pictures: bool = False) -> Findings:
    """Looks at one signal.

    Raises:
        UserError: it cannot be read.
    """
    from newdomain.signals.reading import read_signal

    signal = read_signal(path)
    drawn = []
    if pictures:
        from newdomain.reports.figures import draw_signal

        drawn = [(draw_signal(signal), "The trace")]
    return Findings(
        title=signal.name,
        kind="signal",
        summary=f"{len(signal.values)} samples over {signal.seconds[-1] - signal.seconds[0]:.1f} s",
        details={"samples": len(signal.values), "windows": len(signal.windows())},
        next_commands=[f"newdomain predict '{path}' --model run/model"],
        pictures=drawn,
    )
