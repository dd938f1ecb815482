"""A model's results for one recording: probability, evidence of each channel, events."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.terminal import track
from ieeg.model.folder import LoadedModel
from ieeg.model.inference import AttentionMap, attention, probabilities
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.copies import namesake_in_training, seen_in_training, signature
from ieeg.recordings.finding import dataset_of, patient_of
from ieeg.recordings.labels import LabelOptions
from ieeg.recordings.opening import open_recording
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.seizures import Seizures, marked_seizures
from ieeg.recordings.settings import Cleaning, Montage
from ieeg.results.events import SeizureEvent, to_events
from ieeg.results.options import EventOptions

LEAD = 60.0  # seconds: a channel's own evidence may begin so long before the event


@dataclass(frozen=True)
class Detection:
    """The results for one recording.

    Attributes:
        seconds: length of a segment.
        window: segments that each probability is based on.
        options: with the threshold that was used.
        probability: (segments,).
        evidence: (segments, channels) log-odds of each channel; their mean is that of the probability.
        involved: for each event, (channel, seconds of its first sustained evidence), earliest first.
        map: attention of the most certain segment, if requested; `at` is its index.
        seen: whether the model was trained on this recording, in words (`ieeg.recordings.copies.seen_in_training`), or "".
    """

    prepared: Prepared
    seconds: float
    window: int
    options: EventOptions
    probability: NDArray[np.float32]
    evidence: NDArray[np.float32]
    events: list[SeizureEvent]
    involved: list[list[tuple[str, float]]]
    marked: Seizures
    notes: list[str]
    map: AttentionMap | None = None
    at: int = 0
    seen: str = ""

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        recording = self.prepared.recording
        marked = None  # nothing is known; an empty list: no seizure
        if self.marked.known:
            marked = self.marked.events.tolist()
        events = []
        for event, involved in zip(self.events, self.involved, strict=True):
            events.append(_event_facts(event, involved))
        return {
            "recording": str(recording.path),
            "duration": recording.duration,
            "segment_seconds": self.seconds,
            "window_segments": self.window,
            "channels": self.prepared.names,
            "bads": self.prepared.bads,
            "threshold": self.options.upper,
            "greatest_probability": float(np.max(self.probability)),
            "events": events,
            "marked_seizures": marked,
            "seen_in_training": self.seen or None,
            "notes": self.notes,
            "notice": RESEARCH_ONLY,
        }


def _event_facts(event: SeizureEvent, involved: Sequence[tuple[str, float]]) -> dict[str, Any]:
    earliest_channels = [{"channel": channel, "seconds": seconds} for channel, seconds in involved[:8]]
    return {
        "onset": event.onset,
        "duration": event.duration,
        "confidence": event.confidence,
        "earliest_channels": earliest_channels,
    }


def detect_recording(
    loaded: LoadedModel,
    path: Path,
    *,
    events: EventOptions = EventOptions(),
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    labels: LabelOptions = LabelOptions(),
    with_attention: bool = True,
    patient: str | None = None,
    dataset: str | None = None,
    show: bool = False,
) -> Detection:
    """The seizures that a model detects in a recording. Memory does not grow with the recording, except for a few numbers per segment.

    Args:
        with_attention: also compute the attention of the most certain segment.
        patient, dataset: of the recording; default: as its path tells.
        show: a progress bar.

    Raises:
        UserError: the recording or the model cannot be used.
    """
    prepared = Prepared(open_recording(path), loaded.settings.changed_by(montage, cleaning))
    rules = events.for_model(loaded.threshold)
    answers = probabilities(loaded.network, prepared, window=loaded.window)
    count = prepared.segment_count
    if show:
        answers = track(answers, f"Detecting in {path.name}", count)
    probability = np.empty(count, np.float32)
    evidence = np.empty((count, len(prepared.names)), np.float32)
    for answer in answers:
        probability[answer.index] = answer.probability
        evidence[answer.index] = answer.channels
    seizure_events = to_events(probability, loaded.segment_seconds, rules)
    # The threshold as log-odds, on which scale the channels' evidence is; 1e-6 keeps thresholds of 0 and 1 finite.
    level = math.log(max(rules.upper, 1e-6) / max(1 - rules.upper, 1e-6))
    involved = []
    for event in seizure_events:
        involved.append(earliest(evidence, prepared.names, event, loaded.segment_seconds, level))
    marked = marked_seizures(prepared.recording, labels)
    known, namesake = "", ""
    # a signature reads the whole recording: only if there are others to compare
    if (loaded.provenance or {}).get("recordings"):
        patient = patient or patient_of(path, path.parent)
        if dataset is None:
            dataset = dataset_of(path, path.parent)
        content = signature(prepared.recording, path.name.split(".")[0], patient, dataset)
        known = seen_in_training(loaded.provenance, content)
        namesake = namesake_in_training(loaded.provenance, content)
    detection = Detection(
        prepared,
        loaded.segment_seconds,
        loaded.window,
        rules,
        probability,
        evidence,
        seizure_events,
        involved,
        marked,
        _notes(prepared, marked, loaded, known, namesake),
        seen=known,
    )
    if with_attention:
        at = int(np.argmax(probability))
        detection = replace(detection, map=attention(loaded.network, prepared, at, window=loaded.window), at=at)
    return detection


def _notes(prepared: Prepared, marked: Seizures, loaded: LoadedModel, known: str, namesake: str) -> list[str]:
    """Notes for the user about this recording and this model."""
    notes = [*prepared.recording.warnings, *prepared.notes, *marked.warnings]
    seconds, count = loaded.segment_seconds, prepared.segment_count
    rest = prepared.recording.duration - count * seconds
    if rest > 0.01:
        notes.append(f"the last {rest:.1f} s do not fill a segment of {seconds:g} s and are left out")
    if count < loaded.window:
        notes.append(
            f"shorter than the model's window ({count} of {loaded.window} segments): "
            "the first segment is repeated in place of the missing ones"
        )
    if known:
        notes.append(f"{known}: this is not a test of the model")
    elif namesake:
        notes.append(namesake)
    return notes


def earliest(
    evidence: NDArray[np.float32], names: Sequence[str], event: SeizureEvent, seconds: float, level: float
) -> list[tuple[str, float]]:
    """The time since when each channel's own evidence is above `level`, where it stays so for two segments in the event; at most `LEAD` before it.

    Other channels are left out. The time is that of a segment's beginning, so it is exact to one segment; of equal times, the channel with more
    evidence comes first.
    """
    first = max(0, int((event.onset - LEAD) / seconds))
    last = math.ceil(event.offset / seconds)
    above = evidence[first:last] >= level
    sustained = above.copy()
    sustained[:-1] &= above[1:]
    if event.duration <= seconds:  # an event of one segment cannot last for two
        sustained = above
    onset = int(event.onset / seconds) - first
    beginnings = []
    for channel, name in enumerate(names):
        in_event = np.flatnonzero(sustained[onset:, channel])
        if not len(in_event):
            continue
        # Back from there to where the channel's evidence first rose, perhaps before the event.
        start = onset + int(in_event[0])
        while start > 0 and above[start - 1, channel]:
            start -= 1
        beginnings.append((name, (first + start) * seconds, float(evidence[first + start, channel])))
    beginnings.sort(key=lambda beginning: (beginning[1], -beginning[2]))
    return [(name, time) for name, time, _ in beginnings]
