"""``pathology-mil tile``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt, BulkOutcome, require_results
from core_runtime.options import BulkOptions, Out
from pathology_mil.reports.notes import counts, note_lines
from pathology_mil.slides.options import ExcludeOptions, ScanOptions, TileOptions, Tiling, TissueOptions


@dataclass(frozen=True)
class Tiled(BulkOutcome):
    """Slides that were tiled.

    Attributes:
        folder: holds `patches/`.
        tiles: the tiling that was requested.
        slides: one row per slide: slide_id, status, tiles, mpp, mpp_source, message.
    """

    folder: Path
    tiles: TileOptions
    slides: Sequence[dict[str, Any]]
    attempts: Sequence[Attempt]

    @property
    def count(self) -> int:
        """Tiles of all slides."""
        return sum(slide["tiles"] for slide in self.slides)

    def facts(self) -> dict[str, Any]:
        return {"folder": self.folder, "tiles": self.count, "slides": self.slides, **counts(self.attempts)}

    def lines(self) -> Iterable[str]:
        overlap = ""
        if self.tiles.overlap:
            overlap = f", overlap {self.tiles.overlap}"
        size = f"{self.tiles.patch_size} px at {self.tiles.resolution_name}{overlap}"
        yield f"{self.count} tiles of {size} from {len(self.slides)} slide(s) in {self.folder}"
        measured = [slide for slide in self.slides if slide["mpp"]]
        if measured:
            resolutions = [slide["mpp"] for slide in measured]
            low, high = min(resolutions), max(resolutions)
            scale = f"{low:g}"
            if low != high:
                scale = f"{low:g} to {high:g}"
            sources = sorted({slide["mpp_source"] for slide in measured})
            yield f"  scanned at {scale} µm per pixel ({', '.join(sources)})"
        yield from note_lines(self.attempts)
        yield f"Next: pathology-mil encode {self.folder} --encoder colour-texture"


def tile(
    slides: Path,
    /,
    *,
    out: Out = Path("job"),
    tiles: TileOptions = TileOptions(),
    tissue: TissueOptions = TissueOptions(),
    excluding: ExcludeOptions = ExcludeOptions(),
    scan: ScanOptions = ScanOptions(),
    process_list: Path | None = None,
    tissue_from: Path | None = None,
    run: BulkOptions = BulkOptions(),
) -> Tiled:
    """Finds the tissue and covers it with tiles; a rerun continues where the last one stopped.

    Example: pathology-mil tile slides --out job --mag 20 --patch-size 256

    Args:
        slides: a slide, a folder (searched to any depth) or a CSV (columns wsi, mpp).
        process_list: an edited process list of CLAM: which slides, and the settings of each.
        tissue_from: folder of tissue GeoJSON (corrected in QuPath) to use instead.
    """
    from pathology_mil.slides.process_list import listed_slides, read_process_list
    from pathology_mil.slides.reading import find_slides
    from pathology_mil.slides.tiling import tile_facts, tile_slides

    tiling = Tiling(tiles, tissue.params())
    files = find_slides(slides, mpp=scan.mpp)
    listed = None
    if process_list is not None:
        listed = read_process_list(process_list, tiling)
        files = listed_slides(files, listed)
    folder, attempts = tile_slides(
        files,
        out,
        tiling,
        listed=listed,
        tissue_from=tissue_from,
        exclude_class=excluding.exclude_class,
        run=run,
    )
    if len(files) == 1:
        require_results(attempts)
    rows = []
    for attempt in attempts:
        facts = tile_facts(tiles.file(out, attempt.name))
        rows.append({"slide_id": attempt.name, "status": attempt.status, **facts, "message": attempt.message})
    return Tiled(folder, tiles, rows, attempts)
