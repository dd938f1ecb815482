"""The verbs about models of ``remote-sensing maps``: train, evaluate, models; no logic. `add_to` puts them into the group."""

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
    emit,
    resolve_device,
)


class Variant(StrEnum):
    vit_b = "vit_b"
    vit_l = "vit_l"
    vit_h = "vit_h"
    tiny = "tiny"


class Stretch(StrEnum):
    percentile = "percentile"
    dtype = "dtype"


class Channels(StrEnum):
    rgb = "rgb"
    bgr = "bgr"


class Masked(StrEnum):
    double = "double"
    standard = "standard"


class Empty(StrEnum):
    zero = "zero"
    one = "one"
    skip = "skip"


class Token(StrEnum):
    new = "new"
    sam0 = "sam0"


Classes = Annotated[str | None, typer.Option("--classes", help="Names of the classes 1, 2, …: 'railway,vineyard'.")]
ClassColumn = Annotated[str | None, typer.Option("--class-column", help="Column of the vectors that names the class.")]
LineWidth = Annotated[str, typer.Option("--line-width", help="How wide lines are drawn: map units (5) or '4px'.")]
StretchOption = Annotated[
    Stretch, typer.Option("--stretch", help="How more than 8 bits become 8, for the whole sheet.")
]


def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Tiles with annotation/ (train, val), or a sheet with --labels.")
    ],
    out: Out = Path("run"),
    labels: Annotated[
        Path | None, typer.Option(help="Polygons or lines (GeoPackage, GeoJSON) or a raster, of a sheet.")
    ] = None,
    sam: Annotated[Path | None, typer.Option(help="SAM's checkpoint (sam_vit_b_01ec64.pth).")] = None,
    adapter: Annotated[Path | None, typer.Option(help="An adapter file to start from.")] = None,
    variant: Annotated[
        Variant, typer.Option(help="Encoder without --sam, trained whole; tiny is for tries.")
    ] = Variant.vit_b,
    classes: Classes = None,
    class_column: ClassColumn = None,
    line_width: LineWidth = "4px",
    side: Annotated[int, typer.Option(min=16, help="Of a sheet: pixels that one tile shows.")] = 224,
    image_size: Annotated[int, typer.Option(min=32, help="Pixels of a tile in the network, a multiple of 16.")] = 512,
    shots: Annotated[int, typer.Option(min=0, help="Training tiles; 0: all.")] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 160,
    lr: Annotated[float | None, typer.Option(help="By default 0.005 with --sam, 0.001 from nothing.")] = None,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.1,
    batch: Annotated[int, typer.Option(min=1, help="Tiles a step.")] = 16,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 4,
    masked_attention: Annotated[
        Masked, typer.Option(help="double: as published; standard: one softmax.")
    ] = Masked.double,
    channel_order: Annotated[Channels, typer.Option(help="bgr: as the published code reads pictures.")] = Channels.rgb,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="SAM's mean and deviation instead of plain [0, 1].")
    ] = False,
    init_mask_token: Annotated[Token, typer.Option(help="sam0 starts from SAM's single-mask token.")] = Token.new,
    augment: Annotated[bool, typer.Option(help="Mirror and turn the training tiles.")] = True,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="The published augmentation, labels and warm-up, mistakes included.")
    ] = False,
    stretch: StretchOption = Stretch.percentile,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    seed: Seed = 1234,
    config: Config = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Trains MapSAM on a few tiles, or on your own sheet with polygons or lines.

    Example: remote-sensing maps train sheet.tif --labels railways.gpkg --sam sam_vit_b_01ec64.pth --out run
    """
    from remote_sensing.maps.summaries import examples_of, named, trained
    from remote_sensing.maps.training import MapRecipe
    from remote_sensing.maps.training import train as fit

    options = {"column": class_column, "line_width": line_width, "side": side, "stretch": stretch.value}
    parts = examples_of(data, labels, named(classes), shots=shots, **options)
    normal = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)} if normalise else {}
    made = fit(
        *parts,
        out,
        variant=variant.value,
        sam=sam,
        adapter=adapter,
        recipe=MapRecipe(epochs, lr, weight_decay, batch, legacy=legacy, augment=augment),
        image_size=image_size,
        channel_order=channel_order.value,
        init_mask_token=init_mask_token.value,
        device=resolve_device(device),
        precision=str(precision),
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        progress=not json,
        arguments={
            "data": data,
            "labels": labels,
            "sam": sam,
            "channel_order": channel_order.value,
            "shots": shots,
            **options,
        },
        rank=rank,
        masked_attention=masked_attention.value,
        **normal,
    )
    emit({"model": made.model, **made.facts}, json, lambda: trained(made))


def evaluate(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Tiles with annotation/, or a mask that predict wrote with --truth.")
    ],
    model: Model = None,
    out: Out = Path("evaluation"),
    truth: Annotated[Path | None, typer.Option(help="True polygons, lines or a raster, of a mask.")] = None,
    part: Annotated[str, typer.Option(help="Of tiles: train, val or test.")] = "test",
    classes: Classes = None,
    class_column: ClassColumn = None,
    line_width: LineWidth = "4px",
    tolerance: Annotated[str, typer.Option(help="How near lines must be: map units or pixels.")] = "5px",
    empty: Annotated[Empty, typer.Option(help="What an image without feature and prediction counts.")] = Empty.zero,
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judges a model on labelled tiles, or a mask against true vectors: IoU, F1, lines by buffer, PQ of areas.

    Example: remote-sensing maps evaluate out/sheet_mask.tif --truth railways.gpkg --tolerance 10
    """
    from remote_sensing.maps.summaries import evaluated, judged

    options = {"classes": classes, "column": class_column, "line_width": line_width, "tolerance": tolerance}
    facts = judged(data, truth, model, out, device, part=part, empty=empty.value, overwrite=overwrite, **options)
    emit(facts, json, lambda: evaluated(facts, out))


def models(
    action: Annotated[ModelsAction, typer.Argument(help="What to do.")] = ModelsAction.list,
    what: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A name, an adapter file, or a model folder.")
    ] = None,
    out: Out = Path("models"),
    sam: Annotated[Path | None, typer.Option(help="Of convert: SAM's checkpoint.")] = None,
    classes: Classes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lists SAM's and MapSAM's files with licence, size and needs; gets, converts and checks them.

    Example: remote-sensing maps models convert epoch_159.pth --sam sam_vit_b_01ec64.pth --out railway-model
    """
    from remote_sensing.maps.summaries import about_models

    facts, show = about_models(action.value, what, out, sam, classes)
    emit(facts, json, show)


def add_to(app: typer.Typer) -> None:
    """Adds the verbs of this file to the group."""
    for verb in (train, evaluate, models):
        app.command()(verb)
