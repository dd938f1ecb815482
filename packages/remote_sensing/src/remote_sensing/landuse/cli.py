"""The verbs of ``remote-sensing landuse``; no logic. Heavy modules are imported inside the verbs that need them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core_runtime.cli import (
    Config,
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
    application,
    emit,
    resolve_device,
)

app = application("landuse", "Land use of Sentinel-2 tiles and scenes (EuroSAT networks with balanced attention).")


class Network(StrEnum):
    balanced = "balanced"
    cbam = "cbam"
    baseline = "baseline"
    resnet18 = "resnet18"
    resnet50 = "resnet50"


class Kind(StrEnum):
    auto = "auto"
    rgb = "rgb"
    ms = "ms"


class SplitName(StrEnum):
    auto = "auto"
    csv = "csv"
    torchgeo = "torchgeo"
    spatial = "spatial"
    hundred = "100"
    random70 = "random70"
    stratified = "stratified"


class Part(StrEnum):
    train = "train"
    val = "val"
    test = "test"
    all = "all"


class ScheduleName(StrEnum):
    restarts = "warm-restarts"
    cosine = "cosine"
    plateau = "plateau"


class Weighting(StrEnum):
    paper = "paper"
    effective = "effective"
    none = "none"


Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder or .zip of a EuroSAT download, in any layout.")]
KindOption = Annotated[Kind, typer.Option("--kind", help="Which tiles, where RGB and 13-band ones are both there.")]
SplitOption = Annotated[
    SplitName, typer.Option("--split", help="Kaggle's CSV, torchgeo's lists, or a made one (70/15/15 %).")
]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Where decoded tiles are kept; default: your cache folder.")
]
Bands = Annotated[str | None, typer.Option("--bands", help="Bands by name: 'B02,B03,B04,B08'.")]


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for tiles, split lists and a scene.")],
    tiles: Annotated[int, typer.Option(min=5, help="Tiles of each of the ten classes.")] = 12,
    scene: Annotated[int, typer.Option(min=0, help="Side of the scene in pixels, a multiple of 64; 0: none.")] = 512,
    rgb_only: Annotated[bool, typer.Option("--rgb-only", help="Without the 13-band GeoTIFFs.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws EuroSAT-like tiles (RGB and 13-band GeoTIFF in UTM), split lists of every kind, and a scene with its truth.

    Example: remote-sensing landuse sample data --tiles 40
    """
    from remote_sensing.landuse.samples import SampleParams, make_samples

    made = make_samples(out, SampleParams(tiles, scene, not rgb_only, seed), overwrite=overwrite, progress=not json)
    emit(
        {"folder": out, **made},
        json,
        lambda: print(
            f"{10 * tiles} tiles in {out}\nNext: remote-sensing landuse train {out} --split stratified --out run"
        ),
    )


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A download, a tile, or a scene (GeoTIFF, .SAFE).")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Says what tiles or a scene hold, whether they can be used, and what to do next.

    Example: remote-sensing landuse inspect EuroSAT_RGB
    """
    from remote_sensing.landuse.inspection import inspect as look
    from remote_sensing.landuse.summaries import inspected

    found = look(path)
    emit(vars(found), json, lambda: inspected(found))


@app.command()
def train(
    data: Data,
    out: Out = Path("run"),
    network: Annotated[
        Network, typer.Option("--network", help="balanced, cbam, baseline (published), or a ResNet.")
    ] = Network.balanced,
    kind: KindOption = Kind.auto,
    bands: Bands = None,
    split: SplitOption = SplitName.auto,
    weights: Annotated[Path | None, typer.Option(help="ImageNet weights of a ResNet (a local file).")] = None,
    width: Annotated[
        int | None, typer.Option(min=8, help="Channels of the first stage; default: as published.")
    ] = None,
    depths: Annotated[str | None, typer.Option(help="Blocks a stage of the balanced network: '3,3,3,2'.")] = None,
    drop: Annotated[float, typer.Option(min=0, max=1.5, help="Factor on the published dropout and DropBlock.")] = 1.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: as published for the network.")] = None,
    lr: Annotated[float | None, typer.Option(help="AdamW's rate; default: as published.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Tiles a step (64).")] = None,
    schedule: Annotated[ScheduleName | None, typer.Option(help="Default: as published for the network.")] = None,
    patience: Annotated[int | None, typer.Option(min=0, help="Epochs without progress that end it; 0: never.")] = None,
    class_weights: Annotated[
        Weighting | None, typer.Option(help="Of the loss; default: the paper's for EuroSAT's classes, else effective.")
    ] = None,
    augment: Annotated[bool, typer.Option("--augment/--no-augment", help="Flips, turns, colours, blur.")] = True,
    cache: Cache = None,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    seed: Seed = 42,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains a network with its published recipe and judges it on the test tiles.

    Example: remote-sensing landuse train EuroSAT_RGB --split random70 --precision 16-mixed --out run
    """
    from remote_sensing.landuse.summaries import numbers, recipe_for, trained
    from remote_sensing.landuse.training import train as fit

    made = fit(
        data,
        out,
        network=network.value,
        recipe=recipe_for(
            network.value,
            data,
            kind.value,
            epochs=epochs,
            lr=lr,
            weight_decay=weight_decay,
            batch=batch,
            schedule=schedule and schedule.value,
            patience=patience,
            class_weights=class_weights and class_weights.value,
            augment=augment,
        ),
        kind=kind.value,
        bands=_names(bands),
        split=split.value,
        weights=weights,
        width=width,
        depths=numbers(depths),
        drop=drop,
        cache=cache,
        device=resolve_device(device),
        precision=str(precision),
        workers=workers,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        progress=not json,
    )
    emit({"model": made.model, "epoch": made.epoch, **made.facts}, json, lambda: trained(made))


@app.command()
def evaluate(
    data: Data,
    model: Model = None,
    out: Out = Path("evaluation"),
    part: Annotated[Part, typer.Option(help="Which part of the split.")] = Part.test,
    split: SplitOption = SplitName.auto,
    kind: KindOption = Kind.auto,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the tile and its two mirror images.")] = False,
    cache: Cache = None,
    device: Device = DeviceName.auto,
    seed: Seed = 42,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judges a model on labelled tiles: accuracy, kappa, per class, confusion, calibration; pictures beside.

    Example: remote-sensing landuse evaluate EuroSAT_RGB --model run/model --tta
    """
    from remote_sensing.landuse.evaluation import evaluate as judge
    from remote_sensing.landuse.networks import load
    from remote_sensing.landuse.summaries import chosen, evaluated

    loaded = load(chosen(model), device=resolve_device(device))
    options = {"part": part.value, "split": split.value, "kind": kind.value, "tta": tta, "cache": cache}
    measured = judge(loaded, data, out, **options, seed=seed, overwrite=overwrite, progress=not json)
    emit(measured.plain(), json, lambda: evaluated(measured, out))


@app.command()
def predict(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Tiles (file, folder) or a scene (GeoTIFF, bands, .SAFE).")
    ],
    model: Model = None,
    out: Out = Path("predictions"),
    bands: Bands = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Of a scene: pixels between tiles, and a cell's side.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Of tiles: average over mirror images.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Tiles a step.")] = 128,
    device: Device = DeviceName.auto,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Threads of torch; 0: its own choice.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Names the land use of tiles, or maps a scene of any size (GeoTIFF with colour table, confidence, attention).

    Example: remote-sensing landuse predict scene.tif --model run/model --out maps
    """
    from remote_sensing.landuse.predict import inputs
    from remote_sensing.landuse.summaries import chosen, predicted, threads

    inputs(path)
    folder = chosen(model)
    from remote_sensing.landuse.networks import load
    from remote_sensing.landuse.predict import predict as run_model

    threads(workers)
    loaded = load(folder, device=resolve_device(device))
    options = {"bands": _names(bands), "stride": stride, "tta": tta, "batch": batch, "overwrite": overwrite}
    made = run_model(loaded, path, out, progress=not json, **options)
    facts = {
        "tiles": [vars(t) for t in made.tiles],
        "scenes": [vars(s) for s in made.scenes],
        "files": made.files,
        "failed": {o.name: o.message for o in made.outcomes},
    }
    emit(facts, json, lambda: predicted(made))
    from core_runtime.bulk import summary

    if summary(made.outcomes):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything that is made.")],
    full: Annotated[bool, typer.Option("--full/--quick", help="Minutes instead of about one.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws tiles, trains, judges beside a colour-histogram baseline, maps a scene, writes report.html.

    Example: remote-sensing landuse demo /tmp/landuse
    """
    from remote_sensing.landuse.demo import run_demo

    run_demo(out, full, seed=seed, overwrite=overwrite).emit(json)


@app.command()
def models(
    action: Annotated[ModelsAction, typer.Argument(help="What to do.")] = ModelsAction.list,
    what: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A name, a state dict, or a model folder.")
    ] = None,
    out: Out = Path("models"),
    classes: Annotated[str | None, typer.Option(help="Class names of a state dict, in order.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lists published weights with licence, size and needs; gets them; converts state dicts; checks model folders.

    Example: remote-sensing landuse models convert balanced.pth --out balanced-model
    """
    from remote_sensing.landuse.summaries import about_models

    facts, show = about_models(action.value, what, out, _names(classes))
    emit(facts, json, show)


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",")) if text else None
