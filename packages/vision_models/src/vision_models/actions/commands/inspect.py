"""``vision-models actions inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.errors import UserError, counted, few
from core_runtime.findings import Findings, FolderFindings, examine_files
from core_runtime.videos import open_video
from vision_models.actions.annotations import annotations_in
from vision_models.actions.inputs import videos_in


def inspect(path: Path, /) -> Findings | FolderFindings:
    """Reports what a video, a folder of videos, features or a file of annotations holds, and what to do next.

    Example: vision-models actions inspect match.mp4

    Args:
        path: a video, a folder, features (.npz, .npy, .h5), or annotations (.json, .csv).
    """
    if path.is_dir():
        videos = videos_in(path)
        if not videos:
            return _features(path)
        return _videos_and_annotations(path, videos)
    ending = path.suffix.lower()
    if ending in (".json", ".csv") and path.is_file():
        try:
            return _annotations(path)
        except UserError:
            if ending == ".json" or "features" not in str(path):
                raise
    if ending in (".npz", ".npy", ".h5", ".hdf5", ".csv"):
        return _features(path)
    return examine(path)


def _videos_and_annotations(folder: Path, videos: Sequence[Path]) -> FolderFindings:
    """What the videos of a folder hold, and the annotations that lie with them."""
    found = examine_files(folder, videos, examine)
    file = annotations_in(folder)
    if file is None:
        return found
    try:
        return replace(found, findings=[*found.findings, _annotations(file)])
    except UserError as error:
        return replace(found, unreadable={**found.unreadable, file.name: error.message})


def glance(path: Path) -> Findings:
    """The first look of ``attention-suite try``."""
    if path.is_dir():
        videos = videos_in(path)
        if not videos:
            raise UserError(f"{path} holds no video")
        path = videos[0]
    return examine(path, pictures=True)


def examine(path: Path, *, pictures: bool = False) -> Findings:
    """Examines a video.

    Raises:
        UserError: it cannot be used.
    """
    video = open_video(path)
    warnings = list(video.notes)
    usable = video.rate is not None
    if not usable:
        warnings.append("it holds a single frame: an action takes time")
    details: dict[str, Any] = {
        "size": f"{video.width} × {video.height} pixels",
        "length": "not stated" if video.seconds is None else f"{video.seconds:.1f} seconds",
        "frames per second": "–" if video.rate is None else f"{video.rate:.4g}",
        "coding": video.codec,
    }
    drawn = []
    if pictures:
        drawn.append((_motion_picture(path, video), "Its frames, and how much moves in each quarter of a second."))
    shown = quote(str(path))
    return Findings(
        title=path.name,
        kind="video",
        summary=f"{details['size']}, {details['length']}",
        usable=usable,
        details=details,
        warnings=warnings,
        next_commands=[f"vision-models actions predict {shown} --model run/model"] if usable else [],
        pictures=drawn,
    )


def _motion_picture(path: Path, video: Any) -> Any:
    """Thumbnails above the motion of the first minutes."""
    import numpy as np

    from vision_models.actions.annotations import ANY
    from vision_models.actions.backbones import MOVING, motion_features
    from vision_models.actions.reports.timeline import draw_timeline, thumbnails
    from vision_models.actions.results import Segment

    limit = min(video.seconds or 60.0, 60.0)
    step = 0.25
    moments = np.arange(0, limit, step / 2)
    frames = [frame.image for frame in video.frames_at(moments.tolist(), size=(64, 64))]
    pairs = len(frames) // 2
    clips = np.stack(frames[: 2 * pairs]).reshape(pairs, 2, 64, 64, 3)
    energy = motion_features(clips)[:, MOVING]
    strength = energy / max(float(energy.max()), 1e-6)
    bars = [Segment(n * step, (n + 1) * step, ANY, float(value)) for n, value in enumerate(strength)]
    return draw_timeline(
        thumbnails(video, limit), limit, (), (), others=(("motion", bars),), title=f"{path.name}: where something moves"
    )


def _features(path: Path) -> Findings:
    from vision_models.actions.features import find_features, read_features, widths

    sources = find_features(path)
    channels = widths(sources)
    lengths, problems = [], {}
    for name, source in sources.items():
        try:
            lengths.append(len(read_features(name, source, channels=channels).values))
        except UserError as error:
            problems[name] = error.message
    warnings = []
    if problems:
        warnings.append(f"{len(problems)} of {len(sources)} cannot be used: {next(iter(problems.values()))}")
    details = {
        "videos": len(sources),
        "channels": channels,
        "snippets": f"{min(lengths)} to {max(lengths)}" if lengths else "–",
        "names": few(list(sources)),
    }
    return Findings(
        title=path.name,
        kind="snippet features",
        summary=f"{counted(len(sources), 'video')} of {counted(channels, 'channel')}",
        usable=bool(lengths),
        details=details,
        data={"problems": problems},
        warnings=warnings,
        next_commands=[f"vision-models actions train {quote(str(path))} --annotations FILE --out run"],
    )


def _annotations(path: Path) -> Findings:
    from vision_models.actions.annotations import AnnotationOptions, label_counts, read_annotations

    try:
        truth = read_annotations(path)
        usable, problem = True, ""
    except UserError as error:
        # what can be used beside the segments that cannot; other faults are raised here again
        truth = read_annotations(path, AnnotationOptions(drop_bad=True))
        usable, problem = False, error.message
    videos = list(truth.videos.values())
    lengths = sorted(action.end - action.start for video in videos for action in video.actions)
    parts: dict[str, int] = {}
    for video in videos:
        parts[video.part or "not stated"] = parts.get(video.part or "not stated", 0) + 1
    counts = label_counts(videos)
    commonest = sorted(counts.items(), key=lambda entry: -entry[1])[:5]
    details = {
        "videos": len(videos),
        "actions": len(lengths),
        "labels": f"{len(counts)}: " + ", ".join(f"{label} {count}" for label, count in commonest),
        "length of an action": f"{lengths[0]:.1f} to {lengths[-1]:.1f} s, half below {lengths[len(lengths) // 2]:.1f} s",
        "parts": parts,
    }
    warnings = list(truth.notes)
    if problem:
        warnings.insert(0, problem)
    return Findings(
        title=path.name,
        kind=f"annotations of actions ({truth.kind})",
        summary=f"{counted(len(lengths), 'action')} of {counted(len(counts), 'label')} in {counted(len(videos), 'video')}",
        usable=usable,
        details=details,
        data={"by_label": counts},
        warnings=warnings,
        next_commands=[f"vision-models actions train FEATURES --annotations {quote(str(path))} --out run"],
    )
