"""The page about one recording: trace, events, which channels, where the model looked."""

import numpy as np

from core_runtime.report import Report
from ieeg.model.published import RESEARCH_ONLY
from ieeg.reports.figures import draw_attention, draw_evidence, draw_importance, draw_probability, draw_traces
from ieeg.results.detection import Detection

_EVENTS_SHOWN = 4


def detection_report(made: Detection) -> Report:
    """Everything that `detect` says of a recording, as one page."""
    prepared, recording = made.prepared, made.prepared.recording
    count = len(made.events)
    lead = f"{count} event{'' if count == 1 else 's'} in {recording.duration / 60:.1f} minutes, {len(prepared.names)} channels"
    page = Report(f"Seizure detection: {recording.name}", lead=lead).warning(RESEARCH_ONLY)
    for note in made.notes:
        page.text(note)
    marked = made.marked.events if made.marked.known else None
    page.heading("Probability of a seizure").picture(
        draw_probability(made.probability, made.seconds, made.options.upper, made.events, marked),
        f"One value in {made.seconds:g} s. Dotted: threshold {made.options.upper:g}. Blue: detected."
        + (" Red: marked in the data." if marked is not None else ""),
    )
    page.picture(
        draw_evidence(made.evidence, prepared.names, made.seconds, made.events, marked),
        "Evidence of each channel over the recording. Bars above: detected (blue)"
        + (", marked in the data (red)." if marked is not None else "."),
    )
    if made.marked.known and len(made.marked.events):
        page.table(
            ["marked seizure (s)", "until (s)", "detected", "delay (s)"],
            [_marked_row(made, onset, offset) for onset, offset in made.marked.events.tolist()],
            caption="The seizures that are marked in the data, and the first detected event that touches each.",
        )
    rows = [
        (
            e.onset,
            e.duration,
            e.confidence,
            ", ".join(f"{c} ({t - e.onset:+.0f} s)" for c, t in early[:6]) or "none by itself",
        )
        for e, early in zip(made.events, made.involved, strict=True)
    ]
    if rows:
        page.table(
            ["onset (s)", "duration (s)", "confidence", "earliest channels (their own evidence, from onset)"], rows
        )
    top = sorted(range(count), key=lambda i: -made.events[i].confidence)[:_EVENTS_SHOWN]
    for i in sorted(top):
        event = made.events[i]
        page.heading(f"Event at {event.onset:.1f} s")
        a, b = (
            int(event.onset / made.seconds),
            max(int(event.onset / made.seconds) + 1, round(event.offset / made.seconds)),
        )
        importance = made.evidence[a:b].mean(0)
        _traces(page, made, event.onset, importance)
        page.picture(
            draw_importance(importance, prepared.names),
            "Each channel's evidence over the event; the mean over channels is the log-odds of the probability.",
        )
    if not made.events:
        page.heading("Most suspicious stretch")
        _traces(page, made, made.at * made.seconds, made.evidence[made.at])
    if made.map is not None:
        page.heading("Where the model looked").picture(
            draw_attention(made.map, prepared.names, made.seconds, made.at),
            "Mean over layers, heads and channels, of the segment with the greatest probability.",
        )
    page.heading("Recording").facts(
        [
            ("file", recording.path.name),
            ("start", recording.start or "not stored"),
            ("channels used", ", ".join(prepared.names)),
            ("left out as bad", "; ".join(f"{n}: {why}" for n, why in prepared.bads.items()) or "none"),
            ("reference", prepared.settings.reference),
            ("mains notch", f"{prepared.notch:g} Hz" if prepared.notch else "none"),
        ]
    )
    return page


def _marked_row(made: Detection, onset: float, offset: float) -> tuple[object, ...]:
    """A marked seizure, whether it was detected, and how long after its onset."""
    touching = [event for event in made.events if event.onset < offset and event.offset > onset]
    if not touching:
        return onset, offset, "no", None
    return onset, offset, "yes", max(0.0, touching[0].onset - onset)


def _traces(page: Report, made: Detection, onset: float, importance: np.ndarray) -> None:
    prepared = made.prepared
    rate = prepared.settings.rate
    begin = max(0, int((onset - 15) * rate))
    end = min(prepared.samples, int((onset + 25) * rate))
    low, high = float(importance.min()), float(importance.max())
    shade = (importance - low) / (high - low) if high > low else np.zeros(len(importance))
    marked = made.marked.events if made.marked.known else None
    page.picture(
        draw_traces(prepared.read(begin, end), rate, prepared.names, start=begin / rate, seizures=marked, shade=shade),
        "The prepared signal around it, darker where a channel has more evidence.",
    )
