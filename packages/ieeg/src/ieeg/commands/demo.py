"""Simulated patients → the tiny model → seizures of patients it has not seen, beside a power threshold → report.html."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core_runtime.cli import note
from core_runtime.errors import UserError
from core_runtime.report import Report
from core_runtime.suite import DemoResult
from ieeg.metrics.baseline import as_probability, best_threshold, power_trace
from ieeg.recordings.bids import find_recordings
from ieeg.commands.detect import Detection, DetectOptions, detect
from ieeg.metrics.measures import Judged, judge
from ieeg.reports.figures import draw_attention, draw_importance, draw_probability, draw_traces
from ieeg.commands.evaluate import WORDS
from ieeg.model.folder import RESEARCH_ONLY, load
from ieeg.results.events import EventOptions, to_events
from ieeg.recordings.prepared import Prepared
from ieeg.training.recipe import recipe_for
from ieeg.recordings.recording import open_recording
from ieeg.commands.train import settings_of, train
from ieeg.samples import SampleOptions, make_samples
from ieeg.recordings.seizures import seizures_of

LEARNED, UNSEEN = 5, 2  # patients
SHOWN = ("event_f1", "event_sensitivity", "event_false_per_hour", "sample_f1", "window_kappa", "latency")
RULES: dict[str, Any] = {"min_duration": 6.0, "merge_gap": 10.0}


def run_demo(out: Path, full: bool, *, seed: int = 0, overwrite: bool = False) -> DemoResult:
    """Everything from simulated files to a report.

    Raises:
        UserError: `out` holds a demo already and `overwrite` is off.
    """
    if (out / "report.html").exists() and not overwrite:
        raise UserError(f"{out} already holds a demo", "--overwrite replaces it, another folder keeps both")
    for name in ("detections",):
        shutil.rmtree(out / name, ignore_errors=True)
    seconds = 1200 if full else 420
    note.print(f"Simulating {LEARNED + UNSEEN} patients")
    make_samples(out / "learned", SampleOptions(LEARNED, 1, seconds, seed), overwrite=True)
    unseen = make_samples(out / "unseen", SampleOptions(UNSEEN, 1, seconds, seed, first=LEARNED + 1), overwrite=True)
    recipe = recipe_for("tiny", epochs=12 if full else 4, batches=75)
    made = train([out / "learned"], out / "run", model="tiny", recipe=recipe, seed=seed, overwrite=True, validation=0.2)
    model = load(made.model)
    settings = settings_of(model)
    rules = EventOptions(**{"threshold": model.threshold, **RULES})
    options = DetectOptions(RULES)
    found = [detect(model, path, options) for path in unseen]
    ours = judge([_judged(d) for d in found], rules, seed=seed)
    truth = [_truth(f.path, settings, f.patient) for f in find_recordings(out / "learned")]
    half = EventOptions(**RULES)
    threshold = best_threshold([j for j, _ in truth], [power_trace(p) for _, p in truth], half)
    plain_traces = [as_probability(power_trace(d.prepared), threshold) for d in found]
    plain_judged = [replace(_judged(d), probability=p) for d, p in zip(found, plain_traces, strict=True)]
    plain = judge(plain_judged, half, seed=seed)
    rows = [(WORDS[m], ours["measures"][m]["pooled"], plain["measures"][m]["pooled"]) for m in SHOWN]
    f1, other = (r["measures"]["event_f1"]["pooled"] for r in (ours, plain))
    headline = (
        f"Seizures of {UNSEEN} patients it has not seen: event F1 {f1:.2f}, sample F1 {ours['measures']['sample_f1']['pooled']:.2f} "
        f"(a power threshold: {other:.2f}, {plain['measures']['sample_f1']['pooled']:.2f})."
    )
    columns = ["measure", "MVPFormer, tiny", f"power threshold ({threshold:g} σ)"]
    pictures = _pictures(found[0], plain_traces[0], half)
    page = Report("ieeg demo", lead=headline).warning(RESEARCH_ONLY)
    page.text(
        f"{LEARNED} simulated patients to learn from, {UNSEEN} others to judge on, {seconds // 60} minutes each: 8 to 16 channels at 256 to 1024 Hz, "
        "seizures that slow down and spread, spikes, movement and muscle artefacts, mains hum, a broken channel. Both detectors chose their threshold on "
        "the patients to learn from."
    )
    page.table(columns, rows, caption="Pooled over the unseen patients.")
    for picture, caption in pictures:
        page.picture(picture, caption)
    for path, detection in zip(unseen, found, strict=True):
        _write(detection, out / "detections" / path.name.split(".")[0], options)
    page.heading("Next").command(
        "ieeg inspect YOUR.edf", f"ieeg detect YOUR.edf --model {json.dumps(str(made.model))} --out detections"
    )
    metrics = {
        f"{name}_{m}": r["measures"][m]["pooled"] for name, r in (("model", ours), ("power", plain)) for m in SHOWN
    }
    report = page.write(out / "report.html")
    return DemoResult(headline, report, pictures[:2], columns, rows, {k: float(v) for k, v in metrics.items()})


def _write(detection: Detection, folder: Path, options: DetectOptions) -> None:
    from ieeg.commands.detect import write_detection

    folder.mkdir(parents=True, exist_ok=True)
    write_detection(detection, folder, options)


def _judged(d: Detection) -> Judged:
    recording = d.prepared.recording
    return Judged(
        recording.name.split("_")[0], recording.name, recording.duration, d.seconds, d.marked.events, d.probability
    )


def _truth(path: Path, settings: Any, patient: str) -> tuple[Judged, Prepared]:
    recording = open_recording(path)
    prepared = Prepared(recording, settings)
    marked = seizures_of(recording).events
    return Judged(patient, recording.name, recording.duration, settings.segment, marked), prepared


def _pictures(d: Detection, plain: Any, half: EventOptions) -> Sequence[tuple[Any, str]]:
    """Probability of the model and of the baseline, traces, channels and attention of the first unseen patient."""
    name, marked = d.prepared.recording.name, d.marked.events
    made = [
        (
            draw_probability(d.probability, d.seconds, d.options.threshold, d.events, marked),
            f"{name}: MVPFormer. Blue: found; red: marked.",
        ),
        (
            draw_probability(plain, d.seconds, 0.5, to_events(plain, d.seconds, half), marked),
            f"{name}: power above the recording's usual.",
        ),
    ]
    if d.events:
        event = max(d.events, key=lambda e: e.confidence)
        a, b = int(event.onset / d.seconds), max(int(event.onset / d.seconds) + 1, int(event.offset / d.seconds))
        importance = d.evidence[a:b].mean(0)
        rate = d.prepared.settings.rate
        begin, end = max(0, int((event.onset - 10) * rate)), min(d.prepared.samples, int((event.onset + 30) * rate))
        low, high = float(importance.min()), float(importance.max())
        shade = (importance - low) / (high - low + 1e-9)
        x = d.prepared.read(begin, end)
        made.append(
            (
                draw_traces(x, rate, d.prepared.names, start=begin / rate, seizures=marked, shade=shade),
                "The surest event; darker: more evidence.",
            )
        )
        made.append((draw_importance(importance, d.prepared.names), "Each channel's evidence in it."))
    if d.map is not None:
        made.append(
            (draw_attention(d.map, d.prepared.names, d.seconds, d.at), "Where the model looked in its surest segment.")
        )
    return made
