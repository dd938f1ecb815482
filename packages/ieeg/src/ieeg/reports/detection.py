"""The page about one recording: trace, events, the channels involved, the model's attention."""

import numpy as np

from core_runtime.report import Report
from ieeg.model.published import RESEARCH_ONLY
from ieeg.reports.figures import draw_attention, draw_evidence, draw_importance, draw_probability, draw_traces
from ieeg.results.detection import Detection
from ieeg.results.events import SeizureEvent

_EVENTS_SHOWN = 4


def detection_report(detection: Detection) -> Report:
    """All results of `detect` for a recording, as one page."""
    prepared, recording = detection.prepared, detection.prepared.recording
    count = len(detection.events)
    events = f"{count} events"
    if count == 1:
        events = "1 event"
    lead = f"{events} in {recording.duration / 60:.1f} minutes, {len(prepared.names)} channels"
    page = Report(f"Seizure detection: {recording.name}", lead=lead).warning(RESEARCH_ONLY)
    for note in detection.notes:
        page.text(note)
    _add_overview(page, detection)
    _add_tables(page, detection)
    by_confidence = sorted(range(count), key=lambda i: -detection.events[i].confidence)
    for i in sorted(by_confidence[:_EVENTS_SHOWN]):
        _add_event(page, detection, detection.events[i])
    if not detection.events:
        page.heading("Most suspicious interval")
        _add_traces(page, detection, detection.at * detection.seconds, detection.evidence[detection.at])
    if detection.map is not None:
        page.heading("Attention of the model").picture(
            draw_attention(detection.map, prepared.names, detection.seconds, detection.at),
            "Mean over layers, heads and channels, of the segment with the greatest probability.",
        )
    bads = [f"{name}: {why}" for name, why in prepared.bads.items()]
    notch = "none"
    if prepared.notch:
        notch = f"{prepared.notch:g} Hz"
    page.heading("Recording").facts(
        [
            ("file", recording.path.name),
            ("start", recording.start or "not stored"),
            ("channels used", ", ".join(prepared.names)),
            ("left out as bad", "; ".join(bads) or "none"),
            ("reference", prepared.settings.reference),
            ("mains notch", notch),
        ]
    )
    return page


def _add_overview(page: Report, detection: Detection) -> None:
    """Probability and evidence over the whole recording."""
    threshold, seconds = detection.options.upper, detection.seconds
    marked = None
    if detection.marked.known:
        marked = detection.marked.events
    legend = f"One value per {seconds:g} s. Dotted: threshold {threshold:g}. Blue: detected."
    bars = "Bars above: detected (blue)."
    if marked is not None:
        legend += " Red: marked in the data."
        bars = "Bars above: detected (blue), marked in the data (red)."
    probability = draw_probability(detection.probability, seconds, threshold, detection.events, marked)
    page.heading("Probability of a seizure").picture(probability, legend)
    evidence = draw_evidence(detection.evidence, detection.prepared.names, seconds, detection.events, marked)
    page.picture(evidence, f"Evidence of each channel over the recording. {bars}")


def _add_tables(page: Report, detection: Detection) -> None:
    """Marked seizures and whether they were detected; detected events and the channels in which they begin."""
    if detection.marked.known and len(detection.marked.events):
        marked_rows = []
        for onset, offset in detection.marked.events.tolist():
            marked_rows.append(_marked_row(detection, onset, offset))
        page.table(
            ["marked seizure (s)", "until (s)", "detected", "delay (s)"],
            marked_rows,
            caption="The seizures that are marked in the data, and the first detected event that touches each.",
        )
    rows = []
    for event, involved in zip(detection.events, detection.involved, strict=True):
        earliest = [f"{channel} ({seconds - event.onset:+.0f} s)" for channel, seconds in involved[:6]]
        rows.append((event.onset, event.duration, event.confidence, ", ".join(earliest) or "none by itself"))
    if rows:
        page.table(
            ["onset (s)", "duration (s)", "confidence", "earliest channels (their own evidence, from onset)"], rows
        )


def _add_event(page: Report, detection: Detection, event: SeizureEvent) -> None:
    """An event's traces, and the channels with evidence for it."""
    page.heading(f"Event at {event.onset:.1f} s")
    first = int(event.onset / detection.seconds)
    last = max(first + 1, round(event.offset / detection.seconds))
    importance = detection.evidence[first:last].mean(0)
    _add_traces(page, detection, event.onset, importance)
    page.picture(
        draw_importance(importance, detection.prepared.names),
        "Each channel's evidence over the event, less the mean over channels, which is the log-odds of the probability.",
    )


def _marked_row(detection: Detection, onset: float, offset: float) -> tuple[object, ...]:
    """A marked seizure, whether it was detected, and how long after its onset."""
    touching = [event for event in detection.events if event.onset < offset and event.offset > onset]
    if not touching:
        return onset, offset, "no", None
    return onset, offset, "yes", max(0.0, touching[0].onset - onset)


def _add_traces(page: Report, detection: Detection, onset: float, importance: np.ndarray) -> None:
    """The prepared signal from 15 s before `onset` to 25 s after it, shaded by `importance` (channels,)."""
    prepared = detection.prepared
    rate = prepared.settings.rate
    begin = max(0, int((onset - 15) * rate))
    end = min(prepared.samples, int((onset + 25) * rate))
    low, high = float(importance.min()), float(importance.max())
    shade = np.zeros(len(importance))
    if high > low:
        shade = (importance - low) / (high - low)
    marked = None
    if detection.marked.known:
        marked = detection.marked.events
    signals = prepared.read(begin, end)
    page.picture(
        draw_traces(signals, rate, prepared.names, start=begin / rate, seizures=marked, shade=shade),
        "The prepared signal around it; a channel is darker the more evidence it has.",
    )
