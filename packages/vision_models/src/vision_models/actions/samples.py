"""Made videos: shapes that do named things at planted times, among others that merely pass by; as MP4 with annotations in two formats."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from core_runtime.folders import write_text, writing
from core_runtime.identity import begun, refuse_foreign_folder
from core_runtime.options import Above, AtLeast, options

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("bounce", "flash", "grow", "spin")
HEIGHT, WIDTH = 72, 96


@options
class SampleOptions:
    """How many videos are drawn.

    Attributes:
        videos: how many; a third tests, a sixth validates.
        seconds: length of each.
        rate: frames per second.
    """

    videos: Annotated[int, AtLeast(6)] = 12
    seconds: Annotated[float, Above(5)] = 30.0
    rate: Annotated[int, AtLeast(4)] = 12


@dataclass(frozen=True)
class Planted:
    """One action of a made video, in seconds."""

    start: float
    end: float
    label: str


def make_samples(
    out: Path, how: SampleOptions = SampleOptions(), *, seed: int = 0, overwrite: bool = False
) -> dict[str, Path]:
    """Writes ``videos/*.mp4``, ``annotations.json`` (ActivityNet) and ``annotations.csv`` (a plain table).

    Returns:
        The paths by what they are.
    """
    import numpy as np

    from core_runtime.videos import need_pyav, write_video

    need_pyav()
    refuse_foreign_folder(out, [], overwrite=overwrite)
    key = {"videos": how.videos, "seconds": how.seconds, "rate": how.rate, "seed": seed}
    database: dict[str, Any] = {}
    with begun(out, key), writing(out) as part:
        part.mkdir()
        for number in range(how.videos):
            rng = np.random.default_rng([seed, number])
            name = f"shapes_{number + 1:03}"
            planted = plant(rng, how.seconds)
            write_video(
                part / "videos" / f"{name}.mp4", draw(rng, planted, how.seconds, how.rate), how.rate, quality=26
            )
            annotations = [{"segment": [each.start, each.end], "label": each.label} for each in planted]
            subset = _subset(number, how.videos)
            database[name] = {"subset": subset, "duration": how.seconds, "annotations": annotations}
        described = {"version": "made by attention-suite", "taxonomy": [], "database": database}
        write_text(part / "annotations.json", json.dumps(described, indent=1) + "\n")
        write_text(part / "annotations.csv", _table(database))
    return {"videos": out / "videos", "json": out / "annotations.json", "table": out / "annotations.csv"}


def _subset(number: int, videos: int) -> str:
    tested = max(2, videos // 3)
    validated = max(1, videos // 6)
    if number >= videos - tested:
        return "testing"
    if number >= videos - tested - validated:
        return "validation"
    return "training"


def _table(database: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start", "end", "label", "subset", "duration"])
    for name, entry in database.items():
        for annotation in entry["annotations"]:
            writer.writerow([name, *annotation["segment"], annotation["label"], entry["subset"], entry["duration"]])
    return text.getvalue()


def plant(rng: Any, seconds: float) -> list[Planted]:
    """Actions of 1.5 to 5 seconds with pauses between."""
    planted = []
    moment = float(rng.uniform(1, 4))
    while True:
        length = float(rng.uniform(1.5, 5))
        if moment + length > seconds - 0.5:
            return planted
        label = LABELS[int(rng.integers(len(LABELS)))]
        planted.append(Planted(round(moment, 2), round(moment + length, 2), label))
        moment += length + float(rng.uniform(1.5, 5))


def draw(rng: Any, planted: list[Planted], seconds: float, rate: float) -> Any:
    """Frames (height, width, 3): a shape at rest that acts at the planted times, and squares that pass by in between."""
    import numpy as np

    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    ground, colour = rng.uniform(30, 90, 3), rng.uniform(150, 250, 3)
    passing = rng.uniform(120, 230, 3)
    home = rng.uniform([WIDTH * 0.3, HEIGHT * 0.4], [WIDTH * 0.7, HEIGHT * 0.6])
    # what passes by moves as much as an action and for as long, but does nothing
    passes = np.sort(rng.uniform(-1, seconds, max(3, int(seconds / 4))))
    lanes, crossing = rng.uniform(14, HEIGHT - 14, len(passes)), rng.uniform(1.5, 4.0, len(passes))
    sizes, ways = rng.uniform(8, 15, len(passes)), rng.choice([-1, 1], len(passes))
    for number in range(round(seconds * rate)):
        moment = number / rate
        acting = next((each for each in planted if each.start <= moment < each.end), None)
        image = np.broadcast_to(ground, (HEIGHT, WIDTH, 3)).astype(np.float32)
        for begin, lane, length, size, way in zip(passes, lanes, crossing, sizes, ways, strict=True):
            place = WIDTH / 2 + way * ((moment - begin) / length - 0.5) * (WIDTH + 2 * size)
            if begin <= moment < begin + length:
                image[(abs(x - place) < size) & (abs(y - lane) < size)] = passing
        shape = _shape(x, y, home, acting, moment)
        tone = colour
        if acting is not None and acting.label == "flash":
            tone = colour * (0.45 if int(moment * 6) % 2 else 1.0)
        image = image + shape[..., None] * (tone - image)
        image += rng.normal(0, 3, image.shape)
        yield np.clip(image, 0, 255).astype(np.uint8)


def _shape(x: Any, y: Any, home: NDArray[Any], acting: Planted | None, moment: float) -> NDArray[Any]:
    """Coverage of the acting shape: a thick bar, moved, turned or grown by what it does."""
    import numpy as np

    angle, scale, lift = 0.4, 1.0, 0.0
    if acting is not None:
        phase = moment - acting.start
        if acting.label == "spin":
            angle += 5 * phase
        elif acting.label == "grow":
            scale += 0.7 * np.sin(np.pi * 0.8 * phase) ** 2
        elif acting.label == "bounce":
            lift = 20 * abs(np.sin(np.pi * 0.9 * phase))
    u = (x - home[0]) * np.cos(angle) + (y - home[1] + lift) * np.sin(angle)
    v = -(x - home[0]) * np.sin(angle) + (y - home[1] + lift) * np.cos(angle)
    edge = np.maximum(abs(u) - 17 * scale, abs(v) - 7 * scale)
    return np.clip(0.5 - edge, 0, 1)
