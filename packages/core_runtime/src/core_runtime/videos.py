"""Videos, frame by frame and by their own times: any container that FFmpeg reads, upright, in memory that does not grow with the length.

Needs PyAV and NumPy (``attention-suite-core-runtime[videos]``). Frames are placed by their time stamps, never by a stated frame rate, which may be
missing, or an average of a variable one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.errors import UserError, clean, counted, few
from core_runtime.folders import leave_out_broken_links, writing
from core_runtime.identity import is_own_output
from core_runtime.terminal import warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)
KINDS = "MP4, MOV, MKV, WebM, AVI, MPEG and others that FFmpeg reads"
_REPAIR = "repair or export it again, for instance 'ffmpeg -i IN -c copy OUT'"
_ONE_THREAD = "threads=1:mbtree=0:rc-lookahead=0:sync-lookahead=0"  # x264 with a look ahead depends on timing
_LOOKED_AT = 64  # frames from which rate and rotation are told
_LONGEST_SIDE = 16384  # pixels; beyond it a file is a mistake or an attack


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        seconds: since the first frame.
        image: (height, width, 3) 8-bit RGB, upright.
    """

    seconds: float
    image: NDArray[Any]


@dataclass(frozen=True)
class Video:
    """What a video file says of itself, and what its first frames say.

    Attributes:
        path: the file.
        width, height: upright, in pixels.
        seconds: its length as stated; None where it is not stated.
        rate: frames per second, by the times of its first frames; None for a single frame.
        stated_rate: as the file states it; None where it does not.
        codec: name of the coding.
        rotation: degrees by which frames are turned to stand upright.
        notes: what is unusual, for the user.
    """

    path: Path
    width: int
    height: int
    seconds: float | None
    rate: float | None
    stated_rate: float | None
    codec: str
    rotation: int
    notes: tuple[str, ...] = ()

    def frames(self, start: float = 0.0, *, size: tuple[int, int] | None = None) -> Iterator[Frame]:
        """Frames in order, from the one shown at `start` seconds on.

        Args:
            start: seconds since the first frame.
            size: (width, height) to scale to, upright; quicker than to scale afterwards.

        Raises:
            UserError: the file breaks off or is damaged on the way; the place is named.
        """
        for seconds, frame in _decode(self.path, start, self.seconds):
            yield Frame(seconds, _upright(frame, size))

    def frames_at(self, times: Sequence[float], *, size: tuple[int, int] | None = None) -> Iterator[Frame]:
        """The frame that is shown at each of these ascending times; the last one also for times behind the end."""
        if not len(times):
            return
        shown: tuple[float, Any] | None = None
        place = 0
        for seconds, frame in _decode(self.path, times[0], self.seconds):
            # frames before this one's time show the one before
            while shown is not None and place < len(times) and times[place] < seconds:
                yield Frame(shown[0], _upright(shown[1], size))
                place += 1
            if place == len(times):
                return
            shown = seconds, frame
        while shown is not None and place < len(times):
            yield Frame(shown[0], _upright(shown[1], size))
            place += 1


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder by name, without its subfolders and our own outputs; there may be none.

    Hidden files, among them the ``._NAME.mp4`` that macOS leaves on other disks, and links to files that are not there are left out, which a
    warning says with their number.
    """
    listed, hidden = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in ENDINGS or is_own_output(path):
            continue
        if path.name.startswith("."):
            hidden.append(path.name)
        else:
            listed.append(path)
    if hidden:
        warn(f"{folder}: {counted(len(hidden), 'hidden file')} left out: {few(hidden)}")
    return leave_out_broken_links(folder, listed)


def open_video(path: Path) -> Video:
    """Opens a video and looks at its first frames.

    Raises:
        UserError: absent, not a video, without a video stream (audio alone), damaged, or without a frame.
    """
    av = need_pyav()
    if not path.is_file():
        raise UserError(f"no such file: {path}", f"videos are {KINDS}")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty", "the copy or download did not finish")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(_without_video(path, container), "an action is seen: give a file with a video stream")
            stream = container.streams.video[0]
            if max(stream.width, stream.height) > _LONGEST_SIDE:
                raise UserError(f"{path}: its frames are {stream.width} × {stream.height}", "scale it down")
            if not stream.width or not stream.height:
                raise UserError(f"{path}: its video stream states no size of a frame", _REPAIR)
            seconds, stated = _stated_seconds(container, stream), _rate(stream)
            codec = stream.codec_context.name
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a video: {_why(error)}", f"{_REPAIR}; videos are {KINDS}") from None
    times: list[float] = []
    rotation, size, timeless = 0, (0, 0), False
    for moment, frame in _decode(path, 0.0, None):
        if not times:
            rotation = int(getattr(frame, "rotation", 0) or 0) % 360
            size = (frame.width, frame.height)
            timeless = frame.pts is None
        times.append(moment)
        if len(times) == _LOOKED_AT:
            break
    if not times:
        raise UserError(f"{path} holds no frame that can be read", _REPAIR)
    if rotation in (90, 270):
        size = size[::-1]
    rate, notes = _rate_of(times, stated)
    if timeless:
        notes.append(
            f"its frames have no times: they are taken to come at {stated:.4g} per second; if that is wrong, "
            "'ffmpeg -r RATE -i IN -c copy OUT.mp4' gives them times"
        )
    if rotation:
        notes.append(f"its frames lie turned and are shown upright ({rotation}°)")
    width, height = size
    return Video(path, width, height, seconds, rate, stated, codec, rotation, tuple(notes))


def write_video(path: Path, frames: Iterable[NDArray[Any]], rate: float, *, quality: int = 23) -> Path:
    """Writes RGB frames (height, width, 3) as MP4 (H.264), whole or not at all; odd sides lose a pixel.

    Args:
        path: ends in .mp4.
        frames: all of one size.
        rate: frames per second.
        quality: H.264's constant rate factor; lower is better and larger.
    """
    av = need_pyav()
    with writing(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream: Any = None
        for image in frames:
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                # one thread, so that the same frames become the same file
                stream.options = {"crf": str(quality), "preset": "veryfast", "x264-params": _ONE_THREAD}
                stream.codec_context.thread_count = 1
            frame = av.VideoFrame.from_ndarray(image[:height, :width].copy(), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        if stream is None:
            raise UserError(f"{path}: there is no frame to write")
        for packet in stream.encode():
            container.mux(packet)
    return path


def need_pyav() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise UserError(
            "reading videos needs PyAV, which is not installed",
            "pip install 'attention-suite-core-runtime[videos]' (or pip install av)",
        ) from None
    av.logging.set_level(av.logging.PANIC)  # FFmpeg writes to standard error on its own; what matters comes as an error
    return av


def _decode(path: Path, start: float, stated: float | None) -> Iterator[tuple[float, Any]]:
    """(seconds since the first frame, frame), from the one shown at `start` on; checks that the stated length is reached."""
    av = need_pyav()
    last, ending = None, 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = stream.time_base
            rate = _rate(stream)
            origin = _origin(stream)
            if start > 1 and origin is not None:
                # the key frame before it; what lies between is decoded and passed over
                container.seek(int(origin + (start - 0.5) / base), stream=stream)
            before: tuple[float, Any] | None = None
            number = 0
            for frame in container.decode(stream):
                if frame.pts is None or base is None:
                    if not rate:
                        raise UserError(f"{path}: its frames have no times, and it states no frame rate", _REPAIR)
                    seconds = number / rate
                else:
                    if origin is None:
                        origin = frame.pts
                    seconds = float((frame.pts - origin) * base)
                number += 1
                if last is not None and seconds < last:
                    continue  # damaged files hold times that go back
                last = seconds
                length = 1 / rate if rate else 0.0
                if frame.duration and base is not None:
                    length = float(frame.duration * base)
                ending = seconds + length
                if seconds <= start:
                    before = seconds, frame
                    continue
                if before is not None:
                    yield before
                    before = None
                yield seconds, frame
            if before is not None:
                yield before
    except (av.error.FFmpegError, ValueError) as error:
        place = "at its beginning" if last is None else f"at {last:.1f} s"
        raise UserError(f"{path} is damaged {place}: {_why(error)}", _REPAIR) from None
    if stated is not None and last is not None and stated - ending > max(1.0, 0.02 * stated):
        raise UserError(f"{path} breaks off at {ending:.1f} s of {stated:.1f} s", f"copy it again, or {_REPAIR}")


def _origin(stream: Any) -> int | None:
    return stream.start_time


def _upright(frame: Any, size: tuple[int, int] | None) -> NDArray[Any]:
    import numpy as np

    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    if size is not None:
        width, height = size[::-1] if turns % 2 else size
        frame = frame.reformat(width=width, height=height)
    image = frame.to_ndarray(format="rgb24")
    # FFmpeg states by how much a frame is to be turned against the clock
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _stated_seconds(container: Any, stream: Any) -> float | None:
    """The stated length of the video; that of the container only where nothing else can be longer."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return None


def _rate(stream: Any) -> float | None:
    for stated in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if stated:
            return float(stated)
    return None


def _rate_of(times: Sequence[float], stated: float | None) -> tuple[float | None, list[str]]:
    """Frames per second by their times, and what is unusual about them."""
    gaps = [after - before for before, after in pairwise(times) if after > before]
    notes = []
    if not gaps:
        return None, notes
    middle = statistics.median(gaps)
    rate = 1 / middle
    if max(gaps) > 1.5 * middle or min(gaps) < middle / 1.5:
        notes.append("its frame rate is variable: frames are taken by their times")
    elif stated is None:
        notes.append(f"it states no frame rate; by their times its frames come at {rate:.4g} per second")
    elif abs(rate - stated) > 0.1 * stated:
        notes.append(f"it states {stated:.4g} frames per second; by their times they come at {rate:.4g}, which is used")
    return rate, notes


def _without_video(path: Path, container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    if kinds == ["audio"]:
        return f"{path} holds audio alone"
    return f"{path} has no video stream ({', '.join(kinds) or 'it has no stream at all'})"


def _why(error: Exception) -> str:
    """FFmpeg's reason, without its number and the path."""
    reason = getattr(error, "strerror", None) or str(error)
    return clean(str(reason))[:120]
