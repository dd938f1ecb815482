"""``ieeg detect``, which is also called ``predict``."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk
from core_runtime.errors import UserError
from core_runtime.identity import keep_latest
from core_runtime.options import BulkOptions, Device, Flag, Model, Out, options, resolve_device
from ieeg.model.published import RESEARCH_ONLY
from ieeg.recordings.finding import RecordingFile, files_of, find_recordings
from ieeg.recordings.labels import LabelOptions, read_label_map
from ieeg.recordings.settings import Cleaning, Montage
from ieeg.results.options import EventOptions

if TYPE_CHECKING:
    from ieeg.model.folder import LoadedModel
    from ieeg.results.detection import Detection

_EVENTS_PRINTED = 20


@options
class OutputOptions:
    """Which files are written.

    Attributes:
        trace: format of the probability trace.
        report: write report.html for each recording.
    """

    trace: Literal["tsv", "parquet"] = "tsv"
    report: Annotated[bool, Flag("--no-report")] = True


@dataclass(frozen=True)
class Detections(BulkOutcome):
    """Detected seizures.

    Attributes:
        out: the folder with a folder for each recording.
        detections: the facts of each recording that succeeded, as in its detection.json, and its `folder`.
        attempts: the result of each recording.
    """

    out: Path
    detections: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {"detections": self.detections, "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for facts in self.detections:
            events = facts["events"]
            plural = "s"
            if len(events) == 1:
                plural = ""
            yield f"{Path(facts['recording']).name}: {len(events)} event{plural}"
            for event in events[:_EVENTS_PRINTED]:
                yield _event_line(event)
            if len(events) > _EVENTS_PRINTED:
                yield f"  … and {len(events) - _EVENTS_PRINTED} more in its events.tsv"
            for note in facts["notes"]:
                yield f"  {note}"
            yield f"  {facts['folder']}"
        yield RESEARCH_ONLY


def _event_line(event: dict[str, Any]) -> str:
    line = f"  {event['onset']:9.1f} s  {event['duration']:6.1f} s  confidence {event['confidence']:.2f}"
    first = [entry["channel"] for entry in event["earliest_channels"][:4]]
    if not first:
        return line
    return f"{line}  first: {', '.join(first)}"


@dataclass(frozen=True)
class Job:
    """The work of a process on one recording; picklable."""

    path: str
    patient: str
    dataset: str
    model: str
    device: str
    events: EventOptions
    montage: Montage
    cleaning: Cleaning
    labels: LabelOptions
    output: OutputOptions
    show: bool = False


def detect(
    recordings: Path,
    /,
    *,
    model: Model = None,
    out: Out = Path("detections"),
    events: EventOptions = EventOptions(),
    montage: Montage = Montage(),
    cleaning: Cleaning = Cleaning(),
    labels: LabelOptions = LabelOptions(),
    output: OutputOptions = OutputOptions(),
    scheduler: Annotated[str | None, Parameter(metavar="tcp://HOST:PORT")] = None,
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Detections:
    """Finds seizures: probability trace, events.tsv, EDF+ and MNE annotations, report. A rerun continues. For research only, not for diagnosis.

    Example: ieeg detect recording.edf --model run/model --out detections

    Args:
        recordings: a recording, a folder of recordings, or a BIDS data set.
        scheduler: work on this Dask cluster instead.
    """
    files = find_recordings(recordings)
    if len(files) == 1:
        from ieeg.recordings.opening import open_recording

        open_recording(files[0].path)  # a mistake in a single file is the first line that the user sees
    attempts = detect_files(
        files,
        model,
        out,
        events=events,
        montage=montage,
        cleaning=cleaning,
        labels=labels,
        output=output,
        scheduler=scheduler,
        device=resolve_device(device),
        run=run,
    )
    detections = []
    for file, attempt in zip(files, attempts, strict=True):
        if attempt.ok:
            folder = out / file.name
            facts = json.loads((folder / "detection.json").read_text(encoding="utf-8"))
            detections.append({**facts, "folder": str(folder)})
    return Detections(out, detections, attempts)


def detect_files(
    files: Sequence[RecordingFile],
    model: str | None,
    out: Path,
    *,
    events: EventOptions,
    montage: Montage,
    cleaning: Cleaning,
    labels: LabelOptions,
    output: OutputOptions,
    device: str,
    scheduler: str | None = None,
    run: BulkOptions = BulkOptions(),
) -> list[Attempt]:
    """Detects in recordings, with a folder of results for each; results from the same inputs and options are not computed again.

    Raises:
        UserError: no model; or results of another model, other options or another recording exist and `run` does not replace them.
    """
    from core_runtime.identity import identity, model_identity
    from ieeg.model.folder import choose

    # Unusable options are found before any work.
    read_label_map(labels.label_map)
    folder = choose(model)
    loaded = _load(str(folder), device)
    events.for_model(loaded.threshold)  # options may not fit the model's own threshold
    weights = model_identity(folder)
    label_map = None
    if labels.label_map is not None:
        label_map = identity(labels.label_map)
    items = []
    for file in files:
        sources = files_of(file.path)
        key = {
            "input": {path.name: identity(path) for path in sources},
            "patient": file.patient,
            "model": weights,
            "events": events,
            "montage": montage,
            "cleaning": cleaning,
            "labels": labels,
            "label_map": label_map,
            "output": output,
        }
        job = Job(
            str(file.path.resolve()),
            file.patient,
            file.dataset,
            str(folder.resolve()),
            device,
            events,
            montage,
            cleaning,
            labels,
            output,
            show=len(files) == 1,
        )
        items.append(Item(file.name, job, out / file.name, key=key, inputs=sources))
    with _executor(scheduler) as executor:
        return bulk(
            detect_item,
            items,
            run,
            log=out / "log.jsonl",
            description="Detecting",
            executor=executor,
        )


@keep_latest
def _load(model: str, device: str) -> "LoadedModel":
    """The model, once in each process as long as its folder stays as it is."""
    from ieeg.model.folder import load_model

    return load_model(model, device=device)


def detect_item(item: Item) -> dict[str, Any]:
    """Detects in one recording and writes its folder, whole or not at all."""
    from core_runtime.folders import writing
    from ieeg.results.detection import detect_recording

    job: Job = item.source
    detection = detect_recording(
        _load(job.model, job.device),
        Path(job.path),
        events=job.events,
        montage=job.montage,
        cleaning=job.cleaning,
        labels=job.labels,
        with_attention=job.output.report,
        patient=job.patient,
        dataset=job.dataset,
        show=job.show,
    )
    facts = detection.facts()
    with writing(item.output) as part:
        part.mkdir()
        write_detection(detection, part, job.output)
        # only now, when the new results are complete, do the old ones go
        if item.output.exists():
            shutil.rmtree(item.output)
    return {"events": facts["events"], "duration": facts["duration"], "notes": facts["notes"]}


def write_detection(detection: "Detection", folder: Path, output: OutputOptions = OutputOptions()) -> None:
    """Writes all results of one recording to a folder: trace, events.tsv and its JSON, EDF+, MNE Annotations, detection.json, report.html."""
    from core_runtime.folders import write_text
    from ieeg.reports.detection import detection_report
    from ieeg.results.files import annotations, events_sidecar, events_table, write_edf, write_trace

    recording = detection.prepared.recording
    stem = recording.name.removesuffix("_ieeg").removesuffix("_eeg")
    write_trace(folder / f"{stem}_probability.{output.trace}", detection.probability, detection.seconds)
    channels = []  # of each event, the names of those involved first
    for involved in detection.involved:
        channels.append([channel for channel, _ in involved[:8]])
    table = events_table(detection.events, recording.duration, recording.start, channels)
    write_text(folder / f"{stem}_events.tsv", table)
    write_text(folder / f"{stem}_events.json", events_sidecar())
    edf = folder / f"{stem}_detections.edf"
    write_edf(edf, detection.events, detection.probability, detection.seconds, recording.start)
    annotations(detection.events).save(folder / f"{stem}-annot.fif", overwrite=True, verbose="error")
    write_text(folder / "detection.json", json.dumps(detection.facts(), indent=1, ensure_ascii=False) + "\n")
    if output.report:
        detection_report(detection).write(folder / "report.html")


@contextmanager
def _executor(scheduler: str | None) -> Iterator[Executor | None]:
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
