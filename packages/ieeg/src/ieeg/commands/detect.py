"""The job `detect`: a recording in; trace, events, annotations, report out. Many recordings in parallel, with resume."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.bulk import Item, Outcome, bulk
from core_runtime.cli import track
from core_runtime.errors import UserError
from core_runtime.folders import fingerprint, write_text, writing
from ieeg.recordings.bids import Found, patient_of
from ieeg.recordings.copies import seen_in_training, signature
from ieeg.model.folder import RESEARCH_ONLY, LoadedModel, chosen
from ieeg.results.files import annotations, events_sidecar, events_table, write_edf, write_trace
from ieeg.results.events import EventOptions, SeizureEvent, to_events
from ieeg.model.inference import AttentionMap, attention, probabilities
from ieeg.recordings.prepared import Prepared
from ieeg.recordings.recording import open_recording
from ieeg.commands.train import settings_of
from ieeg.recordings.seizures import Seizures, seizures_of


@dataclass(frozen=True)
class DetectOptions:
    """What `detect` does beside the model: how probabilities become events, how recordings are prepared, which files are written.

    Attributes:
        events: None: the model's own threshold, nothing else.
        preparing: fields of `Settings` that differ from the model's.
        trace: "tsv" or "parquet".
        report: write report.html with its pictures.
    """

    events: Mapping[str, Any] = field(default_factory=dict)
    preparing: Mapping[str, Any] = field(default_factory=dict)
    trace: str = "tsv"
    report: bool = True


@dataclass(frozen=True)
class Detection:
    """What was found in one recording.

    Attributes:
        probability: (segments,).
        evidence: (segments, channels) log-odds of each channel; their mean is that of the probability.
        involved: for each event, (channel, seconds of its first sustained evidence), earliest first.
        map: attention of the most certain segment, if asked for; `at` is its index.
        seen: what the model's training has to do with this recording (`ieeg.recordings.copies.seen_in_training`), or "".
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
        return {
            "recording": str(recording.path),
            "duration": recording.duration,
            "segment_seconds": self.seconds,
            "window_segments": self.window,
            "channels": self.prepared.names,
            "bads": self.prepared.bads,
            "threshold": self.options.threshold,
            "greatest_probability": float(np.max(self.probability)),
            "events": [
                {
                    "onset": e.onset,
                    "duration": e.duration,
                    "confidence": e.confidence,
                    "earliest_channels": [{"channel": c, "seconds": t} for c, t in early[:8]],
                }
                for e, early in zip(self.events, self.involved, strict=True)
            ],
            "marked_seizures": self.marked.events.tolist() if self.marked.known else None,
            "seen_in_training": self.seen or None,
            "notes": self.notes,
            "notice": RESEARCH_ONLY,
        }


def detect(
    loaded: LoadedModel,
    path: Path,
    options: DetectOptions | None = None,
    *,
    patient: str | None = None,
    show: bool = False,
) -> Detection:
    """The seizures that a model sees in a recording. Memory does not grow with the recording but for a few numbers a segment.

    Args:
        patient: whose recording it is; default: as its path says.

    Raises:
        UserError: the recording or the model cannot be used.
    """
    o = options or DetectOptions()
    settings = replace(settings_of(loaded), **o.preparing)
    prepared = Prepared(open_recording(path), settings)
    rules = EventOptions(**{"threshold": loaded.threshold, **o.events})
    said = probabilities(loaded.network, prepared, window=loaded.window)
    if show:
        said = track(said, f"Detecting in {path.name}", prepared.segment_count)
    count = prepared.segment_count
    probability, evidence = np.empty(count, np.float32), np.empty((count, len(prepared.names)), np.float32)
    for each in said:
        probability[each.index] = each.probability
        evidence[each.index] = each.channels
    events = to_events(probability, loaded.segment_seconds, rules)
    level = math.log(max(rules.threshold, 1e-6) / max(1 - rules.threshold, 1e-6))
    involved = [earliest(evidence, prepared.names, e, loaded.segment_seconds, level) for e in events]
    marked = seizures_of(prepared.recording)
    notes = [*prepared.recording.warnings, *prepared.notes, *marked.warnings]
    left = prepared.recording.duration - count * loaded.segment_seconds
    if left > 0.01:
        notes.append(f"the last {left:.1f} s do not fill a segment of {loaded.segment_seconds:g} s and are not judged")
    if count < loaded.window:
        notes.append(
            f"shorter than the model's window ({count} of {loaded.window} segments): the first segment stands for what is missing before it"
        )
    seen = ""
    if (loaded.provenance or {}).get("recordings"):
        one = signature(prepared.recording, path.name.split(".")[0], patient or patient_of(path, path.parent))
        if seen := seen_in_training(loaded.provenance, one):
            notes.append(f"{seen}: this is no test of the model")
    made = Detection(
        prepared,
        loaded.segment_seconds,
        loaded.window,
        rules,
        probability,
        evidence,
        events,
        involved,
        marked,
        notes,
        seen=seen,
    )
    if o.report:
        at = int(np.argmax(probability))
        made = replace(made, map=attention(loaded.network, prepared, at, window=loaded.window), at=at)
    return made


def earliest(
    evidence: NDArray[np.float32],
    names: Sequence[str],
    event: SeizureEvent,
    seconds: float,
    level: float,
    before: float = 60.0,
) -> list[tuple[str, float]]:
    """When each channel's own evidence passes `level` and stays there for two segments in the event, and since when: at most a minute before it.

    Channels that never do are left out. The time is that of a segment's beginning, so it is good to one segment; among equals the channel with more
    evidence comes first.
    """
    a, b = max(0, int((event.onset - before) / seconds)), math.ceil(event.offset / seconds)
    over = evidence[a:b] >= level
    stays = over.copy()
    stays[:-1] &= over[1:]
    if event.duration <= seconds:
        stays = over
    onset = int(event.onset / seconds) - a
    found = []
    for c, name in enumerate(names):
        hits = np.flatnonzero(stays[onset:, c])
        if len(hits):
            start = onset + int(hits[0])
            while start > 0 and over[start - 1, c]:
                start -= 1
            found.append((name, (a + start) * seconds, float(evidence[a + start, c])))
    return [(n, t) for n, t, _ in sorted(found, key=lambda f: (f[1], -f[2]))]


def write_detection(made: Detection, folder: Path, options: DetectOptions) -> None:
    """Writes everything about one recording to a folder: trace, events.tsv and its JSON, EDF+, MNE Annotations, detection.json, report.html."""
    from ieeg.reports.detection import report_of

    recording = made.prepared.recording
    stem = recording.name.removesuffix("_ieeg").removesuffix("_eeg")
    write_trace(folder / f"{stem}_probability.{options.trace}", made.probability, made.seconds)
    channels = [[c for c, _ in early[:8]] for early in made.involved]
    table = events_table(made.events, recording.duration, recording.start, channels)
    write_text(folder / f"{stem}_events.tsv", table)
    write_text(folder / f"{stem}_events.json", events_sidecar())
    write_edf(folder / f"{stem}_detections.edf", made.events, made.probability, made.seconds, recording.start)
    annotations(made.events).save(folder / f"{stem}-annot.fif", overwrite=True, verbose="error")
    write_text(folder / "detection.json", json.dumps(made.facts(), indent=1, ensure_ascii=False) + "\n")
    if options.report:
        report_of(made).write(folder / "report.html")


@lru_cache(1)
def _model(model: str, device: str) -> LoadedModel:
    return chosen(model, device=device)


@dataclass(frozen=True)
class Job:
    """What a worker process needs for one recording; picklable."""

    path: str
    model: str
    device: str
    options: DetectOptions
    patient: str
    show: bool = False


def detect_item(item: Item) -> dict[str, Any]:
    """Detects in one recording and writes its folder, whole or not at all."""
    job: Job = item.source
    made = detect(_model(job.model, job.device), Path(job.path), job.options, patient=job.patient, show=job.show)
    facts = made.facts()
    with writing(item.output) as part:
        part.mkdir()
        write_detection(made, part, job.options)
        if item.output.exists():
            shutil.rmtree(item.output)
    return {"events": facts["events"], "duration": facts["duration"], "notes": facts["notes"]}


def detect_all(
    found: Sequence[Found],
    model: str | None,
    out: Path,
    options: DetectOptions | None = None,
    *,
    device: str = "cpu",
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
) -> list[Outcome]:
    """Detects in many recordings, a folder of results each; what is there already is done, so a killed run goes on.

    Raises:
        UserError: no model; results of another model or other options are there and `overwrite` is off.
    """
    o = options or DetectOptions()
    loaded = chosen(model, device=device)
    assert model is not None
    EventOptions(**{"threshold": loaded.threshold, **o.events})
    asked = fingerprint({"model": _identity(Path(model)), "options": o})
    note = out / "detect.json"
    if any(out.glob("*/detection.json")) and note.exists() and not overwrite:
        if json.loads(note.read_text(encoding="utf-8")).get("fingerprint") != asked:
            raise UserError(
                f"{out} holds detections of another model or with other options",
                "--overwrite replaces them, --out names another folder",
            )
    elif len(found) == 1 and (out / found[0].name).exists() and not overwrite:
        raise UserError(f"{out} already holds a detection of {found[0].name}", "--overwrite replaces it")
    path = str(Path(model).resolve()) if Path(model).exists() else model
    items = [
        Item(f.name, Job(str(f.path.resolve()), path, device, o, f.patient, show=len(found) == 1), out / f.name)
        for f in found
    ]
    with _executor(scheduler) as executor:
        write_text(note, json.dumps({"fingerprint": asked, "model": str(model), "notice": RESEARCH_ONLY}) + "\n")
        return bulk(
            detect_item,
            items,
            log=out / "log.jsonl",
            description="Detecting",
            workers=workers,
            executor=executor,
            skip_errors=skip_errors,
            already=(lambda item: False) if overwrite else None,
        )


def _identity(model: Path) -> Any:
    """What a model folder holds, as far as results depend on it."""
    weights = model / "model.safetensors"
    return (
        [str(model.resolve()), weights.stat().st_mtime_ns, weights.stat().st_size] if weights.exists() else str(model)
    )


@contextmanager
def _executor(scheduler: str | None):
    """A Dask cluster's executor, or None for local work.

    Raises:
        UserError: Dask is not installed, or the scheduler does not answer.
    """
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--scheduler needs dask.distributed", "pip install 'attention-suite-ieeg[cluster]'") from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {scheduler}: {' '.join(str(error).split())[:120]}",
            "start one with 'dask scheduler', and workers that see the same folders",
        ) from None
    executor: Executor = client.get_executor()
    try:
        yield executor
    finally:
        client.close()
