"""What a file holds, whether it can be used, and what to do next."""

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.findings import Findings
from pathology_mil.features.bags import find_bags, open_bag
from pathology_mil.reports import figures
from pathology_mil.slides.annotations import SUFFIXES, read_annotations
from pathology_mil.slides.formats import SLIDE_SUFFIXES
from pathology_mil.slides.options import PRESETS, TileOptions, Tiling
from pathology_mil.slides.pictures import DARK, advice, picture_kind
from pathology_mil.slides.reading import Slide, find_slides
from pathology_mil.slides.regions import NO_CLASS, tissue_area, truth_area
from pathology_mil.slides.resolution import magnification, odd_objective
from pathology_mil.slides.tiles import Tiles, make_tiles, open_h5, read_tiles
from pathology_mil.slides.tissue import Tissue, segment


@dataclass(frozen=True, kw_only=True)
class Examination(Findings):
    """Findings of this domain; the exit status tells whether the next command would work."""

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if self.usable else 2


def examine(path: Path, *, mpp: float | None = None, pictures: bool = False) -> Examination:
    """Examines a slide, a folder of slides, or a file of tiles, features or annotations.

    Args:
        path: the file or folder.
        mpp: the slide's resolution, where the file does not state it.
        pictures: draw the tissue and some tiles, too.

    Raises:
        UserError: nothing is there, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".csv":
        return _folder(path, mpp)
    if suffix in (".h5", ".hdf5", ".pt"):
        return _hdf5(path)
    if path.name.lower().endswith(SUFFIXES) and suffix not in SLIDE_SUFFIXES:
        return _annotations(path)
    return _slide(path, mpp, pictures)


def _folder(path: Path, mpp: float | None) -> Examination:
    try:
        slides = find_slides(path)
    except UserError:
        # no slides: a folder of features may be meant, unless it is the job folder of `tile`
        if path.is_dir() and any(path.rglob("*.h5")) and not (path / "patches").is_dir():
            bags = find_bags(path)
            return Examination(
                title=path.name,
                kind="folder of features",
                summary=f"Features of {len(bags)} slides.",
                details={"slides": len(bags)},
            )
        raise
    facts: dict[str, Any] = {"slides": len(slides)}
    resolutions: dict[str, int] = {}
    unreadable, without_resolution = [], []
    for file in slides:
        try:
            with Slide(file.path, mpp=file.mpp or mpp) as slide:
                key = "unknown"
                if slide.mpp is None:
                    without_resolution.append(file.slide_id)
                else:
                    key = f"{slide.mpp:g} µm/px"
                resolutions[key] = resolutions.get(key, 0) + 1
        except UserError as error:
            unreadable.append(error.message)
    counts = [f"{count} at {resolution}" for resolution, count in sorted(resolutions.items())]
    facts |= {"resolutions": ", ".join(counts), "unreadable": len(unreadable)}
    warnings = unreadable[:10]
    if len(unreadable) > 10:
        warnings.append(f"{len(unreadable) - 10} more cannot be read")
    resolution_option = ""
    if without_resolution:
        warnings.append(
            f"no resolution in {len(without_resolution)} slides ({', '.join(without_resolution[:5])}): "
            "give it with --slide-mpp, or a CSV with columns wsi, mpp"
        )
        resolution_option = " --slide-mpp 0.25"
    usable = len(unreadable) < len(slides)
    next_commands = []
    if usable:
        next_commands = [f"pathology-mil tile {shlex.quote(str(path))} --out job --mag 20{resolution_option}"]
    return Examination(
        title=path.name,
        kind="folder of slides" if path.is_dir() else "list of slides",
        usable=usable,
        summary=f"{len(slides) - len(unreadable)} of {len(slides)} slides can be read.",
        details=facts,
        warnings=warnings,
        next_commands=next_commands,
    )


def _hdf5(path: Path) -> Examination:
    if path.suffix != ".pt":
        with open_h5(path) as file:
            keys = set(file)
        if "coords" in keys and not keys & {"features", "feat"}:
            tiles = read_tiles(path)
            facts = {
                "tiles": len(tiles.coords),
                "tile side (level-0 px)": tiles.side,
                "patch size": tiles.size,
                **_scale_attributes(tiles.attributes),
            }
            job = path.parent.parent  # JOB/TILES/patches/SLIDE.h5 → JOB/TILES
            return Examination(
                title=path.name,
                kind="coordinates of tiles",
                summary=f"{len(tiles.coords)} tiles of {tiles.slide_id}.",
                details=facts,
                warnings=tiles.notes,
                next_commands=[f"pathology-mil encode {shlex.quote(str(job))} --encoder colour-texture"],
            )
        bags = find_bags(path)
        if len(bags) > 1:
            return Examination(
                title=path.name,
                kind="features of many slides (ACMIL)",
                summary=f"Features of {len(bags)} slides.",
                details={"slides": len(bags)},
            )
        bag = next(iter(bags.values())).open()
    else:
        bag = open_bag(path)
    facts = {
        "tiles": len(bag),
        "width": bag.features.shape[1],
        "type": str(bag.features.dtype),
        "encoder": bag.encoder or "not recorded",
        "tile side (level-0 px)": bag.side,
        "label": bag.label,
        **_scale_attributes(bag.attributes),
    }
    warnings = list(bag.notes)
    if bag.coords is None:
        warnings.append("no coordinates: a label can be predicted, but no heat map drawn")
    if not len(bag):
        warnings.append("no tiles: the slide had no tissue")
    return Examination(
        title=path.name,
        kind="bag of features",
        usable=len(bag) > 0,
        summary=f"{len(bag)} tiles × {bag.features.shape[1]} of {bag.slide_id}.",
        details=facts,
        warnings=warnings,
    )


def _scale_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "slide_mpp",
        "level0_magnification",
        "target_magnification",
        "target_mpp",
        "overlap",
        "patch_level",
        "bad_tiles",
    )
    return {key: attributes[key] for key in keys if attributes.get(key) is not None}


def _annotations(path: Path) -> Examination:
    regions = read_annotations(path)
    counts = Counter(region.name or NO_CLASS for region in regions)
    classes = [f"{name} ({count})" for name, count in sorted(counts.items())]
    details: dict[str, Any] = {"regions": len(regions), "classes": ", ".join(classes)}
    warnings = []
    try:
        area = truth_area(regions, where=path.name)
        details["area taken as tumour (px²)"] = round(area.shape.area)
        details["as --annotations"] = area.words("truth", None)
    except UserError as error:
        warnings.append(f"as --annotations: {error.message} ({error.hint})")
    details["as --tissue-from"] = tissue_area(regions, where=path.name).words("tissue", None)
    return Examination(
        title=path.name,
        kind="annotations",
        usable=bool(regions),
        summary=f"{len(regions)} regions.",
        details=details,
        warnings=warnings,
    )


def _slide(path: Path, mpp: float | None, pictures: bool) -> Examination:
    with Slide(path, mpp=mpp) as slide:
        kind = picture_kind(slide.small)
        details = {**_scan_details(slide), "picture": kind}
        warnings = _scan_warnings(slide)
        if kind == DARK:
            drawn = []
            if pictures:
                drawn = [(figures.encoded(slide.thumbnail(1200)), "The picture.")]
            return Examination(
                title=path.name,
                kind="slide or picture",
                usable=False,
                summary=f"Not stained tissue in bright light: {advice(kind)}.",
                details=details,
                warnings=warnings,
                pictures=drawn,
            )
        tissue = segment(slide, PRESETS["default"])
        warnings += tissue.notes
        details["pieces of tissue"] = len(tissue.contours)
        tiling, tiles = _fitting(slide), None
        if slide.mpp is not None:  # without a resolution there is no area, and no tile at 20×
            details["tissue"] = f"{tissue.area_mm2(slide.mpp):.2f} mm²"
            tiles, _ = make_tiles(slide, tiling, tissue)
            name = f"tiles of {tiling.tiles.patch_size} px at {tiling.tiles.resolution_name}"
            details[name] = len(tiles.coords)
        if not tissue.contours:
            look = f"pathology-mil inspect {shlex.quote(str(path))} --picture look.png"
            warnings.append(
                "no tissue was found: --preset biopsy, --tissue otsu or a smaller --min-area may find it; "
                f"'{look}' draws the slide"
            )
        usable = bool(tissue.contours) and (tiles is None or len(tiles.coords) > 0)
        drawn = []
        if pictures:
            drawn = _pictures(slide, tissue, tiles)
        if slide.bad_regions:
            warnings.append(f"{slide.bad_regions} regions of the file cannot be decoded and were taken as background")
        next_commands = []
        summary = "No tissue was found on it."
        if usable:
            next_commands = _next(slide, path, mpp, tiling)
            summary = "Usable." if slide.mpp else "Usable once its resolution is given."
        return Examination(
            title=path.name,
            kind="whole-slide image",
            usable=usable,
            summary=summary,
            details=details,
            warnings=warnings,
            next_commands=next_commands,
            pictures=drawn,
        )


def _scan_details(slide: Slide) -> dict[str, Any]:
    details: dict[str, Any] = {
        "format": slide.properties.get("openslide.vendor", "plain image"),
        "size": f"{slide.dimensions[0]} × {slide.dimensions[1]} pixels",
        "levels": ", ".join(f"{along_x:.4g}×" for along_x, _ in slide.downsamples),
        "resolution": "not recorded",
    }
    if slide.axes is not None:
        details["resolution"] = f"{slide.axes[0]:g} × {slide.axes[1]:g} µm per pixel ({slide.mpp_source})"
    if slide.mpp is not None:
        details["resolution"] = f"{slide.mpp:g} µm per pixel ({slide.mpp_source})"
        if slide.mpp < 2.4:  # coarser than a 4× objective: no objective has this name
            details["magnification"] = f"{magnification(slide.mpp)}× (nominal)"
    if slide.other_images:
        details["other images"] = ", ".join(slide.other_images)
    return details


def _scan_warnings(slide: Slide) -> list[str]:
    warnings = []
    if slide.axes is not None:
        warnings.append(
            f"the pixels are not square ({slide.axes[0]:g} × {slide.axes[1]:g} µm): resample the file; "
            f"--slide-mpp {slide.axes[0]:g} treats them as square"
        )
    elif slide.conflict:
        warnings.append(f"the file states two resolutions: {slide.conflict}: --slide-mpp says which one is right")
    elif slide.mpp is None:
        warnings.append(
            "the file does not state its resolution: give it with --slide-mpp 0.25 (µm per pixel) or --slide-mag 40 (objective)"
        )
    power = None
    if slide.mpp is not None:
        power = odd_objective(slide.properties, slide.mpp)
    if power is not None:
        warnings.append(
            f"the file states {slide.mpp:g} µm per pixel and an objective of {power:g}×, which do not go together; the first is used "
            "(--slide-mpp gives another)"
        )
    if {"label", "macro"} & set(slide.other_images):
        warnings.append(
            "the file holds a picture of the slide's label or of the whole slide, which can show patients' names"
        )
    return warnings


def _next(slide: Slide, path: Path, mpp: float | None, tiling: Tiling) -> list[str]:
    resolution_option = ""
    if mpp:
        resolution_option = f" --slide-mpp {mpp:g}"
    elif slide.mpp is None:
        resolution_option = " --slide-mpp 0.25"
    tiles = tiling.tiles
    if tiles.mag:
        target = f"--mag {tiles.mag:g}"
    else:
        target = f"--mpp {tiles.mpp:g}"
    job = shlex.quote(f"{slide.slide_id}-job")
    return [
        f"pathology-mil tile {shlex.quote(str(path))} --out {job} {target}{resolution_option}",
        f"pathology-mil encode {job} --encoder colour-texture",
    ]


def _fitting(slide: Slide) -> Tiling:
    """Tiles at 20×, or at the slide's own resolution where that is coarser."""
    if slide.mpp is None or slide.mpp < 0.6:  # 20× is 0.5 µm per pixel, give or take
        return Tiling()
    return Tiling(TileOptions(mpp=round(slide.mpp, 3)))


def _pictures(slide: Slide, tissue: Tissue, tiles: Tiles | None) -> list[tuple[bytes, str]]:
    """Tissue and tiles on a thumbnail, and some of the tiles, each with its caption."""
    thumbnail = slide.thumbnail(1200)
    caption = "Tissue (green), holes in it (blue)"
    if tiles is None:
        return [(figures.encoded(figures.draw_tissue(thumbnail, slide.dimensions, tissue)), caption + ".")]
    framed = figures.draw_tiles(thumbnail, slide.dimensions, tiles.coords, tiles.side)
    overview = figures.draw_tissue(framed, slide.dimensions, tissue)
    caption += f" and the {len(tiles.coords)} tiles (frames); areas without tiles are faded."
    pictures = [(figures.encoded(overview), caption)]
    if len(tiles.coords):
        sheet = figures.contact_sheet(figures.some_tiles(slide, tiles))
        width = tiles.side * slide.known_mpp()
        pictures.append((figures.encoded(sheet), f"Some of the tiles, each {width:.0f} µm wide."))
    return pictures
