"""The verbs of ``pathology-mil``; no logic. Heavy modules are imported inside the verbs that need them."""

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
    Out,
    Overwrite,
    Precision,
    PrecisionName,
    Seed,
    Verbose,
    Workers,
    application,
    end,
    resolve_device,
    run,
)
from pathology_mil.cli_learning import add_to

app = application("pathology-mil", "Whole slides to tiles, features, a slide label and a heat map (ACMIL).")


class Preset(StrEnum):
    default = "default"
    biopsy = "biopsy"
    resection = "resection"
    tcga = "tcga"


class TissueMethod(StrEnum):
    clam = "clam"
    otsu = "otsu"


class LayoutName(StrEnum):
    trident = "trident"
    clam = "clam"


class ContourRule(StrEnum):
    four_pt = "four_pt"
    four_pt_hard = "four_pt_hard"
    centre = "center"
    basic = "basic"


class StoredType(StrEnum):
    float16 = "float16"
    float32 = "float32"


class ScaleName(StrEnum):
    n_a = "n-a"
    percentile = "percentile"


Slides = Annotated[
    Path,
    typer.Argument(metavar="SLIDES", help="A slide, a folder (searched to any depth) or a CSV (columns wsi, mpp)."),
]
SlideMpp = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="The scan's own resolution (µm per pixel), where the file does not say it."),
]
SlideMag = Annotated[
    float | None, typer.Option("--slide-mag", help="The scan's own objective (20, 40), where the file does not say it.")
]
SkipErrors = Annotated[
    bool, typer.Option("--skip-errors/--stop", help="Go on after a slide that fails, or stop there.")
]


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for slides, annotations and labels.csv.")],
    slides: Annotated[int, typer.Option(min=1, help="How many; half of them have tumour-like nests.")] = 12,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws synthetic pyramidal slides with labels and annotated nests.

    Example: pathology-mil sample data --slides 24
    """
    from pathology_mil.samples.samples import SampleParams, make_samples
    from pathology_mil.summaries import sampled

    outcomes = make_samples(out, SampleParams(slides, seed), workers=workers, overwrite=overwrite)
    result = sampled(out, outcomes)
    end(result, json)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A slide, a folder, tiles, features or annotations.")],
    slide_mpp: Annotated[
        float | None,
        typer.Option("--slide-mpp", "--mpp", help="The scan's own resolution, where the file does not say it."),
    ] = None,
    slide_mag: Annotated[
        float | None,
        typer.Option("--slide-mag", "--mag", help="The scan's own objective, where the file does not say it."),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Says what a file holds, whether it can be used, and what to do next.

    Example: pathology-mil inspect slide.svs
    """
    from pathology_mil.commands.inspect import inspect as look
    from pathology_mil.slides.resolution import own_mpp
    from pathology_mil.summaries import inspected

    result = inspected(look(path, mpp=own_mpp(slide_mpp, slide_mag)))
    end(result, json)


@app.command()
def tile(
    slides: Slides,
    out: Out = Path("job"),
    mag: Annotated[float | None, typer.Option(help="Magnification of the tiles, nominal (default 20).")] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Resolution of the tiles, true µm per pixel, instead of --mag.")
    ] = None,
    patch_size: Annotated[int, typer.Option(help="Side of a tile in pixels at that resolution.")] = 256,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 0,
    layout: Annotated[LayoutName, typer.Option(help="Grid and files of TRIDENT or of CLAM.")] = LayoutName.trident,
    min_tissue: Annotated[float, typer.Option(help="Share of a tile that must be tissue (trident).")] = 0.0,
    contour_fn: Annotated[
        ContourRule, typer.Option(help="What makes a tile belong to tissue (clam).")
    ] = ContourRule.four_pt,
    preset: Annotated[Preset, typer.Option(help="Settings of the tissue filter.")] = Preset.default,
    tissue: Annotated[
        TissueMethod, typer.Option(help="clam: saturation; otsu: grey level at 1.25×.")
    ] = TissueMethod.clam,
    keep_holes: Annotated[
        bool, typer.Option("--keep-holes", help="Count holes in the tissue as tissue (trident).")
    ] = False,
    keep_pen: Annotated[bool, typer.Option("--keep-pen", help="Do not leave pen marks out.")] = False,
    sthresh: Annotated[int | None, typer.Option(min=0, max=255, help="Saturation above this is tissue (clam).")] = None,
    seg_level: Annotated[int, typer.Option(help="Pyramid level to look for tissue on; -1 chooses.")] = -1,
    area: Annotated[
        float | None, typer.Option("--min-area", help="Smallest piece of tissue, in squares of 512 pixels.")
    ] = None,
    process_list: Annotated[
        Path | None, typer.Option(help="CLAM's process list, edited: which slides, and how each.")
    ] = None,
    tissue_from: Annotated[
        Path | None, typer.Option(help="Folder of tissue GeoJSON (mended in QuPath) to use instead.")
    ] = None,
    slide_mpp: SlideMpp = None,
    slide_mag: SlideMag = None,
    workers: Workers = 0,
    skip_errors: SkipErrors = True,
    config: Config = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Finds the tissue and lays tiles over it; a rerun goes on where the last one stopped.

    Example: pathology-mil tile slides --out job --mag 20 --patch-size 256
    """
    from pathology_mil.slides.process_list import chosen, read_process_list
    from pathology_mil.slides.resolution import own_mpp
    from pathology_mil.slides.reading import find_slides
    from pathology_mil.summaries import tiled
    from pathology_mil.slides.tiles import TileParams
    from pathology_mil.slides.tiling import tile_slides
    from pathology_mil.slides.tissue import preset as settings

    params = TileParams(
        patch_size=patch_size,
        mag=(20.0 if mag is None and mpp is None else mag),
        mpp=mpp,
        overlap=overlap,
        layout=layout.value,
        min_tissue=min_tissue,
        keep_holes=keep_holes,
        contour_fn=contour_fn.value,
        tissue=settings(
            preset.value,
            method=tissue.value,
            drop_pen=not keep_pen,
            seg_level=seg_level,
            a_t=area,
            sthresh=sthresh,
        ),
    )
    found = find_slides(slides, mpp=own_mpp(slide_mpp, slide_mag))
    listed = read_process_list(process_list, params) if process_list is not None else None
    if listed is not None:
        found = chosen(found, listed)
    folder, outcomes = tile_slides(
        found,
        out,
        params,
        listed=listed,
        tissue_from=tissue_from,
        workers=workers,
        overwrite=overwrite,
        skip_errors=skip_errors,
    )
    result = tiled(folder, found, params, outcomes, single=slides.is_file() and len(found) == 1)
    end(result, json)


@app.command()
def encode(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="Folder that 'tile' (or CLAM, TRIDENT) wrote.")],
    encoder: Annotated[
        str, typer.Option(help="colour-texture (built in, a baseline), timm:NAME, torchvision:NAME, resnet50_trunc.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Local file of weights (safetensors or a torch state dict).")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Features without meaning, to test.")
    ] = False,
    known_as: Annotated[
        str | None, typer.Option("--as", help="Record as this known encoder and check the pairing.")
    ] = None,
    slides: Annotated[Path | None, typer.Option(help="Where the slides are, if they were moved.")] = None,
    dtype: Annotated[StoredType, typer.Option(help="Type of the stored features.")] = StoredType.float16,
    batch: Annotated[int, typer.Option(min=1, help="Tiles a step.")] = 64,
    device: Device = DeviceName.auto,
    precision: Precision = PrecisionName.full,
    workers: Workers = 0,
    skip_errors: SkipErrors = True,
    config: Config = None,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Turns tiles into features, one HDF5 file a slide; a rerun goes on where the last one stopped.

    Example: pathology-mil encode job --encoder timm:vit_small_patch16_224 --weights dino.pth
    """
    from pathology_mil.features.encoders import EncoderChoice
    from pathology_mil.features.encoding import EncodeParams, encode_slides
    from pathology_mil.summaries import encoded

    choice = EncoderChoice(encoder, weights, random_weights, known_as)
    where = "cpu" if choice.computed else resolve_device(device)
    params = EncodeParams(choice, dtype.value, batch, where, str(precision))
    folder, outcomes = encode_slides(
        job, params, slides=slides, workers=workers, overwrite=overwrite, skip_errors=skip_errors
    )
    result = encoded(folder, params, outcomes)
    end(result, json)


@app.command()
def heatmap(
    slides: Slides,
    model: Model = None,
    features: Annotated[
        Path | None, typer.Option(help="Features of the slide, or a folder of them, for --model; made if left out.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder that makes them, where the model needs a network.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its local file of weights.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores of your own instead (.h5, .npz, .npy), or a folder.")
    ] = None,
    coords: Annotated[Path | None, typer.Option(help="Tiles or features with the coordinates of --scores.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Drawn truth (ASAP XML, GeoJSON), or a folder of it.")
    ] = None,
    out: Out = Path("heatmaps"),
    scale: Annotated[
        ScaleName, typer.Option(help="n-a: N x attention, 1 is uniform; percentile: ranks.")
    ] = ScaleName.n_a,
    zoom: Annotated[float, typer.Option(help="Factor of n-a; below 1 shows differences among high values.")] = 1.0,
    cmap: Annotated[str, typer.Option(help="A colour map of matplotlib.")] = "jet",
    alpha: Annotated[float, typer.Option(help="How much the colours cover the slide, 0 to 1.")] = 0.4,
    blur: Annotated[bool, typer.Option("--blur", help="Smooth over about a tile.")] = False,
    branches: Annotated[bool, typer.Option("--branches", help="Draw each branch, too.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many tiles with most attention are shown.")] = 15,
    max_side: Annotated[int, typer.Option(min=64, help="Longest side of the picture in pixels.")] = 1600,
    slide_mpp: SlideMpp = None,
    device: Device = DeviceName.auto,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws where the attention lies: picture, QuPath tiles, and the tiles with most of it.

    Example: pathology-mil heatmap slide.svs --features job/20x_256px_0px_overlap/features_uni_v1 --model run/model
    """
    from pathology_mil.features.bags import find_bags
    from pathology_mil.reports.maps import MapOptions, draw_maps, prepared
    from pathology_mil.slides.reading import find_slides
    from pathology_mil.summaries import mapped

    options = MapOptions(scale.value, zoom, cmap, alpha, blur, max_side, branches, top)
    where = resolve_device(device)
    if features is not None:
        bags = find_bags(features)
    elif model is not None:
        preparation = {"encoder": encoder, "weights": weights, "mpp": slide_mpp}
        bags = prepared(slides, model, out, device=where, **preparation)
    else:
        bags = None
    outcomes = draw_maps(
        find_slides(slides, mpp=slide_mpp),
        out,
        options,
        model=model,
        bags=bags,
        scores=scores,
        coords=coords,
        annotations=annotations,
        device=where,
        overwrite=overwrite,
    )
    result = mapped(out, outcomes)
    end(result, json)


add_to(app)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything that is made.")],
    full: Annotated[bool, typer.Option("--full/--quick", help="Minutes instead of about one.")] = False,
    seed: Seed = 0,
    workers: Workers = 2,
    overwrite: Overwrite = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draws slides, learns from their labels, and shows where the model looks: sample, tile, encode, train, heat maps, report.html.

    Example: pathology-mil demo /tmp/demo
    """
    from pathology_mil.commands.demo import demo as run_demo
    from pathology_mil.reports.demo import shown

    end(shown(run_demo(out, full=full, seed=seed, workers=workers, overwrite=overwrite)), json)


def main() -> None:
    run(app)
