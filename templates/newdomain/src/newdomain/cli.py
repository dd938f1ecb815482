"""The verbs of ``newdomain``; no logic."""

from pathlib import Path
from typing import Annotated

import typer

from core_runtime.bulk import FAILED, Outcome, summary
from core_runtime.cli import (
    Config,
    Device,
    DeviceName,
    Json,
    Model,
    Out,
    Overwrite,
    Precision,
    PrecisionName,
    Resume,
    Seed,
    Verbose,
    Workers,
    application,
    emit,
    resolve_device,
    run,
)
from core_runtime.errors import UserError

app = application("newdomain", "NEWQUESTION")
Target = Annotated[Path, typer.Argument(metavar="PATH", help="A signal (CSV) or a folder of them.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Signals with a labels.csv.")]


@app.command()
def sample(
    out: Annotated[Path, typer.Argument()],
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Writes synthetic signals with labels. Example: `newdomain sample data`"""
    from newdomain.samples import make_samples

    paths = make_samples(out, seed=seed, overwrite=overwrite)
    emit({"files": paths}, json, lambda: print(f"{len(paths)} signals and labels.csv in {out}"))


@app.command()
def inspect(path: Target, json: Json = False, verbose: Verbose = False) -> None:
    """Says what a file holds and whether it can be used. Example: `newdomain inspect signal.csv`"""
    from newdomain.signals import read_signal, signal_files

    signals = [read_signal(p) for p in signal_files(path)]
    rows = [{"signal": s.name, "samples": len(s.values), "windows": len(s.windows())} for s in signals]
    emit(rows, json, lambda: [print(f"{r['signal']}: {r['samples']} samples, usable") for r in rows] and None)


@app.command()
def train(
    folder: Folder,
    out: Out = Path("newdomain-run"),
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    lr: Annotated[float, typer.Option(min=0)] = 3e-3,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    seed: Seed = 0,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains a model on labelled signals. Example: `newdomain train data --out run`"""
    from newdomain.training import train as fit

    options = {
        "device": resolve_device(device),
        "precision": str(precision),
        "workers": workers,
        "seed": seed,
        "resume": resume,
        "overwrite": overwrite,
    }
    model = fit(folder, out, epochs=epochs, lr=lr, progress=not json, **options)
    emit({"model": model}, json, lambda: print(f"Model folder: {model}"))


@app.command()
def evaluate(
    folder: Folder,
    model: Model = None,
    out: Out = Path("newdomain-evaluation"),
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judges a model on labelled signals. Example: `newdomain evaluate data --model run/model`"""
    import json as jsonlib

    from core_runtime.folders import write_text
    from newdomain.training import evaluate as judge

    if (out / "metrics.json").exists() and not overwrite:
        raise UserError(f"{out} already holds an evaluation", "--overwrite replaces it, --out names another folder")
    metrics = judge(_chosen(model), folder, device=resolve_device(device))
    write_text(out / "metrics.json", jsonlib.dumps(metrics))
    emit(metrics, json, lambda: [print(f"{name:10} {value:.3f}") for name, value in metrics.items()] and None)


@app.command()
def predict(
    path: Target,
    model: Model = None,
    out: Out = Path("newdomain-predictions"),
    device: Device = DeviceName.auto,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Finds bursts in signals. Example: `newdomain predict signal.csv --model run/model`"""
    from newdomain.signals import signal_files

    files = signal_files(path)
    folder = _chosen(model)
    from newdomain.predict import Predictor, predict_file

    predictor = Predictor(folder, resolve_device(device))
    results, outcomes = [], []
    for file in files:
        if (out / f"{file.stem}.json").exists() and not overwrite:
            raise UserError(f"{out} already holds a prediction of {file.stem}", "--overwrite replaces it")
        try:
            results.append(predict_file(predictor, file, out))
        except UserError as error:
            if len(files) == 1:
                raise
            outcomes.append(Outcome(file.name, FAILED, error.message))
    emit(
        {"predictions": [vars(r) for r in results]},
        json,
        lambda: [print(f"{r.signal}: {r.probability:.3f} (at {r.seconds} s)") for r in results] and None,
    )
    if summary(outcomes):
        raise typer.Exit(1)


def _chosen(model: str | None) -> Path:
    if model is None:
        raise UserError(
            "no --model was given, and none is published for this domain",
            "'newdomain train FOLDER --out RUN' makes RUN/model",
        )
    return Path(model)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument()],
    full: Annotated[bool, typer.Option("--full/--quick")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Samples, trains, evaluates, predicts and reports. Example: `newdomain demo /tmp/demo`"""
    from newdomain.demo import run_demo

    run_demo(out, full, seed=seed, overwrite=overwrite).emit(json)


@app.command()
def models(json: Json = False, verbose: Verbose = False) -> None:
    """Lists published weights with licence, size and needs (none yet). Example: `newdomain models --json`"""
    emit(
        {"models": []},
        json,
        lambda: print("No weights are published for this domain yet; 'newdomain train' makes a model folder."),
    )


def main() -> None:
    run(app)
