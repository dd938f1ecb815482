"""``ieeg demo``: simulated patients → the tiny model → seizures of patients it has not seen, beside a power threshold → report.html."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.domains import DemoResult
from core_runtime.errors import UserError
from core_runtime.options import Full, Overwrite, RunOptions, Seed
from core_runtime.terminal import note
from ieeg.commands.detect import OutputOptions, write_detection
from ieeg.commands.train import train
from ieeg.model.published import RESEARCH_ONLY
from ieeg.results.evaluation import MEASURES
from ieeg.results.options import EventOptions
from ieeg.training.recipe import CohortOptions, Recipe

if TYPE_CHECKING:
    from ieeg.metrics.measures import Judged
    from ieeg.model.folder import LoadedModel
    from ieeg.recordings.finding import RecordingFile
    from ieeg.recordings.prepared import Prepared
    from ieeg.results.detection import Detection

LEARNED, UNSEEN = 5, 2  # patients
SHOWN = ("event_f1", "event_sensitivity", "event_false_per_hour", "sample_f1", "window_kappa", "latency")
RULES = EventOptions(min_duration=6.0, merge_gap=10.0)
# Eight channels of a patient are enough to learn from, in half of the time.
QUICK = Recipe(epochs=5, batches=40, batch_channels=8)
FULL = Recipe(epochs=12, batches=75)


def demo(out: Path, /, *, full: Full = False, seed: Seed = 0, overwrite: Overwrite = False) -> DemoResult:
    """Simulates patients, trains the tiny model, and finds the seizures of patients it has not seen, beside a power threshold.

    Example: ieeg demo /tmp/demo

    Args:
        out: folder for everything that is made.
    """
    from core_runtime.report import Report
    from ieeg.metrics.baseline import as_probability, best_threshold, power_trace
    from ieeg.metrics.measures import judge
    from ieeg.model.folder import load_model
    from ieeg.recordings.finding import find_recordings
    from ieeg.results.detection import detect_recording
    from ieeg.samples import SampleOptions, make_samples

    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    shutil.rmtree(out / "detections", ignore_errors=True)
    seconds = 1200 if full else 420
    note.print(f"Simulating {LEARNED + UNSEEN} patients")
    make_samples(out / "learned", SampleOptions(LEARNED, 1, seconds, seed), overwrite=True)
    unseen = make_samples(out / "unseen", SampleOptions(UNSEEN, 1, seconds, seed, first=LEARNED + 1), overwrite=True)
    trained = train(
        [out / "learned"],
        model="tiny",
        recipe=FULL if full else QUICK,
        cohort=CohortOptions(validation="0.2"),
        run=RunOptions(out=out / "run", device="cpu", seed=seed, overwrite=True),
    )
    model = load_model(trained.model)
    detections = [detect_recording(model, path, events=RULES) for path in unseen]
    ours = judge([_judged(each) for each in detections], RULES.for_model(model.threshold), seed=seed)
    # The power threshold is chosen on the patients that the model learned from.
    truths = [_truth(model, file) for file in find_recordings(out / "learned")]
    traces = [power_trace(prepared) for _, prepared in truths]
    threshold = best_threshold([judged for judged, _ in truths], traces, RULES)
    power_probabilities = [as_probability(power_trace(each.prepared), threshold) for each in detections]
    judged_by_power = []
    for detection, probability in zip(detections, power_probabilities, strict=True):
        judged_by_power.append(replace(_judged(detection), probability=probability))
    power = judge(judged_by_power, RULES, seed=seed)
    headline = _headline(ours["measures"], power["measures"])
    columns = ["measure", "MVPFormer, tiny", f"power threshold ({threshold:g} σ)"]
    rows = [(MEASURES[name], *(r["measures"][name]["pooled"] for r in (ours, power))) for name in SHOWN]
    pictures = _pictures(detections[0], power_probabilities[0])
    page = Report("ieeg demo", lead=headline).warning(RESEARCH_ONLY)
    page.text(
        f"{LEARNED} simulated patients to learn from, {UNSEEN} others to judge on, {seconds // 60} minutes each: 8 to 16 channels at 256 to 1024 Hz, "
        "seizures that slow down and spread, spikes, movement and muscle artefacts, mains hum, a broken channel. Both detectors chose their threshold on "
        "the patients to learn from."
    )
    page.table(columns, rows, caption="Pooled over the unseen patients.")
    for picture, caption in pictures:
        page.picture(picture, caption)
    for number, (path, detection) in enumerate(zip(unseen, detections, strict=True)):
        folder = out / "detections" / path.name.split(".")[0]
        folder.mkdir(parents=True)
        write_detection(detection, folder, OutputOptions(report=full or number == 0))  # a page takes seconds to draw
    name = json.dumps(str(trained.model))
    page.heading("Next").command("ieeg inspect YOUR.edf", f"ieeg detect YOUR.edf --model {name} --out detections")
    metrics = {}
    for detector, result in (("model", ours), ("power", power)):
        for measure in SHOWN:
            metrics[f"{detector}_{measure}"] = float(result["measures"][measure]["pooled"])
    return DemoResult(headline, page.write(out / "report.html"), pictures[:2], columns, rows, metrics)


def _headline(ours: dict[str, Any], power: dict[str, Any]) -> str:
    def pooled(measures: dict[str, Any], name: str) -> str:
        return f"{measures[name]['pooled']:.2f}"

    return (
        f"Seizures of {UNSEEN} patients it has not seen: event F1 {pooled(ours, 'event_f1')}, "
        f"sample F1 {pooled(ours, 'sample_f1')} "
        f"(a power threshold: {pooled(power, 'event_f1')}, {pooled(power, 'sample_f1')})."
    )


def _judged(detection: "Detection") -> "Judged":
    from ieeg.metrics.measures import Judged

    recording = detection.prepared.recording
    return Judged(
        recording.name.split("_")[0],
        recording.name,
        recording.duration,
        detection.seconds,
        detection.marked.events,
        detection.probability,
    )


def _truth(model: "LoadedModel", file: "RecordingFile") -> tuple["Judged", "Prepared"]:
    """A recording with its marked seizures, and as the model wants it."""
    from ieeg.metrics.measures import Judged
    from ieeg.recordings.opening import open_recording
    from ieeg.recordings.prepared import Prepared
    from ieeg.recordings.seizures import seizures_of

    recording = open_recording(file.path)
    marked = seizures_of(recording).events
    judged = Judged(file.patient, recording.name, recording.duration, model.segment_seconds, marked)
    return judged, Prepared(recording, model.settings)


def _pictures(detection: "Detection", power: Any) -> Sequence[tuple[Any, str]]:
    """Probability of the model and of the power threshold, traces, channels and attention of the first unseen patient."""
    from ieeg.reports.figures import draw_attention, draw_importance, draw_probability, draw_traces
    from ieeg.results.events import to_events

    name, marked, seconds = detection.prepared.recording.name, detection.marked.events, detection.seconds
    names = detection.prepared.names
    pictures = [
        (
            draw_probability(detection.probability, seconds, detection.options.upper, detection.events, marked),
            f"{name}: MVPFormer. Blue: found; red: marked.",
        ),
        (
            draw_probability(power, seconds, 0.5, to_events(power, seconds, RULES), marked),
            f"{name}: power above the recording's usual.",
        ),
    ]
    if detection.events:
        event = max(detection.events, key=lambda event: event.confidence)
        first = int(event.onset / seconds)
        last = max(first + 1, int(event.offset / seconds))
        importance = detection.evidence[first:last].mean(0)
        rate = detection.prepared.settings.rate
        begin = max(0, int((event.onset - 10) * rate))
        end = min(detection.prepared.samples, int((event.onset + 30) * rate))
        low, high = float(importance.min()), float(importance.max())
        shade = (importance - low) / (high - low + 1e-9)
        signal = detection.prepared.read(begin, end)
        traces = draw_traces(signal, rate, names, start=begin / rate, seizures=marked, shade=shade)
        pictures.append((traces, "The surest event; darker: more evidence."))
        pictures.append((draw_importance(importance, names), "Each channel's evidence in it."))
    if detection.map is not None:
        attention = draw_attention(detection.map, names, seconds, detection.at)
        pictures.append((attention, "Where the model looked in its surest segment."))
    return pictures
