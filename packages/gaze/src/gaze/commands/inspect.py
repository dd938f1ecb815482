"""``gaze inspect``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError, counted
from core_runtime.findings import Findings, FolderFindings
from gaze.scanpaths.formats import find_recordings
from gaze.scanpaths.reading_options import ReadOptions


def inspect(path: Path, /, *, reading: ReadOptions = ReadOptions()) -> Findings | FolderFindings:
    """Says what a file of a tracker holds, what was left out of it and why, and whether it can be used.

    Example: gaze inspect recording.asc

    Args:
        path: a file of scanpaths, or a folder of them.
    """
    if not path.exists():
        raise UserError(f"no such file: {path}", "give a file that the tracker wrote, or a folder of them")
    if not path.is_dir():
        return examine(path, reading)  # a table of any columns, where --columns names them
    files = find_recordings(path)
    if files == [path]:  # a BIDS data set is one recording of many files
        return examine(path, reading)
    return _inspect_folder(path, files, reading)


def _inspect_folder(folder: Path, files: Sequence[Path], options: ReadOptions) -> FolderFindings:
    from gaze.scanpaths.opening import read_scanpaths
    from gaze.scanpaths.repeats import describe_repeats, find_repeats

    read, unreadable = {}, {}
    for file in files:
        try:
            read[file] = read_scanpaths(file, options)
        except UserError as error:
            unreadable[str(file.relative_to(folder))] = error.message
    names = [str(file.relative_to(folder)) for file in read]
    findings = []
    for (file, content), repeats in zip(read.items(), find_repeats(list(read.values())), strict=True):
        warnings = []
        if repeats:
            warnings = [describe_repeats(repeats, content, names)]
        findings.append(describe(file, content, warnings=warnings))
    return FolderFindings(findings=findings, unreadable=unreadable)


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``; of a folder, at its first file."""
    return examine(find_recordings(path)[0], ReadOptions(), pictures=True)


def examine(path: Path, reading: ReadOptions, *, pictures: bool = False) -> Findings:
    """Looks at one file.

    Raises:
        UserError: it cannot be read, or holds raw samples whose geometry is not known.
    """
    from gaze.scanpaths.opening import read_scanpaths

    return describe(path, read_scanpaths(path, reading), pictures=pictures)


def describe(path: Path, content: Any, *, warnings: Sequence[str] = (), pictures: bool = False) -> Findings:
    """What a file that was read holds."""
    scanpaths = content.scanpaths
    fixations = sum(map(len, scanpaths))
    stimuli = sorted({scanpath.stimulus for scanpath in scanpaths if scanpath.stimulus})
    subjects = sorted({scanpath.subject for scanpath in scanpaths if scanpath.subject})
    details: dict[str, Any] = {
        "paths": len(scanpaths),
        "fixations": fixations,
        "subjects": len(subjects) or "not named",
        "stimuli": len(stimuli) or "not named",
        **_measures(scanpaths),
        **content.facts,
    }
    if content.left_out:
        details["left out"] = dict(content.left_out)
    drawn = []
    if pictures:
        drawn = _pictures(scanpaths)
    commands = [f"gaze export '{path}' --out fixations.csv", f"gaze plot '{path}' --out figures"]
    usable = fixations > 0
    return Findings(
        title=path.name,
        kind=content.kind,
        summary=f"{counted(len(scanpaths), 'path')} with {counted(fixations, 'fixation')}"
        if usable
        else "No fixations are in it.",
        usable=usable,
        details=details,
        warnings=[*warnings, *content.notes],
        next_commands=commands if usable else (),
        pictures=drawn,
    )


def _measures(scanpaths: Any) -> dict[str, Any]:
    """Lengths, durations, eye, screen and provenance in words."""
    import numpy as np

    if not scanpaths:
        return {}
    lengths = [len(scanpath) for scanpath in scanpaths]
    durations = np.concatenate([scanpath.duration for scanpath in scanpaths])
    known = durations[np.isfinite(durations)]
    outside = sum(int((~scanpath.on_screen()).sum()) for scanpath in scanpaths)
    displays = {scanpath.display.size for scanpath in scanpaths}
    size = None
    if len(displays) == 1:
        size = next(iter(displays))
    screen = "not known"
    if displays != {None}:
        screen = f"{len(displays)} different sizes"
    if size is not None:
        screen = f"{size[0]} × {size[1]} px"
    return {
        "fixations per path": f"{min(lengths)} to {max(lengths)}, mean {np.mean(lengths):.1f}",
        "durations": f"median {np.median(known):.0f} ms" if len(known) else "not known",
        "eye": ", ".join(sorted({scanpath.eye for scanpath in scanpaths})),
        "screen": screen,
        "off screen": outside,
        "fixations from": ", ".join(sorted({scanpath.provenance for scanpath in scanpaths})),
    }


def _pictures(scanpaths: Any) -> list[tuple[Any, str]]:
    from gaze.reports.figures import draw_path
    from gaze.scenes.scene import screen_of

    longest = sorted(scanpaths, key=len, reverse=True)[:2]
    return [
        (
            draw_path(screen_of(scanpath), scanpath.points, durations=scanpath.duration, title=scanpath.name),
            f"{len(scanpath)} fixations, numbered; circles as large as they are long",
        )
        for scanpath in longest
        if len(scanpath)
    ]
