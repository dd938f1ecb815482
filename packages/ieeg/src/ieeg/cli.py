"""The verbs of ``ieeg``; no logic. Heavy modules are imported inside the verbs that need them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core_runtime.cli import (
    Device,
    DeviceName,
    Json,
    Model,
    Out,
    Overwrite,
    Seed,
    Verbose,
    Workers,
    application,
    emit,
    end,
    resolve_device,
    run,
)
from ieeg.cli_learning import NOTICE, MaxChannels, ReferenceOption, add_to

app = application("ieeg", f"Intracranial recordings to forecasts and seizure events (MVPFormer). {NOTICE}")
Recordings = Annotated[Path, typer.Argument(metavar="PATH", help="A recording, a folder of them, or a BIDS data set.")]
Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Probability that an event reaches; default: the model's own.")
]
Low = Annotated[float | None, typer.Option(min=0, max=1, help="An event lasts while above this (hysteresis).")]
Smoothing = Annotated[int, typer.Option(min=1, help="Moving average over so many segments.")]
MinDuration = Annotated[float, typer.Option(min=0, help="Shortest event, seconds.")]
MergeGap = Annotated[float, typer.Option(min=0, help="Events closer than this become one, seconds.")]


class TraceName(StrEnum):
    tsv = "tsv"
    parquet = "parquet"


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the BIDS data set.")],
    patients: Annotated[int, typer.Option(min=1, help="How many; channels and rates vary.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Recordings of each patient.")] = 1,
    seconds: Annotated[int, typer.Option(min=60, help="Length of a recording.")] = 300,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Simulates patients with seizures, artefacts and mains hum: a BIDS data set of EDF+ files.

    Example: ieeg sample data --patients 6 --seconds 600
    """
    from ieeg.samples import SampleOptions, make_samples

    paths = make_samples(out, SampleOptions(patients, runs, seconds, seed), overwrite=overwrite)
    emit({"files": paths}, json, lambda: print(f"{len(paths)} recordings of {patients} patients in {out}"))


@app.command()
def inspect(
    path: Recordings,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write a picture of the (first) recording: FILE.png.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Says what a recording holds: montage, bad channels and why, rates, gaps, seizures; and whether it can be used.

    Example: ieeg inspect recording.edf --picture look.png
    """
    from ieeg.commands.inspect import inspect as look
    from ieeg.summaries import inspected

    result = inspected(look(path), picture)
    end(result, json)


def detect(
    path: Recordings,
    model: Model = None,
    out: Out = Path("detections"),
    threshold: Threshold = None,
    low: Low = None,
    smoothing: Smoothing = 1,
    min_duration: MinDuration = 0.0,
    merge_gap: MergeGap = 0.0,
    reference: ReferenceOption = None,
    max_channels: MaxChannels = None,
    keep_bads: Annotated[bool, typer.Option("--keep-bads", help="Use bad channels, too.")] = False,
    exclude: Annotated[list[str] | None, typer.Option(help="A channel to leave out; may be repeated.")] = None,
    notch: Annotated[
        float | None, typer.Option(min=0, help="Mains frequency, Hz; 0: none; default: from sidecar or spectrum.")
    ] = None,
    trace: Annotated[TraceName, typer.Option(help="Format of the probability trace.")] = TraceName.tsv,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html a recording.")] = True,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Work on this Dask cluster instead.")
    ] = None,
    skip_errors: Annotated[
        bool, typer.Option("--skip-errors/--stop", help="Go on after a recording that fails, or stop there.")
    ] = True,
    device: Device = DeviceName.auto,
    workers: Workers = 1,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Finds seizures: probability trace, events.tsv, EDF+ and MNE annotations, report. A rerun goes on. For research only, not for diagnosis.

    Example: ieeg detect recording.edf --model run/model --out detections
    """
    from ieeg.recordings.bids import find_recordings
    from ieeg.commands.detect import DetectOptions, detect_all
    from ieeg.recordings.recording import open_recording
    from ieeg.summaries import detected

    found = find_recordings(path)
    if len(found) == 1:
        open_recording(found[0].path)
    preparing = _preparing(reference, max_channels, keep_bads, exclude, notch)
    options = DetectOptions(_rules(threshold, low, smoothing, min_duration, merge_gap), preparing, trace.value, report)
    outcomes = detect_all(
        found,
        model,
        out,
        options,
        device=resolve_device(device),
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
        skip_errors=skip_errors,
    )
    result = detected(found, outcomes, out)
    end(result, json)


app.command("detect")(detect)
app.command("predict", help=(detect.__doc__ or "").replace("ieeg detect", "ieeg predict"), hidden=False)(detect)


@app.command()
def evaluate(
    path: Recordings,
    model: Model = None,
    detections: Annotated[
        Path | None, typer.Option(help="Judge these instead: a folder of 'ieeg detect', or of events.tsv files.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Second detector for a paired test: a model folder, or a folder of detections.")
    ] = None,
    out: Out = Path("evaluation"),
    threshold: Threshold = None,
    low: Low = None,
    smoothing: Smoothing = 1,
    min_duration: MinDuration = 0.0,
    merge_gap: MergeGap = 0.0,
    reference: ReferenceOption = None,
    max_channels: MaxChannels = None,
    device: Device = DeviceName.auto,
    workers: Workers = 1,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judges a detector by windows, samples and events (as SzCORE), per subject and pooled. For research only, not for diagnosis.

    Example: ieeg evaluate data --model run/model --out evaluation
    """
    from ieeg.commands.detect import DetectOptions
    from ieeg.commands.evaluate import evaluate as judge
    from ieeg.summaries import evaluated

    preparing = _preparing(reference, max_channels, False, None, None)
    options = DetectOptions(_rules(threshold, low, smoothing, min_duration, merge_gap), preparing, report=False)
    made = judge(
        path,
        out,
        model=model,
        detections=detections,
        against=against,
        options=options,
        device=resolve_device(device),
        workers=workers,
        seed=seed,
        overwrite=overwrite,
    )
    result = evaluated(made, out)
    end(result, json)


add_to(app)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything that is made.")],
    full: Annotated[bool, typer.Option("--full/--quick", help="Minutes instead of about one.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Simulates patients, trains the tiny model, and finds the seizures of patients it has not seen, beside a power threshold.

    Example: ieeg demo /tmp/demo
    """
    from ieeg.commands.demo import run_demo

    run_demo(out, full, seed=seed, overwrite=overwrite).emit(json)


def _rules(threshold: float | None, low: float | None, smoothing: int, min_duration: float, merge_gap: float) -> dict:
    given = {"threshold": threshold, "low": low}
    return {k: v for k, v in given.items() if v is not None} | {
        "smoothing": smoothing,
        "min_duration": min_duration,
        "merge_gap": merge_gap,
    }


def _preparing(
    reference: StrEnum | None, max_channels: int | None, keep_bads: bool, exclude: list[str] | None, notch: float | None
) -> dict:
    given = {"reference": reference and reference.value, "max_channels": max_channels, "notch": notch}
    chosen = {k: v for k, v in given.items() if v is not None}
    return chosen | ({"drop_bads": False} if keep_bads else {}) | ({"exclude": tuple(exclude)} if exclude else {})


def main() -> None:
    run(app)
