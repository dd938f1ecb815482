"""Tiling a folder of slides: one coordinates file, contour picture and tissue GeoJSON per slide, and a table of the results."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.bulk import Attempt, Item, Skipped, bulk
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from core_runtime.identity import identity, is_done
from core_runtime.options import BulkOptions
from pathology_mil.reports import figures
from pathology_mil.slides.annotations import find_annotation, read_annotations, tissue_regions, write_geojson
from pathology_mil.slides.options import Tiling
from pathology_mil.slides.process_list import process_row
from pathology_mil.slides.reading import Slide, SlideFile
from pathology_mil.slides.regions import outside, tissue_area
from pathology_mil.slides.tiles import Tiles, downsample, make_tiles, open_h5, plain_attributes, write_tiles
from pathology_mil.slides.tissue import Tissue

NO_TISSUE = "no tissue"
_ADVICE = "see its contour picture; --preset biopsy, --tissue otsu or a smaller --min-area may find it"


@dataclass(frozen=True)
class _Work:
    """What a process needs to tile one slide."""

    slide: SlideFile
    tiling: Tiling
    job: Path
    tissue_file: Path | None
    exclude_class: Sequence[str]


def tile_slides(
    slides: Sequence[SlideFile],
    job: Path,
    tiling: Tiling,
    *,
    listed: Mapping[str, Tiling] | None = None,
    tissue_from: Path | None = None,
    exclude_class: Sequence[str] = (),
    run: BulkOptions = BulkOptions(),
    executor: Executor | None = None,
) -> tuple[Path, list[Attempt]]:
    """Tiles slides into a job folder; continues where an interrupted run stopped.

    Args:
        slides: the slides to tile.
        job: the job folder.
        tiling: tiles and tissue.
        listed: slide id → a tiling of its own (`process_list.read_process_list`); tiles made in another way are made again.
        tissue_from: folder of GeoJSON files, one per slide, with the tissue (corrected in QuPath, say) instead of segmenting.
        exclude_class: classes of these files that are cut out, besides those that `regions` knows.
        run, executor: as in `core_runtime.bulk`.

    Returns:
        The folder that holds `patches/`, and one attempt per slide.

    Raises:
        UserError: existing tiles were made in another way.
    """
    if len(slides) == 1:  # one unusable slide is an error of its own, not a failed item
        with Slide(slides[0].path, mpp=slides[0].mpp) as only:
            downsample(only, tiling.tiles)
    items = []
    for slide in slides:
        own_tiling = tiling
        if listed is not None:
            own_tiling = listed[slide.slide_id]
        tissue_file = _tissue_file(tissue_from, slide.slide_id)
        items.append(_item(_Work(slide, own_tiling, job, tissue_file, exclude_class)))
    for item in items:
        _discard_unusable(item, remake=listed is not None)
    folder = job / tiling.tiles.folder
    attempts = bulk(_tile, items, run, log=folder / "tile.jsonl", description="Tiling slides", executor=executor)
    attempts = [_still_without_tissue(item, attempt) for item, attempt in zip(items, attempts, strict=True)]
    _write_table(folder, tiling, items, attempts)
    return folder, attempts


def _tissue_file(folder: Path | None, slide_id: str) -> Path | None:
    if folder is None:
        return None
    path = find_annotation(folder, slide_id)
    if path is None:
        raise UserError(f"{folder} holds no tissue of {slide_id}", f"expected {slide_id}.geojson")
    return path


def _item(work: _Work) -> Item:
    slide = work.slide
    output = work.tiling.tiles.file(work.job, slide.slide_id)
    inputs = [slide.path]
    slide_identity, tissue_identity = None, None
    if slide.path.is_file():  # one that is missing fails by itself, later, with its name
        slide_identity = identity(slide.path)
    if work.tissue_file is not None:
        tissue_identity = identity(work.tissue_file, full=True)
        inputs.append(work.tissue_file)
    key = {
        "slide": slide_identity,
        "slide_mpp": slide.mpp,
        "tissue_file": tissue_identity,
        "exclude_class": list(work.exclude_class),
        **work.tiling.plain(),
    }
    return Item(slide.slide_id, work, output, key=key, inputs=inputs)


def _discard_unusable(item: Item, *, remake: bool) -> None:
    """Removes tiles that were damaged later, and with `remake` those made in another way."""
    if not item.output.exists():
        return
    try:
        with open_h5(item.output) as file:
            file["coords"].shape  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    except UserError:
        item.output.unlink()
        return
    if remake:
        try:
            is_done(item.output, item.key)
        except UserError:
            item.output.unlink()


def _still_without_tissue(item: Item, attempt: Attempt) -> Attempt:
    """A slide on which an earlier run found no tissue is not "already done"."""
    if attempt.ok and item.output.exists() and not tile_facts(item.output)["tiles"]:
        return replace(attempt, status=NO_TISSUE, message=f"no tissue found on it ({_ADVICE})")
    return attempt


def _tile(item: Item) -> dict[str, Any]:
    work: _Work = item.source
    with Slide(work.slide.path, mpp=work.slide.mpp) as slide:
        drawn = None
        if work.tissue_file is not None:
            drawn = _drawn_tissue(work.tissue_file, slide, work.exclude_class)
        tiles, tissue = make_tiles(slide, work.tiling, drawn)
        # for the encoder: where the slide is, and how it was tiled
        tiles.attributes.update(
            parameters=json.dumps(work.tiling.plain(), sort_keys=True),
            slide_path=str(work.slide.path.resolve()),
            bad_regions=slide.bad_regions,
        )
        _pictures(slide, tiles, tissue, work)
        facts = {
            "tiles": len(tiles.coords),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "tile_level0": tiles.side,
            "tissue_mm2": round(tissue.area_mm2(slide.known_mpp()), 3),
            "bad_regions": slide.bad_regions,
            "notes": tissue.notes,
        }
    write_tiles(item.output, tiles)  # empty, too: a rerun then knows
    if not len(tiles.coords):
        reasons = "; ".join(["no tissue found on it", *tissue.notes])
        advice = _ADVICE
        if work.tissue_file is not None:
            advice = f"{work.tissue_file.name} holds none that a tile fits into"
        raise Skipped(NO_TISSUE, f"{reasons} ({advice})")
    return facts


def _drawn_tissue(path: Path, slide: Slide, exclude_class: Sequence[str]) -> Tissue:
    """Tissue from a GeoJSON file."""
    regions = read_annotations(path)
    outside_slide = outside(regions, slide.dimensions, path.name)
    area = tissue_area(regions, exclude_class=exclude_class, where=path.name)
    notes = [f"tissue taken from {path.name}", area.words("tissue", slide.mpp)]
    if outside_slide:
        notes.append(outside_slide)
    tissue = Tissue([], [], [], (1.0, 1.0), notes)
    for polygon in area.shape.geoms:
        # A ring's last point repeats its first; contours do not.
        tissue.contours.append(np.array(polygon.exterior.coords)[:-1].astype(np.int32))
        tissue.holes.append([np.array(ring.coords)[:-1].astype(np.int32) for ring in polygon.interiors])
        tissue.areas.append(polygon.area)
    return tissue


def _pictures(slide: Slide, tiles: Tiles, tissue: Tissue, work: _Work) -> None:
    """CLAM's `masks/` and `stitches/`, or TRIDENT's `contours/` and `contours_geojson/`."""
    thumbnail = slide.thumbnail(1500)
    if work.tiling.tiles.layout == "clam":
        stitches = figures.stitched(thumbnail, slide.dimensions, tiles.coords, tiles.side)
        pictures = {"masks": figures.draw_tissue(thumbnail, slide.dimensions, tissue), "stitches": stitches}
    else:
        # contours last: the veil over areas without tiles would hide them and their numbers
        framed = figures.draw_tiles(thumbnail, slide.dimensions, tiles.coords, tiles.side)
        pictures = {"contours": figures.draw_tissue(framed, slide.dimensions, tissue)}
    for folder, picture in pictures.items():
        figures.save(work.job / folder / f"{slide.slide_id}.jpg", picture)
    write_geojson(work.job / "contours_geojson" / f"{slide.slide_id}.geojson", tissue_regions(tissue))


def _write_table(folder: Path, tiling: Tiling, items: Sequence[Item], attempts: Sequence[Attempt]) -> None:
    """CLAM's `process_list_autogen.csv`, or `slides.csv`; rows of slides that were not part of this run stay."""
    clam = tiling.tiles.layout == "clam"
    rows: dict[str, dict[str, Any]] = {}
    name = "process_list_autogen.csv" if clam else "slides.csv"
    table = folder / name
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("slide_id"):
                    rows[row["slide_id"]] = row
    for item, attempt in zip(items, attempts, strict=True):
        work: _Work = item.source
        if clam:
            row = process_row(work.slide.path.name, work.tiling, attempt)
        else:
            row = _row(item, attempt)
        rows[row["slide_id"]] = {**row, **tile_facts(item.output)}
    text = io.StringIO()
    columns: dict[str, None] = {}  # in the order in which rows bring them
    for row in rows.values():
        columns |= dict.fromkeys(row)
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows[slide_id] for slide_id in sorted(rows))
    write_text(table, text.getvalue())


def tile_facts(file: Path) -> dict[str, Any]:
    """Number of tiles and resolution, as stated in a file of tiles."""
    try:
        with open_h5(file) as h5:
            data: Any = h5["coords"]
            attributes = plain_attributes(data.attrs)
            count = int(data.shape[0])
    except UserError:
        return {"tiles": 0, "mpp": None, "mpp_source": None}
    return {"tiles": count, "mpp": attributes.get("slide_mpp"), "mpp_source": attributes.get("slide_mpp_source")}


def _row(item: Item, attempt: Attempt) -> dict[str, Any]:
    return {
        "slide_id": item.name,
        "wsi": str(item.source.slide.path),
        "status": "done" if attempt.ok else attempt.status,
        "message": attempt.message,
    }
