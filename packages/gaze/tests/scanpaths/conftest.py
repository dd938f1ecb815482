"""One search in every format: what the readers must agree on."""

import json
from pathlib import Path

import numpy as np
import pytest

from gaze.scanpaths.scanpath import Display, Scanpath

SHARED = Path(__file__).parents[5] / "shared" / "data" / "oat"


@pytest.fixture
def real() -> Path:
    """The shared recordings."""
    if not SHARED.is_dir():
        pytest.skip("the shared recordings (shared/data/oat) are not here")
    return SHARED


def make_scanpath(
    stimulus: str = "shelf.png", subject: str = "s1", seed: int = 0, count: int = 12, **known
) -> Scanpath:
    """A search with tenths of pixels and whole ms, which every format can hold."""
    rng = np.random.default_rng(seed)
    duration = rng.integers(100, 400, count).astype(float)
    onset = np.concatenate([[0], np.cumsum(duration + 40)[:-1]])
    x, y = rng.uniform(20, 1600, count).round(1), rng.uniform(20, 1000, count).round(1)
    shared = {"trial": stimulus, "display": Display(1680, 1050, 474.0, 296.0, 600.0), "task": "cup"} | known
    return Scanpath(x, y, duration, onset, stimulus, subject, **shared)


@pytest.fixture
def search() -> Scanpath:
    return make_scanpath()


def write_tobii(
    scanpaths, path: Path, version: str = "v2", *, decimal: str = ".", separator: str = "\t", encoding: str = "utf-8"
) -> Path:
    """A Tobii export of 100 samples per second, as Studio, Pro Lab v1 (µs without a unit) or v2 write it."""
    names = {
        "studio": "RecordingTimestamp|ParticipantName|RecordingName|MediaName|GazeEventType|FixationIndex|GazeEventDuration|"
        "FixationPointX (MCSpx)|FixationPointY (MCSpx)|RecordingResolution",
        "v1": "Recording timestamp|Participant name|Recording name|Presented Stimulus name|Eye movement type|Eye movement type index|"
        "Gaze event duration|Fixation point X|Fixation point Y|Recording resolution width|Recording resolution height",
        "v2": "Recording timestamp [μs]|Participant name|Recording name|Presented Stimulus name|Eye movement type|Eye movement type index|"
        "Gaze event duration [ms]|Fixation point X [MCS px]|Fixation point Y [MCS px]|Recording resolution width [px]|"
        "Recording resolution height [px]",
    }[version].split("|")
    factor = 1 if version == "studio" else 1000
    lines = [separator.join(names)]
    for scanpath in scanpaths:
        size = scanpath.display.size
        screen = [f"{size[0]} x {size[1]}"] if version == "studio" else [str(size[0]), str(size[1])]
        for index, (x, y, duration, onset) in enumerate(
            zip(scanpath.x, scanpath.y, scanpath.duration, scanpath.onset, strict=True), 1
        ):
            for time in np.arange(onset, onset + duration, 10):
                cells = [
                    f"{(time + 5000) * factor:.0f}",
                    scanpath.subject,
                    "",
                    scanpath.stimulus,
                    "Fixation",
                    str(index),
                    f"{duration:.0f}",
                ]
                lines.append(
                    separator.join([*cells, f"{x}".replace(".", decimal), f"{y}".replace(".", decimal), *screen])
                )
            cells = [
                f"{(onset + duration + 5000) * factor:.0f}",
                scanpath.subject,
                "",
                scanpath.stimulus,
                "Saccade",
                str(index),
                "40",
                "",
                "",
            ]
            lines.append(separator.join([*cells, *screen]))
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def write_amazon(scanpaths, path: Path) -> Path:
    pictures: dict = {}
    for scanpath in scanpaths:
        width, height = scanpath.display.size
        picture = pictures.setdefault(
            scanpath.stimulus,
            {
                "fixations": {},
                "ground_truth": [{"xmin": 10, "ymin": 20, "xmax": 110, "ymax": 220}],
                "size": {"width": width, "height": height},
                "target": scanpath.task,
            },
        )
        picture["fixations"][scanpath.subject] = scanpath.points.tolist()
    path.write_text(json.dumps(pictures))
    return path
