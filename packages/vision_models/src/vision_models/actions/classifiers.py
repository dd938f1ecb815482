"""Scores of whole videos by a classifier from elsewhere (UntrimmedNet, CUHK): tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.arrays import DAMAGED
from core_runtime.errors import UserError, few
from core_runtime.tables import match_name, read_table
from vision_models.actions.annotations import plain_name

_HINT = "a table (video, then a column for each label), or JSON: video → label → score"


def read_scores(path: Path, videos: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Video → label → score.

    Args:
        path: .csv or .json; or THUMOS' uNet_test.npy, whose rows are the numbers of test videos and whose columns are UCF-101's classes.
        videos: that need scores.
        labels: of the annotations; scores of others are no use.

    Raises:
        UserError: it cannot be read, lacks videos, holds none of the labels, or values that are not numbers from 0 on.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", _HINT)
    if path.suffix.lower() == ".json":
        table = _from_json(path)
    elif path.suffix.lower() == ".npy":
        table = _from_thumos(path, videos, labels)
    else:
        table = _from_table(path)
    missing = [video for video in videos if video not in table]
    if missing:
        raise UserError(f"{path} has no scores of {len(missing)} of {len(videos)} videos: {few(missing)}", _HINT)
    stated = sorted({label for scores in table.values() for label in scores})
    matched = {label: match_name(label, stated) for label in labels}
    absent = [label for label, name in matched.items() if name is None]
    if absent:
        raise UserError(
            f"{path} scores other classes: it lacks {len(absent)} of {len(labels)} labels, among them {few(absent)}; "
            f"it has {few(stated)}",
            "the classifier must know the labels of the annotations",
        )
    result: dict[str, dict[str, float]] = {}
    for video in videos:
        own = {}
        for label, name in matched.items():
            value = table[video].get(str(name))
            if value is None or not np.isfinite(value) or value < 0:
                raise UserError(f"{path}: the score of {label} for {video} is {value}", "scores are numbers from 0 on")
            own[label] = float(value)
        result[video] = own
    return result


def _from_json(path: Path) -> dict[str, Mapping[str, float]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("results", content)
        table: dict[str, Mapping[str, float]] = {}
        for video, scores in content.items():
            if isinstance(scores, list):  # ActivityNet's results of classification
                scores = {entry["label"]: entry["score"] for entry in scores}
            table[plain_name(video)] = {str(label): float(score) for label, score in scores.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a file of scores", _HINT) from None
    return table


def _from_table(path: Path) -> dict[str, Mapping[str, float]]:
    rows = read_table(path)
    name_column = rows.column("video", "video name", "video id", "file")
    table: dict[str, Mapping[str, float]] = {}
    for row in rows:
        scores = {}
        for column in rows.columns:
            if column == name_column:
                continue
            value = rows.number(row, column)
            if value is not None:
                scores[column] = value
        table[plain_name(str(row[str(name_column)]))] = scores
    return table


# UCF-101's numbers of THUMOS' twenty labels, from its own tables of annotations
THUMOS_CLASSES = {
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}


def _from_thumos(path: Path, videos: Sequence[str], labels: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Row = number of the test video - 1, column = number of the class among UCF-101's - 1."""
    try:
        scores = np.load(path, allow_pickle=False)
    except DAMAGED:
        raise UserError(f"{path} is not an array of scores", _HINT) from None
    if scores.ndim != 2 or scores.shape[1] != 101:
        raise UserError(
            f"{path} holds an array of shape {scores.shape}", "only THUMOS' (test videos, 101) has no names"
        )
    table: dict[str, Mapping[str, float]] = {}
    for video in videos:
        number = video.rpartition("_")[2]
        if not video.startswith("video_test_") or not number.isdigit() or not 1 <= int(number) <= len(scores):
            raise UserError(f"{path} has rows for THUMOS' test videos; {video} is none", _HINT)
        row = scores[int(number) - 1]
        table[video] = {label: float(row[column - 1]) for label, column in THUMOS_CLASSES.items()}
    return table


def stated_labels(path: Path) -> list[str]:
    """All labels that a .csv or .json of scores knows.

    Raises:
        UserError: it cannot be read, or names none.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", _HINT)
    if path.suffix.lower() == ".npy":
        return sorted(THUMOS_CLASSES)
    table = _from_json(path) if path.suffix.lower() == ".json" else _from_table(path)
    labels = sorted({label for scores in table.values() for label in scores})
    if not labels:
        raise UserError(f"{path} names no label", _HINT)
    return labels
