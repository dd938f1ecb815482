"""Files for other tools: probability trace (TSV, Parquet), BIDS events.tsv with SzCORE's columns, EDF+, MNE Annotations."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ieeg.results.events import SeizureEvent

COLUMNS = ("onset", "duration", "eventType", "confidence", "channels", "dateTime", "recordingDuration")
_MEANING = {
    "onset": {"Description": "Start of the event from the first sample", "Units": "s"},
    "duration": {"Description": "Duration of the event", "Units": "s"},
    "eventType": {
        "Description": "Kind of event (SzCORE)",
        "Levels": {"sz": "seizure", "bckg": "no seizure in the recording"},
    },
    "confidence": {"Description": "Greatest probability in the event, 0 to 1"},
    "channels": {"Description": "Channels that took part, earliest first, or all"},
    "dateTime": {"Description": "Start of the recording"},
    "recordingDuration": {"Description": "Duration of the recording", "Units": "s"},
}


def events_table(
    events: Sequence[SeizureEvent],
    duration: float,
    start: datetime | None = None,
    channels: Sequence[Sequence[str]] | None = None,
) -> str:
    """A BIDS events.tsv with SzCORE's columns; a recording without events has one line of background."""
    when = "n/a"
    if start:
        when = start.strftime("%Y-%m-%d %H:%M:%S")
    lines = ["\t".join(COLUMNS)]
    for i, event in enumerate(events):
        names = "all"
        if channels and channels[i]:
            names = ",".join(channels[i])
        times = f"{event.onset:.3f}\t{event.duration:.3f}"
        lines.append(f"{times}\tsz\t{event.confidence:.4f}\t{names}\t{when}\t{duration:.3f}")
    if not events:
        lines.append(f"0.000\t{duration:.3f}\tbckg\tn/a\tall\t{when}\t{duration:.3f}")
    return "\n".join(lines) + "\n"


def events_sidecar() -> str:
    """The JSON beside an events.tsv, which describes its columns."""
    return json.dumps(_MEANING, indent=1) + "\n"


def write_trace(path: Path, probability: NDArray[np.floating], seconds: float) -> None:
    """One row per segment: onset and duration in seconds, probability; Parquet if the path ends so, else TSV."""
    import pandas

    table = pandas.DataFrame(
        {
            "onset": np.arange(len(probability)) * seconds,
            "duration": np.full(len(probability), float(seconds)),
            "probability": np.asarray(probability, np.float32),
        }
    )
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="\t", index=False, float_format="%.6g", na_rep="n/a")


def read_trace(path: Path) -> tuple[NDArray[np.float32], float]:
    """The probabilities of a trace written by `write_trace`, and the seconds of a segment."""
    import pandas

    if path.suffix == ".parquet":
        table = pandas.read_parquet(path)
    else:
        table = pandas.read_csv(path, sep="\t")
    return table["probability"].to_numpy(np.float32), float(table["duration"].iloc[0])


def write_edf(
    path: Path,
    events: Sequence[SeizureEvent],
    probability: NDArray[np.floating],
    seconds: float,
    start: datetime | None = None,
) -> None:
    """An EDF+ file on the recording's own clock: the probability as a signal of one sample per segment, the events as annotations."""
    import edfio

    marks = [edfio.EdfAnnotation(event.onset, event.duration, "sz") for event in events]
    values = np.clip(np.nan_to_num(np.asarray(probability, np.float64)), 0, 1)
    signal = edfio.EdfSignal(
        values,
        1 / seconds,
        label="Seizure probabil",  # EDF's labels have 16 characters
        physical_range=(0, 1),
        physical_dimension="",
        prefiltering="",
    )
    clock: dict[str, Any] = {}
    if start and 1985 <= start.year <= 2084:  # the years that EDF's two digits stand for
        clock = {"recording": edfio.Recording(startdate=start.date()), "starttime": start.time()}
    edfio.Edf([signal], annotations=marks, data_record_duration=seconds, **clock).write(path)


def annotations(events: Sequence[SeizureEvent]) -> Any:
    """The events as `mne.Annotations`, relative to the first sample of the raw that they are set on."""
    import mne

    onsets = [event.onset for event in events]
    durations = [event.duration for event in events]
    return mne.Annotations(onsets, durations, ["sz"] * len(events))
