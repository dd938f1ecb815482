"""What a model says of one recording: probability, evidence of each channel, events."""

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

LEAD = 60.0  # seconds before an event in which a channel's own evidence may begin


@dataclass(frozen=True)
class Detection:
    """What was found in one recording.

    Attributes:
        seconds: length of a segment.
        window: segments that each probability looks at.
        options: with the threshold that was used.
        probability: (segments,).
        evidence: (segments, channels) log-odds of each channel; their mean is that of the probability.
        involved: for each event, (channel, seconds of its first sustained evidence), earliest first.
        map: attention of the most certain segment, if asked for; `at` is its index.
        seen: whether the model's training knew this recording, in words (`ieeg.recordings.copies.seen_in_training`), or "".
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
        marked = self.marked.events.tolist() if self.marked.known else None
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
    return {
        "onset": event.onset,
        "duration": event.duration,
        "confidence": event.confidence,
        "earliest_channels": [{"channel": channel, "seconds": seconds} for channel, seconds in involved[:8]],
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
    """The seizures that a model sees in a recording. Memory does not grow with the recording but for a few numbers per segment.

    Args:
        with_attention: also say where the model looked in its most certain segment.
        patient, dataset: whose recording it is; default: as its path says.
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
    level = math.log(max(rules.upper, 1e-6) / max(1 - rules.upper, 1e-6))
    involved = [earliest(evidence, prepared.names, event, loaded.segment_seconds, level) for event in seizure_events]
    marked = marked_seizures(prepared.recording, labels)
    seen, namesake = "", ""
    if (loaded.provenance or {}).get("recordings"):
        patient = patient or patient_of(path, path.parent)
        dataset = dataset_of(path, path.parent) if dataset is None else dataset
        content = signature(prepared.recording, path.name.split(".")[0], patient, dataset)
        seen = seen_in_training(loaded.provenance, content)
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
        _notes(prepared, marked, loaded, seen, namesake),
        seen=seen,
    )
    if with_attention:
        at = int(np.argmax(probability))
        detection = replace(detection, map=attention(loaded.network, prepared, at, window=loaded.window), at=at)
    return detection


def _notes(prepared: Prepared, marked: Seizures, loaded: LoadedModel, seen: str, namesake: str) -> list[str]:
    """What the user should know about this recording and this model."""
    notes = [*prepared.recording.warnings, *prepared.notes, *marked.warnings]
    seconds, count = loaded.segment_seconds, prepared.segment_count
    rest = prepared.recording.duration - count * seconds
    if rest > 0.01:
        notes.append(f"the last {rest:.1f} s do not fill a segment of {seconds:g} s and are not judged")
    if count < loaded.window:
        notes.append(
            f"shorter than the model's window ({count} of {loaded.window} segments): "
            "the first segment stands for what is missing before it"
        )
    if seen:
        notes.append(f"{seen}: this is no test of the model")
    elif namesake:
        notes.append(namesake)
    return notes


def earliest(
    evidence: NDArray[np.float32], names: Sequence[str], event: SeizureEvent, seconds: float, level: float
) -> list[tuple[str, float]]:
    """When each channel's own evidence passes `level` and stays there for two segments in the event, and since when: at most `LEAD` before it.

    Channels that never do are left out. The time is that of a segment's beginning, so it is good to one segment; among equals the channel with more
    evidence comes first.
    """
    first = max(0, int((event.onset - LEAD) / seconds))
    last = math.ceil(event.offset / seconds)
    above = evidence[first:last] >= level
    sustained = above.copy()
    sustained[:-1] &= above[1:]
    if event.duration <= seconds:  # an event of one segment: nothing can last for two
        sustained = above
    onset = int(event.onset / seconds) - first
    beginnings = []
    for channel, name in enumerate(names):
        in_event = np.flatnonzero(sustained[onset:, channel])
        if not len(in_event):
            continue
        # From there back to where the channel's evidence first rose, which may be before the event.
        start = onset + int(in_event[0])
        while start > 0 and above[start - 1, channel]:
            start -= 1
        beginnings.append((name, (first + start) * seconds, float(evidence[first + start, channel])))
    beginnings.sort(key=lambda beginning: (beginning[1], -beginning[2]))
    return [(name, time) for name, time, _ in beginnings]
