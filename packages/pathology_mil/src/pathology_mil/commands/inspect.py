"""What a file holds, whether it can be used, and what to do next."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.suite import Glance
from pathology_mil.reports import figures
from pathology_mil.slides.annotations import SUFFIXES, read_annotations, tumour
from pathology_mil.features.bags import find_bags, open_bag
from pathology_mil.slides.formats import SLIDE_SUFFIXES
from pathology_mil.slides.resolution import magnification
from pathology_mil.slides.reading import Slide, find_slides
from pathology_mil.slides.tiles import TileParams, Tiles, make_tiles, open_h5, read_tiles
from pathology_mil.slides.tissue import PRESETS, Tissue, segment


@dataclass
class Findings:
    """What was found in a file.

    Attributes:
        kind: what it is, in words.
        usable: whether the next command would work.
        summary: one sentence.
        facts: names and values.
        warnings: what a person should know first.
        next_commands: to be copied.
        pictures: (JPEG bytes, caption), where they were asked for.
    """

    kind: str
    usable: bool
    summary: str
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    pictures: list[tuple[bytes, str]] = field(default_factory=list)


def inspect(path: Path, *, mpp: float | None = None, pictures: bool = False) -> Findings:
    """Looks into a slide, a folder of slides, a file of tiles, features or annotations.

    Args:
        path: the file or folder.
        mpp: the slide's resolution, where it does not say.
        pictures: draw the tissue and some tiles, too.

    Raises:
        UserError: nothing there, or damaged.
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


def _folder(path: Path, mpp: float | None) -> Findings:
    try:
        slides = find_slides(path)
    except UserError:
        if path.is_dir() and any(path.rglob("*.h5")) and not (path / "patches").is_dir():
            bags = find_bags(path)
            return Findings("folder of features", True, f"features of {len(bags)} slides", {"slides": len(bags)})
        raise
    facts: dict[str, Any] = {"slides": len(slides)}
    resolutions: dict[str, int] = {}
    bad, silent = [], []
    for file in slides:
        try:
            with Slide(file.path, mpp=file.mpp or mpp) as slide:
                if slide.mpp is None:
                    silent.append(file.slide_id)
                key = f"{slide.mpp:g} µm/px" if slide.mpp else "unknown"
                resolutions[key] = resolutions.get(key, 0) + 1
        except UserError as error:
            bad.append(error.message)
    facts |= {"resolutions": ", ".join(f"{n} at {k}" for k, n in sorted(resolutions.items())), "unreadable": len(bad)}
    warnings = [*bad[:10], *([f"{len(bad) - 10} more cannot be read"] if len(bad) > 10 else [])]
    own = ""
    if silent:
        warnings.append(
            f"no resolution in {len(silent)} slides ({', '.join(silent[:5])}): say it with --slide-mpp, or a CSV with columns wsi, mpp"
        )
        own = " --slide-mpp 0.25"
    usable = len(bad) < len(slides)
    return Findings(
        "folder of slides" if path.is_dir() else "list of slides",
        usable,
        f"{len(slides) - len(bad)} of {len(slides)} slides can be read",
        facts,
        warnings,
        [f"pathology-mil tile {shlex.quote(str(path))} --out job --mag 20{own}"] if usable else [],
    )


def _hdf5(path: Path) -> Findings:
    if path.suffix != ".pt":
        with open_h5(path) as file:
            keys = set(file)
        if "coords" in keys and not keys & {"features", "feat"}:
            tiles = read_tiles(path)
            facts = {
                "tiles": len(tiles.coords),
                "tile side (level-0 px)": tiles.side,
                "patch size": tiles.size,
                **_few(tiles.attributes),
            }
            job = path.parent.parent
            return Findings(
                "coordinates of tiles", True, f"{len(tiles.coords)} tiles of {tiles.slide_id}", facts, tiles.notes,
                [f"pathology-mil encode {shlex.quote(str(job))} --encoder colour-texture"],
            )  # fmt: skip
        bags = find_bags(path)
        if len(bags) > 1:
            return Findings(
                "features of many slides (ACMIL)", True, f"features of {len(bags)} slides", {"slides": len(bags)}
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
        **_few(bag.attributes),
    }
    warnings = list(bag.notes)
    if bag.coords is None:
        warnings.append("no coordinates: a label can be predicted, a heat map cannot be drawn")
    if not len(bag):
        warnings.append("no tiles: the slide had no tissue")
    return Findings(
        "bag of features",
        len(bag) > 0,
        f"{len(bag)} tiles × {bag.features.shape[1]} of {bag.slide_id}",
        facts,
        warnings,
    )


def _few(attributes: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "slide_mpp",
        "level0_magnification",
        "target_magnification",
        "target_mpp",
        "overlap",
        "patch_level",
        "bad_tiles",
    )
    return {k: attributes[k] for k in keys if attributes.get(k) is not None}


def _annotations(path: Path) -> Findings:
    regions = read_annotations(path)
    names: dict[str, int] = {}
    for region in regions:
        names[region.name or "(no class)"] = names.get(region.name or "(no class)", 0) + 1
    facts = {
        "regions": len(regions),
        "classes": ", ".join(f"{k} ({n})" for k, n in sorted(names.items())),
        "area taken as tumour (px²)": round(tumour(regions).area),
    }
    return Findings("annotations", bool(regions), f"{len(regions)} regions", facts)


def _slide(path: Path, mpp: float | None, pictures: bool) -> Findings:
    with Slide(path, mpp=mpp) as slide:
        tissue = segment(slide, PRESETS["default"])
        facts: dict[str, Any] = {
            "format": slide.properties.get("openslide.vendor", "plain image"),
            "size": f"{slide.dimensions[0]} × {slide.dimensions[1]} pixels",
            "levels": ", ".join(f"{d[0]:.4g}×" for d in slide.downsamples),
            "resolution": f"{slide.mpp:g} µm per pixel ({slide.mpp_source})" if slide.mpp else "not recorded",
            "pieces of tissue": len(tissue.contours),
        }
        warnings = list(tissue.notes)
        tiles, own = None, ""
        params = _fitting(slide)
        if slide.mpp is not None:
            if slide.mpp < 2.4:
                facts["magnification"] = f"{magnification(slide.mpp)}× (nominal)"
            facts["tissue"] = f"{tissue.area_mm2(slide.mpp):.2f} mm²"
            tiles, _ = make_tiles(slide, params, tissue)
            facts[f"tiles of {params.patch_size} px at {params.resolution_name}"] = len(tiles.coords)
            own = f" --slide-mpp {mpp:g}" if mpp else ""
        else:
            warnings.insert(
                0,
                "the file does not say its resolution: give it with --slide-mpp 0.25 (µm per pixel) or --slide-mag 40 (objective)",
            )
            own = " --slide-mpp 0.25"
        if not tissue.contours:
            warnings.append("no tissue was found: look at the picture; --preset biopsy or --tissue otsu may find it")
        usable = bool(tissue.contours) and (tiles is None or len(tiles.coords) > 0)
        drawn = _pictures(slide, tissue, tiles) if pictures else []
        if slide.bad_regions:
            warnings.append(f"{slide.bad_regions} regions of the file cannot be decoded and were taken as background")
        job = shlex.quote(f"{slide.slide_id}-job")
        target = f"--mag {params.mag:g}" if params.mag else f"--mpp {params.mpp:g}"
        commands = [
            f"pathology-mil tile {shlex.quote(str(path))} --out {job} {target}{own}",
            f"pathology-mil encode {job} --encoder colour-texture",
        ]
    verdict = "usable" if slide.mpp else "usable once its resolution is given"
    return Findings(
        "whole-slide image",
        usable,
        verdict if usable else "no tissue was found on it",
        facts,
        warnings,
        commands if usable else [],
        drawn,
    )


def _fitting(slide: Slide) -> TileParams:
    """Tiles at 20×, or at the slide's own resolution where that is coarser."""
    if slide.mpp is None or slide.mpp < 0.6:
        return TileParams()
    return TileParams(mag=None, mpp=round(slide.mpp, 3))


def _pictures(slide: Slide, tissue: Tissue, tiles: Tiles | None) -> list[tuple[bytes, str]]:
    thumbnail = figures.draw_tissue(slide.thumbnail(1200), slide.dimensions, tissue)
    caption = "Tissue (green), holes in it (blue)"
    if tiles is None:
        return [(figures.encoded(thumbnail), caption + ".")]
    overview = figures.draw_tiles(thumbnail, slide.dimensions, tiles.coords, tiles.side)
    pictures = [
        (
            figures.encoded(overview),
            f"{caption} and the {len(tiles.coords)} tiles (frames); what no tile covers is faded.",
        )
    ]
    if len(tiles.coords):
        sheet = figures.contact_sheet(figures.some_tiles(slide, tiles))
        width = tiles.side * slide.known_mpp()
        pictures.append((figures.encoded(sheet), f"Some of the tiles, each {width:.0f} µm wide."))
    return pictures


def glance(path: Path) -> Glance:
    """The first look for `attention-suite try`."""
    found = inspect(path, pictures=True)
    return Glance(
        title=path.name,
        usable=found.usable,
        summary=found.summary,
        facts=list(found.facts.items()),
        pictures=found.pictures,
        next_commands=found.next_commands,
        warnings=found.warnings,
    )
