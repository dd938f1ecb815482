"""Slices of several subjects in one folder (``Subj_3slice_12.png``) as one folder of links per subject."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from core_runtime.errors import UserError

PATTERN = re.compile(r"Subj_(\w+?)slice_(\d+)\.png", re.IGNORECASE)


def subject_folders(folder: Path) -> dict[str, Path]:
    """Subject → a folder of links to its slices, numbered in the order of the slices.

    Raises:
        UserError: no picture is named as the published code names them.
    """
    by_subject: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.png")):
        if match := PATTERN.fullmatch(path.name):
            by_subject.setdefault(match[1], []).append((int(match[2]), path))
    if not by_subject:
        raise UserError(
            f"{folder} holds no pictures named Subj_Xslice_Y.png", "or put volumes into images/ and labels/"
        )
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    base = Path(tempfile.gettempdir()) / f"medical-segmentation-{os.getuid()}-{digest}"
    folders = {}
    for subject, slices in by_subject.items():
        place = base / subject
        place.mkdir(parents=True, exist_ok=True)
        links = {f"slice_{number:05d}.png": path.resolve() for number, path in slices}
        for link in place.iterdir():
            # a slice that is gone since the last time is none of this subject's any more
            if link.name not in links or link.resolve() != links[link.name]:
                link.unlink(missing_ok=True)
        for name, path in links.items():
            if not (place / name).is_symlink():
                (place / name).symlink_to(path)
        folders[subject] = place
    return folders
