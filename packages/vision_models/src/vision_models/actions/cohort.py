"""Which videos train, validate and test: features and annotations put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, counted, few
from core_runtime.options import AtLeast, options
from vision_models.actions.annotations import Action, Annotations, VideoTruth
from vision_models.actions.features import FeatureOptions, Features, Source, length_notes, read_features
from vision_models.actions.stored import StoredFeatures, keep_stored


@options
class SplitOptions:
    """Which videos train, validate and test.

    Attributes:
        split: given (the parts that the annotations state; THUMOS' validation videos train where it states no others), random (60, 15 and
            25 % of the videos); auto takes given where parts are stated.
        split_seed: of what is drawn: trainings with other seeds share one split.
    """

    split: Literal["auto", "given", "random"] = "auto"
    split_seed: Annotated[int, AtLeast(0)] = 0


@dataclass(frozen=True)
class Clip:
    """One video with its features and its actions.

    Attributes:
        name: of the video.
        stored: its features, which stay in their file.
        step: seconds of a snippet.
        seconds: length of the video.
        actions: in seconds.
        part: as the annotations state it.
    """

    name: str
    stored: StoredFeatures
    step: float
    seconds: float
    actions: tuple[Action, ...]
    part: str

    def read(self) -> Features:
        """All features, from the file."""
        return Features(self.stored[:], self.step, self.seconds)


@dataclass(frozen=True)
class Cohort:
    """Videos that have both features and annotations.

    Attributes:
        clips: by name.
        labels: in alphabetical order.
        backbone: what made the features, where the files say so.
        notes: what was left out and why, with counts.
    """

    clips: Mapping[str, Clip]
    labels: tuple[str, ...]
    backbone: str
    notes: tuple[str, ...]

    @property
    def channels(self) -> int:
        return next(iter(self.clips.values())).stored.shape[1]


@dataclass(frozen=True)
class Split:
    """Names of videos; no video is in two parts."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def gather(
    sources: Mapping[str, Source],
    annotations: Annotations,
    how: FeatureOptions = FeatureOptions(),
    *,
    channels: int | None = None,
    part: str = "all",
) -> Cohort:
    """Reads the features of every annotated video.

    Raises:
        UserError: no video has both; features cannot be used, or are made by several backbones.
    """
    videos = annotations.of_part(part)
    both = [video for video in videos if video.name in sources]
    if not both:
        raise UserError(
            f"no annotated video has features: annotations name {few([video.name for video in videos]) or 'none'}, "
            f"features {few(list(sources))}",
            "the names must be the same, but for 'v_' and the ending",
        )
    notes = list(annotations.notes)
    without = [video.name for video in videos if video.name not in sources]
    if without:
        notes.append(f"{counted(len(without), 'annotated video')} without features, left out: {few(without)}")
    known = set(annotations.videos)
    unknown = [name for name in sources if name not in known]
    if unknown:
        notes.append(f"{counted(len(unknown), 'file')} of features without annotation, left out: {few(unknown)}")
    clips: dict[str, Clip] = {}
    lengths: list[str] = []
    backbones: dict[str, str] = {}
    for video in both:
        source = sources[video.name]
        features = read_features(video.name, source, channels=channels)
        channels = features.values.shape[1]
        backbones.setdefault(features.backbone, video.name)
        step, seconds = _timed(features, video, how)
        lengths += [f"{video.name}: {note}" for note in length_notes(replace(features, step=step, seconds=seconds))]
        stored = keep_stored(video.name, source, features)
        clips[video.name] = Clip(video.name, stored, step, seconds, video.actions, video.part)
    if lengths:
        verb = "has" if len(lengths) == 1 else "have"
        notes.append(
            f"{counted(len(lengths), 'video')} of {len(both)} {verb} another length than stated: {'; '.join(lengths[:2])}"
        )
    if len(backbones) > 1:
        raise UserError(
            f"features were made by {len(backbones)} backbones, as those of {few(list(backbones.values()))}",
            "extract all with one",
        )
    found = {action.label for clip in clips.values() for action in clip.actions}
    return Cohort(clips, tuple(sorted(found)), next(iter(backbones)), tuple(notes))


def _timed(features: Features, video: VideoTruth, how: FeatureOptions) -> tuple[float, float]:
    """Seconds of a snippet and of the video: the option's, else the file's, else the annotations'.

    Raises:
        UserError: nothing states them, or actions lie behind the end of the features.
    """
    count = len(features.values)
    step, seconds = how.snippet_seconds or features.step, features.seconds or video.seconds
    if step is None and seconds is None:
        raise UserError(
            f"nothing says how long a snippet of {video.name} is: neither its features nor its annotations hold a time",
            "give --snippet-seconds",
        )
    if step is None:
        assert seconds is not None
        step = seconds / count
    covered = step * count
    if video.actions:
        begin = max(action.start for action in video.actions)
        if begin >= covered + step:
            raise UserError(
                f"{video.name}: an action begins at {begin:.1f} s, but its {count} snippets of {step:.3g} s end at {covered:.1f} s",
                "--snippet-seconds, or the frame rate that the features were made with, is wrong",
            )
    return step, seconds or covered


def split_clips(cohort: Cohort, how: SplitOptions = SplitOptions()) -> Split:
    """The parts of a cohort.

    Raises:
        UserError: parts that are not stated, or fewer than three videos with actions to train on and judge by.
    """
    names: dict[str, list[str]] = {"train": [], "val": [], "test": [], "": []}
    for name, clip in cohort.clips.items():
        names[clip.part].append(name)
    stated = bool(names["train"] or (names["val"] and names["test"]))
    kind = how.split
    if kind == "auto":
        kind = "given" if stated else "random"
    if kind == "given" and not stated:
        raise UserError("the annotations state no part to train on", "--split random makes a split")
    if kind == "random":
        return _random(list(cohort.clips), how.split_seed)
    train, val, test = names["train"], names["val"], names["test"]
    if not train:  # THUMOS: the training videos are cut to one action, so the validation videos train
        train, val = val, []
    if not test:  # ActivityNet: the labels of the test videos are kept
        test, val = val, []
    if not val:
        train, val = _cut(train, 0.15, how.split_seed)
    if not test:
        train, test = _cut(train, 0.2, how.split_seed + 1)
    return Split("given", tuple(train), tuple(val), tuple(test))


def _random(names: Sequence[str], seed: int) -> Split:
    rest, test = _cut(names, 0.25, seed)
    train, val = _cut(rest, 0.2, seed + 1)
    return Split("random", tuple(train), tuple(val), tuple(test))


def _cut(names: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Takes a share away, at least one of two."""
    if len(names) < 2:
        raise UserError(
            f"too few to split: {counted(len(names), 'video')}", "annotate more, or state the parts in a column subset"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(len(names) - 1, max(1, round(share * len(names))))
    taken = {int(number) for number in order[:count]}
    rest = [name for number, name in enumerate(names) if number not in taken]
    return rest, [names[number] for number in sorted(taken)]


def scale_of(clips: Sequence[Clip]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and spread of every channel over the snippets of some videos."""
    count = sum(len(clip.stored) for clip in clips)
    mean = sum(clip.stored[:].sum(0, dtype=np.float64) for clip in clips) / count
    square = sum(((clip.stored[:] - mean) ** 2).sum(0, dtype=np.float64) for clip in clips) / count
    spread = np.sqrt(np.maximum(square, 1e-12))
    spread[spread < 1e-5] = 1.0  # a constant channel stays as it is
    return np.asarray(mean, np.float32), np.asarray(spread, np.float32)


def overlap_with_training(names: Sequence[str], provenance: Mapping[str, Any]) -> str:
    """A sentence on how the videos relate to those that a model was made from."""
    record = provenance.get("videos")
    if not isinstance(record, Mapping):
        return "The model has no record of the videos that it was trained on: some of these may be among them."
    trained = set(record.get("train", ())) & set(names)
    tuned = set(record.get("val", ())) & set(names)
    if trained:
        return f"The model was trained on {len(trained)} of these {len(names)} videos: the figures are too good."
    if tuned:
        return f"{len(tuned)} of these {len(names)} videos selected the model's epoch and threshold; none trained it."
    return f"None of these {len(names)} videos trained the model or selected its epoch."
