"""What the verbs over many videos take: the files at a path, and the name of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.identity import is_own_output
from core_runtime.videos import KINDS, find_videos, open_video
from vision_models.actions.annotations import plain_name
from vision_models.actions.features import BESIDE

FEATURE_ENDINGS = (".npz", ".npy", ".csv")


def holds_features(path: Path) -> bool:
    """Whether a file holds features, by its ending; others are taken for videos."""
    return path.suffix.lower() in FEATURE_ENDINGS


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder, or those of the ``videos`` in it where it holds none itself, as `sample` writes them."""
    inside = folder / "videos"
    videos = find_videos(folder)
    if not videos and inside.is_dir():
        return find_videos(inside)
    return videos


def find_inputs(path: Path) -> list[Path]:
    """The videos at a path; the files of features where there is no video.

    Raises:
        UserError: there are none, or a single file that is neither.
    """
    if path.is_dir():
        inputs = videos_in(path) or _feature_files(path)
        if not inputs:
            raise UserError(f"{path} holds no video", f"videos are {KINDS}")
        return inputs
    if not holds_features(path):
        open_video(path)  # what cannot be used is said before a model is asked for
    elif not path.is_file():
        raise UserError(f"no such file: {path}", f"videos are {KINDS}")
    return [path]


def _feature_files(folder: Path) -> list[Path]:
    files = []
    for file in sorted(folder.iterdir()):
        usable = holds_features(file) and file.is_file() and not file.name.startswith(".")
        if usable and file.name not in BESIDE and not is_own_output(file):
            files.append(file)
    return files


def name_videos(inputs: Sequence[Path]) -> list[str]:
    """The name of each video, by which features, annotations, scores and results know it.

    Raises:
        UserError: two have one name, also where capitals do not count.
    """
    names: dict[str, Path] = {}
    for path in inputs:
        name = plain_name(path.name)
        other = names.setdefault(name.casefold(), path)
        if other != path:
            raise UserError(
                f"{path.parent} holds two videos called {name!r}: {other.name} and {path.name}",
                "results go by the name without its ending: rename one",
            )
    return [plain_name(path.name) for path in inputs]
