"""What happens in which video, and when: ActivityNet's JSON, THUMOS' and users' own tables, as one set of annotations."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from core_runtime.errors import UserError, counted, few
from core_runtime.options import options
from core_runtime.tables import read_table
from core_runtime.videos import ENDINGS as VIDEO_ENDINGS

AMBIGUOUS = "Ambiguous"  # THUMOS' mark of segments that belong to no class and count neither way
ANY = "action"  # the label of annotations that name no class
NAMES = ("annotations.json", "annotations.csv")  # of the file, where only its folder is given
PARTS = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "testing": "test",
    "test": "test",
}
_HINT = "ActivityNet's JSON, or a table with the columns video, start, end and label"
_ENDINGS = (*VIDEO_ENDINGS, ".npy", ".npz", ".csv", ".h5", ".hdf5")
_SLACK = 0.5  # seconds by which a segment may outlast its video: durations are rounded


@options
class AnnotationOptions:
    """How annotations are read.

    Attributes:
        drop_bad: leave segments out that end before they begin or lie outside their video, instead of stopping there.
    """

    drop_bad: bool = False


class Action(NamedTuple):
    """One action: start and end in seconds, and what it is."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class VideoTruth:
    """What is known of a video.

    Attributes:
        name: without "v_" and without ending.
        seconds: its length; None where no file states it.
        part: train, val, test, or "" where it is not stated.
        actions: in the order of their starts.
    """

    name: str
    seconds: float | None
    part: str
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Annotations:
    """The annotations of a set of videos.

    Attributes:
        path: the file.
        kind: what it is.
        videos: name → what is known of it.
        labels: in alphabetical order.
        notes: what was changed or is unusual, with counts.
        duplicates: actions that were stated twice, and count once.
    """

    path: Path
    kind: str
    videos: Mapping[str, VideoTruth]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    duplicates: int = 0

    def of_part(self, part: str) -> list[VideoTruth]:
        """The videos of a part; all for "all"."""
        return [video for video in self.videos.values() if part in ("all", video.part)]


@dataclass
class _Raw:
    """A video as a file states it, unchecked."""

    seconds: float | None = None
    part: str = ""
    actions: list[Action] = field(default_factory=list)


def plain_name(name: str) -> str:
    """The name by which a video is known to every file: without "v_", which ActivityNet's features and lists have, and its ending."""
    base = Path(name.strip()).name
    while (ending := Path(base).suffix).lower() in _ENDINGS:
        base = base.removesuffix(ending)
    return base.removeprefix("v_")


def annotations_in(folder: Path) -> Path | None:
    """The file of annotations that lies in a folder under its usual name."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    return None


def read_annotations(path: Path, how: AnnotationOptions = AnnotationOptions()) -> Annotations:
    """Reads a file of annotations.

    Raises:
        UserError: it cannot be read or is none; it holds segments that no video can have, each kind with its number and an example.
    """
    if path.is_dir():
        inside = annotations_in(path)
        if inside is None:
            raise UserError(f"{path} is a folder without {' or '.join(NAMES)}", _HINT)
        path = inside
    if not path.is_file():
        raise UserError(f"no such file: {path}", f"annotations are {_HINT}")
    if path.suffix.lower() == ".json":
        kind, raw = _read_json(path)
        notes: list[str] = []
    else:
        kind, raw, notes = _read_table(path, how)
    if not any(video.actions for video in raw.values()):
        raise UserError(f"{path} holds no action", _HINT)
    return _checked(path, kind, raw, notes, how)


def _read_json(path: Path) -> tuple[str, dict[str, _Raw]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON: {str(error)[:100]}", _HINT) from None
    kind, database = "ActivityNet's JSON", content
    if isinstance(content, Mapping) and isinstance(content.get("database"), Mapping):
        database = content["database"]
    if not isinstance(database, Mapping) or not all(isinstance(entry, Mapping) for entry in database.values()):
        raise UserError(f"{path}: expected an object of videos under 'database'", _HINT)
    raw = {}
    for name, entry in database.items():
        where = f"{path}: {name}"
        seconds = entry.get("duration", entry.get("duration_second"))
        video = _Raw(_number(seconds, where) if seconds is not None else None, _part(entry.get("subset")))
        stated = entry.get("annotations")
        if not isinstance(stated, Sequence) or isinstance(stated, str):
            raise UserError(f"{where} has no list of annotations", _HINT)
        for annotation in stated:
            try:
                start, end = annotation["segment"]
                label = annotation.get("label", ANY)
            except (TypeError, KeyError, ValueError, AttributeError):
                raise UserError(f"{where}: {str(annotation)[:80]} is not a segment with a label", _HINT) from None
            video.actions.append(Action(_number(start, where), _number(end, where), str(label)))
        raw[name] = video
    return kind, raw


def _number(value: Any, where: str) -> float:
    """A time; THUMOS' JSON holds them as text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: {value!r:.40} is not a time in seconds", _HINT)
    return number


def _part(stated: Any) -> str:
    return PARTS.get(str(stated or "").lower(), "")


def _read_table(path: Path, how: AnnotationOptions) -> tuple[str, dict[str, _Raw], list[str]]:
    table = read_table(path)
    name_column = table.column("video", "video name", "video id", "file", "name")
    start_column = table.column("start", "t-start", "t-init", "begin", "onset", "start seconds")
    end_column = table.column("end", "t-end", "stop", "offset", "end seconds")
    label_column = table.column("label", "type", "class", "action", "label-idx", required=False)
    seconds_column = table.column("seconds", "duration", "video-duration", "video seconds", required=False)
    part_column = table.column("subset", "part", "split", required=False)
    assert name_column is not None
    assert start_column is not None
    assert end_column is not None
    kind = "a table of actions"
    if "type_idx" in table.columns or "label-idx" in table.columns:
        kind = "THUMOS' table"
    raw: dict[str, _Raw] = {}
    two_lengths: dict[str, str] = {}
    without_end: list[str] = []
    without_label: list[str] = []
    for row in table:
        name = row[name_column]
        if name is None:
            table.leave_out(row, "without a video")
            continue
        video = raw.setdefault(name, _Raw())
        seconds = None if seconds_column is None else table.number(row, seconds_column)
        if seconds is not None:
            if video.seconds is not None and abs(seconds - video.seconds) > _SLACK:
                two_lengths.setdefault(name, f"{name} {video.seconds:g} and {seconds:g} s")
            video.seconds = max(seconds, video.seconds or 0.0)
        part = "" if part_column is None else _part(row[part_column])
        if part and video.part and part != video.part:
            raise UserError(
                f"{path}, line {row.line}: {name} is a {part} video here and a {video.part} video before",
                "a video is in one part",
            )
        video.part = part or video.part
        start, end = table.number(row, start_column), table.number(row, end_column)
        label = (row.get(label_column) if label_column else None) or ""
        if start is None and end is None and not label:
            continue  # a video without an action, listed for its length
        if start is None or end is None:
            without_end.append(f"{name} {label or ANY}")
            table.leave_out(row, "without a start or an end")
            continue
        if label_column and not label:
            without_label.append(f"{name} {start:g} to {end:g} s")
            table.leave_out(row, "without a label")
            continue
        label = label or ANY
        if label == "-1":  # THUMOS' list of proposals
            label = ANY
        if label == AMBIGUOUS and kind == "THUMOS' table":
            table.leave_out(row, "marked as ambiguous")
            continue
        video.actions.append(Action(start, end, label))
    for shown, what in ((without_end, "without a start or an end"), (without_label, "without a label")):
        if shown and not how.drop_bad:
            raise UserError(
                f"{path}: {counted(len(shown), 'segment')} {what}: {few(shown)}",
                "correct the file, or leave such segments out with --drop-bad",
            )
    notes = list(table.notes)
    if two_lengths:
        stated = few(list(two_lengths.values()))
        notes.append(f"{counted(len(two_lengths), 'video')} with two lengths, the longer one counts: {stated}")
    if table.left_out:
        notes.append(table.account())
    return kind, raw, notes


def _checked(path: Path, kind: str, raw: Mapping[str, _Raw], notes: list[str], how: AnnotationOptions) -> Annotations:
    """The annotations without duplicates; segments that no video can have are named."""
    backwards: list[str] = []
    outside: list[str] = []
    clipped = duplicates = overlapping = 0
    videos: dict[str, VideoTruth] = {}
    for stated_name, video in raw.items():
        name = plain_name(stated_name)
        if name in videos:
            raise UserError(f"{path}: two entries are about the video {name!r}", "give each video one entry")
        if video.seconds is not None and video.seconds <= 0:
            raise UserError(f"{path}: {stated_name} is {video.seconds:g} seconds long", "state its length in seconds")
        actions: list[Action] = []
        for action in dict.fromkeys(video.actions):
            shown = f"{stated_name} {action.start:g} to {action.end:g} s"
            limit = math.inf if video.seconds is None else video.seconds
            if action.end <= action.start:
                backwards.append(shown)
                continue
            if action.start >= limit or action.end <= 0:
                outside.append(shown)
                continue
            if action.start < 0 or action.end > limit:
                clipped += action.start < -_SLACK or action.end > limit + _SLACK
                action = Action(max(0.0, action.start), min(limit, action.end), action.label)
            actions.append(action)
        duplicates += len(video.actions) - len(set(video.actions))
        actions.sort()
        overlapping += _overlaps(actions)
        videos[name] = VideoTruth(name, video.seconds, video.part, tuple(actions))
    for shown, what in ((backwards, "whose end is not after its start"), (outside, "outside the video")):
        if shown and not how.drop_bad:
            raise UserError(
                f"{path}: {counted(len(shown), 'segment')} {what}: {few(shown)}",
                "correct the file, or leave such segments out with --drop-bad",
            )
        if shown:
            notes.append(f"{counted(len(shown), 'segment')} {what}, left out: {few(shown)}")
    if duplicates:
        notes.append(f"{counted(duplicates, 'action')} stated twice, counted once")
    if clipped:
        notes.append(f"{counted(clipped, 'action')} cut at the end of the video")
    if overlapping:
        notes.append(f"{counted(overlapping, 'action')} overlapping another one of the same label")
    found = {action.label for video in videos.values() for action in video.actions}
    return Annotations(path, kind, videos, tuple(sorted(found)), tuple(notes), duplicates)


def _overlaps(actions: Sequence[Action]) -> int:
    """How many actions begin before one of their label has ended; they are in the order of their starts."""
    ends: dict[str, float] = {}
    count = 0
    for action in actions:
        if action.start < ends.get(action.label, -math.inf):
            count += 1
        ends[action.label] = max(action.end, ends.get(action.label, -math.inf))
    return count


def label_counts(videos: Iterable[VideoTruth]) -> dict[str, int]:
    """Actions by label."""
    counts = Counter(action.label for video in videos for action in video.actions)
    return dict(sorted(counts.items()))
