"""The verbs of ``remote-sensing maps``; no logic. Heavy modules are imported inside the verbs that need them."""

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
    Precision,
    PrecisionName,
    Seed,
    Verbose,
    application,
    emit,
    resolve_device,
)
from remote_sensing.maps.cli_learning import Stretch, StretchOption, add_to

app = application("maps", "Vector features from historical map sheets (MapSAM).")


class VectorFormat(StrEnum):
    gpkg = "gpkg"
    geojson = "geojson"


MinArea = Annotated[str, typer.Option("--min-area", help="Smallest object: map units² (200) or '60px' pixels.")]
Simplify = Annotated[str, typer.Option("--simplify", help="How far outlines may move: map units or pixels ('0.7px').")]
Centrelines = Annotated[bool, typer.Option("--centrelines", help="Also centre-lines, of line features.")]
Spur = Annotated[str, typer.Option("--spur", help="Dead ends shorter than this are pruned.")]
Gap = Annotated[str, typer.Option("--gap", help="Ends this near that point at each other are joined.")]
Connectivity = Annotated[int, typer.Option("--connectivity", help="8 joins pixels over corners, 4 does not.")]
OwnCrs = Annotated[bool, typer.Option("--keep-crs", help="GeoJSON in the sheet's coordinates, not in WGS 84.")]


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for sheets, truth and training tiles.")],
    sheets: Annotated[int, typer.Option(min=1, help="How many sheets.")] = 2,
    size: Annotated[int, typer.Option(min=200, help="Side of a sheet in pixels.")] = 700,
    tiles: Annotated[int, typer.Option(min=4, help="Training tiles with labels.")] = 20,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws georeferenced sheets with true railways and vineyards, and training tiles.

    Example: remote-sensing maps sample data --sheets 3
    """
    from remote_sensing.maps.samples import MapSampleParams, make_samples

    made = make_samples(out, MapSampleParams(sheets, size, tiles, seed=seed), overwrite=overwrite, progress=not json)
    hint = f"remote-sensing maps train {out / 'dataset_railway'} --variant tiny --out run"
    emit({"folder": out, **made}, json, lambda: print(f"{sheets} sheets and {tiles} tiles in {out}\nNext: {hint}"))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A sheet, a folder of sheets, or training tiles.")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Says what a sheet holds, whether it can be used, and what to do next.

    Example: remote-sensing maps inspect sheet.tif
    """
    from remote_sensing.maps.inspection import inspect as look
    from remote_sensing.maps.summaries import inspected

    found = look(path)
    emit(vars(found), json, lambda: inspected(found))


add_to(app)


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A sheet or a folder of sheets.")],
    model: Model = None,
    out: Out = Path("map-predictions"),
    vector: Annotated[VectorFormat | None, typer.Option(help="Also polygons, in this format.")] = None,
    centrelines: Centrelines = False,
    bbox: Annotated[str | None, typer.Option(help="left,bottom,right,top in map coordinates.")] = None,
    roi: Annotated[
        Path | None, typer.Option(help="Polygons (GeoPackage, GeoJSON) outside of which nothing is looked at.")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="How many times larger symbols are here than in the training tiles.")
    ] = 1.0,
    overlap: Annotated[float, typer.Option(help="Share of a tile that neighbours have in common.")] = 0.25,
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel is a feature.")] = 0.5,
    abstain: Annotated[float, typer.Option(help="Below this (calibrated) certainty a pixel is marked unsure.")] = 0.75,
    stretch: StretchOption = Stretch.percentile,
    min_area: MinArea = "0",
    simplify: Simplify = "0.7px",
    spur: Spur = "10px",
    gap: Gap = "12px",
    connectivity: Connectivity = 8,
    keep_crs: OwnCrs = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many tiles there would be.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Tiles a step.")] = 4,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Threads of torch; 0: its own choice.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Segments sheets of any size: mask, probabilities, polygons, centre-lines. A killed run goes on by row strips.

    Example: remote-sensing maps predict sheet.tif --model run/model --vector gpkg --centrelines --out maps
    """
    from remote_sensing.maps.summaries import planned, predicted, sheets_predicted

    options = {"overlap": overlap, "scale": scale, "threshold": threshold, "abstain": abstain, "batch": batch}
    vectors = {"min_area": min_area, "simplify": simplify, "spur": spur, "gap": gap, "connectivity": connectivity}
    facts, outcomes = sheets_predicted(
        path,
        model,
        out,
        wanted={"bbox": bbox, "roi": roi, "stretch": stretch.value},
        options=options,
        vector=vector and vector.value,
        vectors={**vectors, "centrelines": centrelines, "rfc7946": not keep_crs},
        device=device,
        precision=str(precision),
        workers=workers,
        dry_run=dry_run,
        overwrite=overwrite,
        progress=not json,
    )
    emit(facts, json, lambda: planned(facts) if dry_run else predicted(facts))
    from core_runtime.bulk import summary

    if summary(outcomes):
        raise typer.Exit(1)


@app.command()
def vectorize(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="A raster of class numbers, as predict writes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .gpkg, .geojson, .shp or .fgb file.")] = Path(
        "features.gpkg"
    ),
    probability: Annotated[Path | None, typer.Option(help="The _prob.tif beside the mask.")] = None,
    centrelines: Centrelines = False,
    min_area: MinArea = "0",
    simplify: Simplify = "0.7px",
    spur: Spur = "10px",
    gap: Gap = "12px",
    connectivity: Connectivity = 8,
    keep_crs: OwnCrs = False,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Turns a mask into polygons, one an object however large, and centre-lines, in map coordinates.

    Example: remote-sensing maps vectorize out/sheet_mask.tif --centrelines --out railways.gpkg
    """
    from remote_sensing.maps.summaries import vectorised
    from remote_sensing.maps.vectorise import VectorOptions, vectorise

    options = VectorOptions(min_area, simplify, connectivity, centrelines, spur, gap, not keep_crs)
    facts = vectorise(mask, out, options, probability=probability, overwrite=overwrite, progress=not json)
    emit(facts, json, lambda: vectorised(facts))


@app.command("prompt")
def prompt_sheets(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A sheet or a folder of sheets.")],
    prompts: Annotated[
        Path, typer.Option(help="Points or boxes (GeoPackage, GeoJSON); columns object and label may group points.")
    ],
    sam: Annotated[Path, typer.Option(help="SAM's checkpoint (sam_vit_b_01ec64.pth).")],
    out: Out = Path("map-objects"),
    side: Annotated[int, typer.Option(min=16, help="Pixels of the sheet around a prompt that SAM sees.")] = 512,
    image_size: Annotated[int, typer.Option(min=32, help="Pixels of the network, a multiple of 16.")] = 1024,
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Outlines what your points or boxes mean, over a whole folder of sheets, with plain SAM.

    Example: remote-sensing maps prompt sheets/ --prompts houses.gpkg --sam sam_vit_b_01ec64.pth --out objects
    """
    from remote_sensing.maps.prompting import load_prompted
    from remote_sensing.maps.prompting import prompt_sheets as outline
    from remote_sensing.maps.sheets import find_sheets
    from remote_sensing.maps.summaries import outlined

    sheets = find_sheets(path)
    network = load_prompted(sam, image_size=image_size, device=resolve_device(device))
    rows = outline(network, sheets, prompts, out, side=side, overwrite=overwrite, progress=not json)
    emit({"sheets": rows}, json, lambda: outlined(rows))


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything that is made.")],
    full: Annotated[bool, typer.Option("--full/--quick", help="Minutes instead of about one.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws sheets, trains a tiny MapSAM, extracts railways beside Otsu and morphology, writes report.html.

    Example: remote-sensing maps demo /tmp/maps
    """
    from remote_sensing.maps.demo import run_demo

    run_demo(out, full, seed=seed, overwrite=overwrite).emit(json)
