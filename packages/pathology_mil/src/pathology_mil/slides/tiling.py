"""Tiling a folder of slides: one coordinates file, contour picture and tissue GeoJSON a slide, and a table of what became of each."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from core_runtime.bulk import Item, Outcome, Skipped, bulk, summary
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, fingerprint, write_text
from pathology_mil.reports import figures
from pathology_mil.slides.annotations import find_annotation, read_annotations, tissue_regions, write_geojson
from pathology_mil.slides.process_list import process_row
from pathology_mil.slides.reading import Slide, SlideFile
from pathology_mil.slides.tiles import TileParams, Tiles, make_tiles, open_h5, plain_attributes, write_tiles
from pathology_mil.slides.tissue import Tissue


@dataclass(frozen=True)
class _Work:
    slide: SlideFile
    params: TileParams
    job: Path
    tissue_file: Path | None

    def identity(self) -> dict[str, Any]:
        """What decides the tiles: kept beside them, compared on a rerun."""
        return {
            **self.params.plain(),
            "slide_mpp_given": self.slide.mpp,
            "slide": data_fingerprint([self.slide.path]),
            "tissue_file": data_fingerprint([self.tissue_file]) if self.tissue_file else None,
        }


def tile_slides(
    slides: Sequence[SlideFile],
    job: Path,
    params: TileParams,
    *,
    listed: Mapping[str, TileParams] | None = None,
    tissue_from: Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
) -> tuple[Path, list[Outcome]]:
    """Tiles slides into a job folder; goes on where an interrupted run stopped.

    Args:
        slides: what to tile.
        job: the job folder.
        params: tiles and tissue.
        listed: slide id → parameters of its own (`process_list.read_process_list`); tiles that were made otherwise are made
            again.
        tissue_from: folder of GeoJSON files, one a slide, that say where the tissue is (mended in QuPath, say) instead of segmenting.
        workers: processes.
        executor: where to work instead, as `core_runtime.bulk` takes it.
        overwrite: make all again.
        skip_errors: go on after a slide that failed.

    Returns:
        The folder that holds `patches/`, and one outcome a slide.

    Raises:
        UserError: tiles that are there were made with other parameters.
    """
    if len(slides) == 1:  # one unusable slide is an error of its own, not an item that failed
        with Slide(slides[0].path, mpp=slides[0].mpp) as only:
            params.downsample(only)
    items = []
    for slide in slides:
        tissue_file = find_annotation(tissue_from, slide.slide_id) if tissue_from else None
        if tissue_from and tissue_file is None:
            raise UserError(f"{tissue_from} holds no tissue of {slide.slide_id}", f"expected {slide.slide_id}.geojson")
        own = params if listed is None else listed[slide.slide_id]
        items.append(Item(slide.slide_id, _Work(slide, own, job, tissue_file), own.file(job, slide.slide_id)))
    folder = job / params.folder
    outcomes = bulk(
        _tile,
        items,
        log=folder / "tile.jsonl",
        description="Tiling slides",
        workers=workers,
        executor=executor,
        skip_errors=skip_errors,
        already=(lambda item: False) if overwrite else partial(_already, remake=listed is not None),
    )
    _write_table(folder, params, items, outcomes)
    return folder, outcomes


def verdict(outcomes: Sequence[Outcome], *, single: bool) -> int:
    """The exit status of bulk work on slides; what failed is named on standard error.

    Raises:
        UserError: the one file that was given came to nothing.
    """
    if single and outcomes and not outcomes[0].ok:
        name, message = outcomes[0].name, outcomes[0].message or outcomes[0].status
        raise UserError(message if message.startswith(name) else f"{name}: {message}")
    return summary(outcomes)


def _already(item: Item, *, remake: bool) -> bool:
    """Whether the tiles are there, of the same slide, made in the same way.

    Raises:
        UserError: they are there, made otherwise, and `remake` is off.
    """
    if not item.output.exists() or not item.source.slide.path.is_file():
        return False
    try:
        with open_h5(item.output) as file:
            attributes = plain_attributes(file["coords"].attrs)
            empty = file["coords"].shape[0] == 0  # pyright: ignore[reportAttributeAccessIssue]
    except UserError:
        return False  # damaged from outside: made again
    wanted = item.source.identity()
    if attributes.get("fingerprint") != fingerprint(wanted):
        if remake:
            return False
        before = json.loads(attributes.get("parameters") or "{}")
        changed = [f"{k} ({before.get(k)} before, now {v})" for k, v in wanted.items() if before.get(k) != v]
        raise UserError(
            f"{item.output} was made otherwise: {', '.join(changed[:4]) or 'by another program'}",
            "--overwrite makes all tiles again; --out names another folder",
        )
    return not empty


def _tile(item: Item) -> dict[str, Any]:
    work: _Work = item.source
    identity = work.identity()
    with Slide(work.slide.path, mpp=work.slide.mpp) as slide:
        given = _drawn_tissue(work.tissue_file) if work.tissue_file else None
        tiles, tissue = make_tiles(slide, work.params, given)
        tiles.attributes.update(
            parameters=json.dumps(identity, sort_keys=True),
            fingerprint=fingerprint(identity),
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
    write_tiles(item.output, tiles)
    if not len(tiles.coords):
        found = "; ".join(["no tissue found on it", *tissue.notes])
        raise Skipped(
            "no tissue", f"{found} (look at its contour picture; --preset biopsy or --tissue otsu may find it)"
        )
    return facts


def _drawn_tissue(path: Path) -> Tissue:
    """Tissue from a GeoJSON file."""
    tissue = Tissue([], [], [], (1.0, 1.0), [f"tissue taken from {path.name}"])
    shapes = [r.shape for r in read_annotations(path) if r.is_area]
    for polygon in shapely.get_parts(shapely.get_parts(shapely.union_all(shapes))):
        tissue.contours.append(np.array(polygon.exterior.coords)[:-1].astype(np.int32))
        tissue.holes.append([np.array(r.coords)[:-1].astype(np.int32) for r in polygon.interiors])
        tissue.areas.append(polygon.area)
    return tissue


def _pictures(slide: Slide, tiles: Tiles, tissue: Tissue, work: _Work) -> None:
    """CLAM's `masks/` and `stitches/`, or TRIDENT's `contours/` and `contours_geojson/`."""
    thumbnail = slide.thumbnail(1500)
    contours = figures.draw_tissue(thumbnail, slide.dimensions, tissue)
    with_tiles = figures.draw_tiles(contours, slide.dimensions, tiles.coords, tiles.side)
    if work.params.layout == "clam":
        pictures = {
            "masks": contours,
            "stitches": figures.stitched(thumbnail, slide.dimensions, tiles.coords, tiles.side),
        }
    else:
        pictures = {"contours": with_tiles}
    for folder, picture in pictures.items():
        figures.save(work.job / folder / f"{slide.slide_id}.jpg", picture)
    write_geojson(work.job / "contours_geojson" / f"{slide.slide_id}.geojson", tissue_regions(tissue))


def _write_table(folder: Path, params: TileParams, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """CLAM's `process_list_autogen.csv`, or `slides.csv`; rows of slides that were not part of this run stay."""
    clam = params.layout == "clam"
    name = "process_list_autogen.csv" if clam else "slides.csv"
    rows: dict[str, dict[str, Any]] = {}
    table = folder / name
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            rows = {row["slide_id"]: row for row in csv.DictReader(file) if row.get("slide_id")}
    for item, outcome in zip(items, outcomes, strict=True):
        row = process_row(item.source.slide.path.name, item.source.params, outcome) if clam else _row(item, outcome)
        rows[row["slide_id"]] = {**row, **tile_facts(item.output)}
    text = io.StringIO()
    columns = list(dict.fromkeys(k for row in rows.values() for k in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows[k] for k in sorted(rows))
    write_text(table, text.getvalue())


def tile_facts(file: Path) -> dict[str, Any]:
    """What a file of tiles says about itself: number of tiles and resolution."""
    try:
        with open_h5(file) as h5:
            data: Any = h5["coords"]
            attributes = plain_attributes(data.attrs)
            return {
                "tiles": int(data.shape[0]),
                "mpp": attributes.get("slide_mpp"),
                "mpp_source": attributes.get("slide_mpp_source"),
            }
    except UserError:
        return {"tiles": 0, "mpp": None, "mpp_source": None}


def _row(item: Item, outcome: Outcome) -> dict[str, Any]:
    return {
        "slide_id": item.name,
        "wsi": str(item.source.slide.path),
        "status": "done" if outcome.ok else outcome.status,
        "message": outcome.message,
    }
