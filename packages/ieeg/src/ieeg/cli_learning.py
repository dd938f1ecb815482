"""The verbs of ``ieeg`` about models: train, forecast, stream, models; no logic. `add_to` puts them into the command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from core_runtime.cli import (
    Device,
    DeviceName,
    Json,
    Model,
    ModelsAction,
    Out,
    Overwrite,
    Precision,
    PrecisionName,
    Resume,
    Seed,
    Verbose,
    Workers,
    config_option,
    end,
    resolve_device,
)
from ieeg.training.recipe import PUBLISHED_CONFIG

NOTICE = "For research only, not for diagnosis."


class TaskName(StrEnum):
    pretrain = "pretrain"
    detect = "detect"


class TuneName(StrEnum):
    lora = "lora"
    all = "all"
    head = "head"


class LawName(StrEnum):
    uniform = "uniform"
    official = "official"


class IndexName(StrEnum):
    official = "official"
    distance = "distance"


class ReferenceName(StrEnum):
    median = "median"
    average = "average"
    bipolar = "bipolar"
    laplacian = "laplacian"
    none = "none"


class Naming(StrEnum):
    ours = "ours"
    official = "official"
    braindecode = "braindecode"


MaxChannels = Annotated[
    int | None, typer.Option("--channels", min=0, help="Keep so many channels (the paper's choice, 32); 0: all.")
]
ReferenceOption = Annotated[
    ReferenceName | None, typer.Option("--reference", help="Instead of the model's own (median).")
]


def train(
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS…", help="Recordings, or folders of them.")],
    out: Out = Path("run"),
    model: Annotated[
        str, typer.Option("--model", help="tiny, s, m: a fresh model of that size; or a model folder to go on from.")
    ] = "tiny",
    task: Annotated[
        TaskName, typer.Option(help="pretrain: predict the next segment; detect: tell seizures.")
    ] = TaskName.detect,
    config: Annotated[Path | None, config_option(PUBLISHED_CONFIG)] = None,
    tune: Annotated[
        TuneName | None,
        typer.Option(help="Of detect: LoRA and head (default of a model folder), everything, the head."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batches: Annotated[int | None, typer.Option(min=1, help="Batches an epoch (published: 1000; tiny: 100).")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Windows a batch, all of one patient (published: 32).")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches an optimiser step.")] = 1,
    lr: Annotated[float | None, typer.Option(min=0, help="AdamW's highest rate (published: 1e-4; tiny: 2e-3).")] = None,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.01,
    warmup: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the steps in which the rate rises.")] = 0.1,
    clip: Annotated[float, typer.Option(min=0, help="Greatest norm of a gradient; 0: none.")] = 1.0,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.99, help="Published: 0.1; tiny: 0.")] = None,
    structured_dropout: Annotated[
        bool, typer.Option("--structured-dropout", help="Attention drops whole segments and channels (paper, kernel).")
    ] = False,
    window: Annotated[int | None, typer.Option(min=1, help="Segments a window (25; tiny: 12).")] = None,
    rate: Annotated[float | None, typer.Option(min=1, help="Hz, of a fresh model (512; tiny: 128).")] = None,
    relative_index: Annotated[
        IndexName | None, typer.Option(help="Of a fresh model: row of the position tables by end or by distance.")
    ] = None,
    reference: ReferenceOption = None,
    max_channels: MaxChannels = None,
    batch_channels: Annotated[int, typer.Option(min=1, help="Windows are cut to so many channels.")] = 32,
    balanced: Annotated[
        bool, typer.Option("--balanced/--as-they-come", help="Half of the windows with seizures.")
    ] = True,
    slow_down: Annotated[bool, typer.Option("--slow-down/--even", help="Finer steps around seizures.")] = True,
    class_weights: Annotated[str | None, typer.Option(help="Of (other, seizure) in the loss: '1,5'.")] = None,
    negatives: Annotated[int, typer.Option(min=1, help="Of the generative objective.")] = 30,
    temperature: Annotated[float, typer.Option(min=0, help="Of the generative objective.")] = 0.1,
    law: Annotated[LawName, typer.Option(help="How negatives are drawn.")] = LawName.uniform,
    lora_rank: Annotated[int, typer.Option(min=1)] = 8,
    lora_alpha: Annotated[float, typer.Option(min=0)] = 16.0,
    validation: Annotated[
        str, typer.Option(help="Patients held out: a share (0.2, 0), or names 'sub-01,sub-07'.")
    ] = "0.2",
    selection: Annotated[
        str, typer.Option(help="Which epoch is kept: best (on the patients held out) or last.")
    ] = "best",
    drop_copies: Annotated[
        bool, typer.Option("--drop-copies", help="Of recordings that are the same, keep the first; default: refuse.")
    ] = False,
    store_limit: Annotated[
        float, typer.Option(min=0, help="GB that prepared recordings may take while training.")
    ] = 20.0,
    devices: Annotated[int, typer.Option(min=1, help="Devices to train on.")] = 1,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains MVPFormer, patient by patient; refuses copies of one recording under two names. For research only, not for diagnosis.

    Example: ieeg train data --task detect --model tiny --out run
    """
    from ieeg.commands.forecast import trained
    from ieeg.training.recipe import recipe_for
    from ieeg.commands.train import train as fit

    recipe = recipe_for(
        model,
        task=task.value,
        tune=tune and tune.value,
        epochs=epochs,
        batches=batches,
        batch=batch,
        accumulate=accumulate,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        clip=clip,
        dropout=dropout,
        structured_dropout=structured_dropout,
        balanced=balanced,
        slow_down=slow_down,
        class_weights=_pair(class_weights),
        negatives=negatives,
        temperature=temperature,
        law=law.value,
        max_channels=batch_channels,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        selection=selection,
    )
    preparing = {"reference": reference and reference.value, "max_channels": max_channels}
    made = fit(
        paths,
        out,
        model=model,
        recipe=recipe,
        window=window,
        rate=rate,
        preparing={k: v for k, v in preparing.items() if v is not None},
        validation=_share(validation),
        drop_copies=drop_copies,
        store_limit=store_limit * 1e9,
        relative_index=relative_index and relative_index.value,
        device=resolve_device(device),
        precision=str(precision),
        workers=workers,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        progress=not json,
        trainer={"devices": devices} if devices > 1 else None,
    )
    end(trained(made), json)


def forecast(
    path: Annotated[Path, typer.Argument(metavar="RECORDING", help="The recording to look ahead in.")],
    model: Model = None,
    out: Out = Path("forecast"),
    at: Annotated[
        float | None, typer.Option(help="Second from which to forecast; default: the recording's last segments.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Segments to forecast, each from the ones before.")] = 1,
    reference: ReferenceOption = None,
    max_channels: MaxChannels = None,
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Forecasts the next segments of every channel and shows them against the truth. For research only, not for diagnosis.

    Example: ieeg forecast recording.edf --model run/model --at 600 --steps 2
    """
    from ieeg.commands.forecast import forecast_file

    preparing = {"reference": reference and reference.value, "max_channels": max_channels}
    where = resolve_device(device)
    made = forecast_file(path, model, out, at=at, steps=steps, device=where, overwrite=overwrite, **preparing)
    end(made, json)


def stream(
    path: Annotated[Path, typer.Argument(metavar="RECORDING", help="A long recording, or one that is still growing.")],
    model: Model = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File that gets the lines, too (.jsonl).")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="At the end wait for more.")] = False,
    poll: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks.")] = 5.0,
    patience: Annotated[
        float | None, typer.Option(min=0, help="With --follow: end when nothing has come for so many seconds.")
    ] = None,
    every: Annotated[bool, typer.Option("--every", help="A line for every segment, not for alarms alone.")] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="An alarm begins here; default: the model's own.")
    ] = None,
    release: Annotated[
        float | None, typer.Option(min=0, max=1, help="It ends below; default: 0.8 of the threshold.")
    ] = None,
    confirm: Annotated[int, typer.Option(min=1, help="So many segments in a row must reach the threshold.")] = 1,
    reference: ReferenceOption = None,
    max_channels: MaxChannels = None,
    device: Device = DeviceName.auto,
    resume: Resume = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Follows a recording segment by segment and prints alarms as lines of JSON. For research only, not for diagnosis.

    Example: ieeg stream recording.edf --model run/model --follow --out alarms.jsonl
    """
    from ieeg.commands.forecast import stream_file

    preparing = {"reference": reference and reference.value, "max_channels": max_channels}
    stream_file(
        path,
        model,
        lambda line: print(line, flush=True),
        out=out,
        every=every,
        follow=follow,
        poll=poll,
        patience=patience,
        threshold=threshold,
        release=release,
        confirm=confirm,
        resume=resume,
        overwrite=overwrite,
        device=resolve_device(device),
        **preparing,
    )


def models(
    action: Annotated[ModelsAction, typer.Argument(help="What to do.")] = ModelsAction.list,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A name (get), a checkpoint or model folder (convert), a folder (check)."
        ),
    ] = None,
    out: Out = Path("models"),
    base: Annotated[
        Path | None, typer.Option(help="convert: the base file of a head file (LoRA and seizure head).")
    ] = None,
    to: Annotated[Naming, typer.Option(help="convert: whose naming to write.")] = Naming.ours,
    head_width: Annotated[
        int | None, typer.Option(min=1, help="convert: width of an attention head, of sizes that are not published.")
    ] = None,
    lora_alpha: Annotated[float, typer.Option(help="convert: which the files do not say.")] = 16.0,
    merge: Annotated[bool, typer.Option("--merge", help="convert: merge LoRA into the weights.")] = False,
    ones_gain: Annotated[
        bool, typer.Option("--ones-gain", help="convert: encoder gain set to ones, as the published loader does.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lists published MVPFormer weights; gets them, converts between IBM's, braindecode's and our naming, checks folders.

    Example: ieeg models convert mvpformer_s_swec.pt --base mvpformer_s_base.pt --out model
    """
    from ieeg.commands.forecast import about_models

    options: dict[str, Any] = (
        {
            "base": base,
            "to": to.value,
            "dim": head_width,
            "lora_alpha": lora_alpha,
            "merge": merge,
            "ones_gain": ones_gain,
        }
        if action == ModelsAction.convert
        else {}
    )
    end(about_models(action.value, what, out, **options), json)


def add_to(app: typer.Typer) -> None:
    """Adds the verbs of this file to the command."""
    for verb in (train, forecast, stream, models):
        app.command()(verb)


def _pair(text: str | None) -> tuple[float, float] | None:
    """``'1,5'`` as two numbers."""
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the form '1,5'", param_hint="--class-weights") from None
    return first, second


def _share(text: str) -> str | float:
    """A share of the patients, or their names."""
    try:
        share = float(text)
    except ValueError:
        return text
    if not 0 <= share < 1:
        raise typer.BadParameter(f"{text} is no share from 0 to below 1", param_hint="--validation")
    return share
