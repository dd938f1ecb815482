"""Features of a whole video, snippet by snippet: streamed, kept in parts on the way, so that a killed run goes on and memory does not grow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError
from core_runtime.folders import write_text, writing
from core_runtime.identity import identity, spelled
from core_runtime.terminal import progress
from core_runtime.videos import Video, open_video
from vision_models.actions.backbones import Backbone
from vision_models.actions.features import Features, Source, read_features, write_features

PART = 256  # snippets of a part: what a kill costs at most
_BATCH = 16  # snippets at once


def extract(path: Path, backbone: Backbone, cache: Path) -> Features:
    """The features of a video, from the cache where it holds them.

    Args:
        path: the video.
        backbone: what makes them.
        cache: the .npz file that keeps them; parts of unfinished work lie beside it.

    Raises:
        UserError: the video cannot be read, breaks off, or holds a single frame.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give a video")
    key = spelled({"video": identity(path), "backbone": json.loads(backbone.description)})
    record = cache.with_name(cache.name + ".key.json")
    if cache.is_file() and _same(record, key):
        with suppress(UserError):  # a damaged file of our own is made anew
            return read_features(path.stem, Source(cache))
    video = open_video(path)
    if video.rate is None:
        raise UserError(f"{path} holds a single frame", "an action takes time: give a video, not a picture")
    parts = cache.with_name(f".{cache.stem}.parts")
    if not _same(parts / "key.json", key):
        shutil.rmtree(parts, ignore_errors=True)
        write_text(parts / "key.json", json.dumps(key))
    done = _done(parts)
    try:
        _work(video, backbone, parts, done)
    except UserError:
        shutil.rmtree(parts, ignore_errors=True)
        raise
    values = np.concatenate([np.load(part) for part in _done(parts)])
    # the end of the last frame, as far as the grid of snippets tells it
    seconds = video.seconds or len(values) * backbone.step
    write_features(cache, values, step=backbone.step, seconds=seconds, backbone=backbone.description)
    write_text(record, json.dumps(key))
    shutil.rmtree(parts, ignore_errors=True)
    return Features(values, backbone.step, seconds, backbone.description)


def _same(record: Path, key: Any) -> bool:
    try:
        return json.loads(record.read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        return False


def _done(parts: Path) -> list[Path]:
    """The finished parts, in order, without a gap."""
    finished = []
    while (part := parts / f"{len(finished):06}.npy").is_file():
        finished.append(part)
    return finished


def _work(video: Video, backbone: Backbone, parts: Path, done: list[Path]) -> None:
    """Writes the parts that are missing."""
    snippets = sum(len(np.load(part, mmap_mode="r")) for part in done)
    if done and snippets < len(done) * PART:
        return  # the last part is shorter: it is the video's end
    number = len(done)
    total = None
    if video.seconds is not None:
        total = round(video.seconds * backbone.rate)
    values: list[NDArray[np.float32]] = []
    waiting: list[NDArray[np.uint8]] = []
    count = 0

    def write() -> None:
        nonlocal number, count
        with writing(parts / f"{number:06}.npy") as part, part.open("wb") as file:
            np.save(file, np.concatenate(values))
        values.clear()
        number, count = number + 1, 0

    with progress(f"Reading {video.path.name}", total) as bar:
        bar.advance(bar.task_ids[0], snippets)
        for clip in _clips(video, backbone, snippets):
            waiting.append(clip)
            bar.advance(bar.task_ids[0])
            if len(waiting) == min(_BATCH, PART - count):
                values.append(backbone.features(np.stack(waiting)))
                count += len(waiting)
                waiting.clear()
            if count == PART:
                write()
        if waiting:
            values.append(backbone.features(np.stack(waiting)))
        if values or not number:
            if not values:
                raise UserError(f"{video.path} is shorter than a snippet", "give a longer video, or a higher --rate")
            write()


def _clips(video: Video, backbone: Backbone, first: int) -> Iterator[NDArray[np.uint8]]:
    """(frames, size, size, 3) of each snippet from number `first` on, until the video ends; a last snippet of less than half is left out."""
    per_snippet = backbone.frames
    gap = backbone.step / per_snippet
    number = first * per_snippet  # of the next moment at which a frame is taken
    taken: list[NDArray[np.uint8]] = []
    shown: Any = None
    ending = 0.0
    previous = None
    for frame in video.frames((number + 0.5) * gap, size=(backbone.size, backbone.size)):
        while shown is not None and (number + 0.5) * gap < frame.seconds:
            taken.append(shown)
            number += 1
            if len(taken) == per_snippet:
                yield np.stack(taken)
                taken.clear()
        if previous is not None:
            ending = frame.seconds + (frame.seconds - previous)
        previous, shown = frame.seconds, frame.image
    # the last frame is shown until the stated end; where none is stated, for as long as the one before it
    if video.seconds is not None:
        ending = max(video.seconds, previous or 0.0)
    while shown is not None and (number + 0.5) * gap < ending:
        taken.append(shown)
        number += 1
        if len(taken) == per_snippet:
            yield np.stack(taken)
            taken.clear()
    if len(taken) * 2 >= per_snippet:
        yield np.stack([*taken, *[taken[-1]] * (per_snippet - len(taken))])
