"""CLAM's `process_list_autogen.csv`: a row per slide with the parameters it was tiled with, which users edit and feed back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core_runtime.bulk import Attempt
from core_runtime.errors import UserError, few
from core_runtime.tables import read_table
from pathology_mil.slides.formats import slide_id
from pathology_mil.slides.options import Tiling
from pathology_mil.slides.reading import SlideFile


def _ids(text: str) -> tuple[int, ...]:
    if text.strip().lower() in ("", "none"):
        return ()
    return tuple(map(int, text.replace(",", " ").split()))


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.strip().lower() in ("true", "1")


_TISSUE: Mapping[str, Callable[[str], Any]] = {
    "seg_level": int,
    "sthresh": int,
    "mthresh": int,
    "close": int,
    "use_otsu": _flag,
    "keep_ids": _ids,
    "exclude_ids": _ids,
    "a_t": float,
    "a_h": float,
    "max_n_holes": int,
}
_TILES: Mapping[str, Callable[[str], Any]] = {"use_padding": _flag, "contour_fn": str}


def process_row(file: str, tiling: Tiling, attempt: Attempt) -> dict[str, Any]:
    """The row of a slide file: the parameters of its tiling, and the result."""
    tissue = tiling.tissue
    return {
        "slide_id": file,
        "process": int(not attempt.ok),
        "status": {"done": "processed", "already done": "already_exist"}.get(attempt.status, "failed_seg"),
        **{name: getattr(tissue, name) for name in _TISSUE},
        "keep_ids": ",".join(map(str, tissue.keep_ids)) or "none",
        "exclude_ids": ",".join(map(str, tissue.exclude_ids)) or "none",
        "vis_level": -1,
        "line_thickness": 250,
        "use_padding": tiling.tiles.use_padding,
        "contour_fn": tiling.tiles.contour_fn,
    }


def read_process_list(path: Path, base: Tiling) -> dict[str, Tiling]:
    """Parameters by slide id (file name without its ending) of the rows whose `process` is 1.

    Args:
        path: CSV with a column `slide_id`; `process` and every parameter may be absent or empty.
        base: the values where a row has none.

    Raises:
        UserError: unreadable, without slides, a slide twice, or an unusable value.
    """
    table = read_table(path)
    column = table.column("slide_id")
    process = table.column("process", required=False)
    columns = {name: table.column(name, required=False) for name in (*_TISSUE, *_TILES)}
    listed: dict[str, Tiling] = {}
    for row in table:
        name = row[str(column)]
        if name is None or (row.get(process) or "1") in ("0", "0.0"):
            continue
        slide = slide_id(name)
        where = f"{path.name}, line {row.line}"
        if slide in listed:
            raise UserError(f"{where}: slide {slide} is listed twice")
        cells = {parameter: row.get(column) for parameter, column in columns.items()}
        try:
            tissue, tiles = _read_cells(cells, _TISSUE), _read_cells(cells, _TILES)
            listed[slide] = Tiling(replace(base.tiles, **tiles), replace(base.tissue, **tissue))
        except (ValueError, UserError) as error:
            raise UserError(f"{where}: {error}") from error
    if not listed:
        raise UserError(f"{path} names no slide to process", "set 'process' to 1 in the rows to process")
    return listed


def _read_cells(cells: Mapping[str, str | None], readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The parameters that a row states; an empty cell states none.

    Raises:
        ValueError: a cell that its reader does not understand.
    """
    values = {}
    for name, read in readers.items():
        text = cells[name]
        if text is not None:
            values[name] = read(text)
    return values


def listed_slides(slides: Sequence[SlideFile], listed: Mapping[str, Tiling]) -> list[SlideFile]:
    """The slides that a process list names.

    Raises:
        UserError: it names slides that are not here.
    """
    absent = sorted(listed.keys() - {slide.slide_id for slide in slides})
    if absent:
        raise UserError(f"the process list names {few(absent)}: no such slide here")
    return [slide for slide in slides if slide.slide_id in listed]
