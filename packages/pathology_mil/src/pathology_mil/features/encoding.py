"""From tiles to feature files: one slide at a time, tiles streamed, each file whole or absent."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core_runtime.bulk import ALREADY, Attempt, Item, Skipped, bulk
from core_runtime.errors import UserError
from core_runtime.folders import writing
from core_runtime.identity import identity
from core_runtime.options import BulkOptions
from pathology_mil.features.encoders import Encoder, build, pairing_warning
from pathology_mil.features.options import EncoderOptions, StoredType
from pathology_mil.slides.reading import RGB, Slide, find_slides, resized
from pathology_mil.slides.tiles import Tiles, open_h5, plain_attributes, read_tiles

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How features are computed and stored.

    Args:
        dtype: of the stored features.
        batch: tiles per step.
        device: a torch device.
        precision: of the network's arithmetic.
        readers: threads that read tiles.
    """

    dtype: StoredType = "float16"
    batch: int = 64
    device: str = "cpu"
    precision: str = "32-true"
    readers: int = 2


@dataclass(frozen=True)
class _Work:
    """What a process needs to encode one slide."""

    tiles: Path
    slide: Path | None
    encoder: EncoderOptions
    storage: Storage
    made_by: Mapping[str, Any]


def stream(
    slide: Slide, tiles: Tiles, *, size: int | None, batch: int, readers: int = 2
) -> Iterator[NDArray[np.uint8]]:
    """Reads the tiles in order, in batches (B, size, size, 3); only a few batches are in memory at a time.

    Args:
        slide: the open slide.
        tiles: coordinates and sizes.
        size: side that tiles are resized to; None keeps the size that they were laid out for.
        batch: tiles per batch.
        readers: threads.
    """

    def read(corner: NDArray) -> RGB:
        tile = slide.read_tile(*corner.tolist(), side=tiles.side, size=tiles.size)
        if size is None:
            return tile
        return resized(tile, size, size)

    corners = iter(tiles.coords)
    # At most two batches are being read or wait to be encoded: one result is taken, then one more tile is requested.
    with ThreadPoolExecutor(max(1, readers)) as pool:
        waiting: deque[Future[RGB]] = deque()
        block: list[RGB] = []
        try:
            while True:
                while len(waiting) < 2 * batch and (corner := next(corners, None)) is not None:
                    waiting.append(pool.submit(read, corner))
                if not waiting:
                    break
                block.append(waiting.popleft().result())
                if len(block) == batch:
                    yield np.stack(block)
                    block = []
            if block:
                yield np.stack(block)
        finally:
            for future in waiting:
                future.cancel()


def write_features(
    path: Path, encoder: Encoder, slide: Slide, tiles: Tiles, storage: Storage, extra: dict[str, Any]
) -> dict[str, Any]:
    """Encodes the tiles of one slide into an HDF5 file (`features` (N, F), `coords` (N, 2)) in TRIDENT's layout, which CLAM reads too.

    Returns:
        Facts for the log: tiles, bad tiles.
    """
    # Chunks of about 1 MB: whole rows are read, and much smaller or larger chunks make HDF5 slow.
    rows = max(1, _CHUNK_BYTES // (encoder.dim * np.dtype(storage.dtype).itemsize))
    n = len(tiles.coords)
    feature_chunks, coord_chunks = None, None  # HDF5 refuses chunks of an empty dataset
    if n:
        feature_chunks, coord_chunks = (min(n, rows), encoder.dim), (min(n, 65536), 2)
    with writing(path) as temporary:
        with h5py.File(temporary, "w") as file:
            data = file.create_dataset("features", (n, encoder.dim), storage.dtype, chunks=feature_chunks)
            done = 0
            for block in stream(slide, tiles, size=encoder.size, batch=storage.batch, readers=storage.readers):
                features = encoder.encode(block)
                # checked in the stored type: float16 ends at 65,504
                if not np.isfinite(features.astype(storage.dtype)).all():
                    advice = ": try --dtype float32"
                    if storage.dtype == "float32":
                        advice = ""
                    raise UserError(
                        f"{slide.path.name}: the encoder gave values that {storage.dtype} cannot hold{advice}"
                    )
                data[done : done + len(features)] = features
                done += len(features)
            coords = file.create_dataset("coords", data=tiles.coords, chunks=coord_chunks)
            for key, value in tiles.attributes.items():
                coords.attrs[key] = "None" if value is None else value  # HDF5 has no None; TRIDENT writes the word
            attributes = {"name": tiles.slide_id, "savetodir": str(path.parent), "encoder": encoder.choice.label}
            for key, value in {**attributes, **extra, "bad_tiles": slide.bad_regions}.items():
                data.attrs[key] = value
        # CLAM also wants the bare tensor; it is written first, since the HDF5 file means "done".
        if path.parent.name == "h5_files":
            _write_tensor(path.parent.parent / "pt_files" / f"{path.stem}.pt", temporary)
    return {"tiles": n, "bad_tiles": slide.bad_regions}


def _write_tensor(path: Path, features: Path) -> None:
    import torch

    with h5py.File(features, "r") as file, writing(path) as temporary:
        data: Any = file["features"]
        torch.save(torch.from_numpy(data[:].astype(np.float32)), temporary)


def find_tile_folder(job: Path) -> Path:
    """The folder that holds `patches/`: the one given, or the only one below it.

    Raises:
        UserError: there is none, or there are several.
    """
    if not job.exists():
        raise UserError(f"{job}: no such folder", "tiles are made by: pathology-mil tile")
    if job.name == "patches":
        return job.parent
    candidates = (job / "patches", *sorted(job.glob("*/patches")))
    folders = [patches.parent for patches in candidates if patches.is_dir()]
    if not folders:
        raise UserError(f"{job}: no folder 'patches' here", "tiles are made by: pathology-mil tile")
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise UserError(f"{job} holds several sets of tiles: {names}", "name one of these folders")
    return folders[0]


def feature_folder(tile_folder: Path, label: str, *, clam: bool) -> Path:
    """Where the features of a folder of tiles go: TRIDENT's place, or CLAM's with its own subfolder."""
    folder = tile_folder / f"features_{label}"
    if clam:
        return folder / "h5_files"
    return folder


def encode_slides(
    job: Path,
    encoder: EncoderOptions,
    storage: Storage,
    *,
    slides: Path | None = None,
    run: BulkOptions = BulkOptions(),
    executor: Executor | None = None,
) -> tuple[Path, list[Attempt]]:
    """Encodes every tile file of a job folder; continues where an interrupted run stopped.

    Args:
        job: a folder written by `tile`, CLAM or TRIDENT.
        encoder: its name and weights.
        storage: how features are computed and stored.
        slides: where the slides are now, if they were moved after tiling.
        run, executor: as in `core_runtime.bulk`; one process, where the device is not the CPU.

    Returns:
        The folder of features and one attempt per slide.

    Raises:
        UserError: no tiles; or existing features were made with another encoder, weights or tiles.
    """
    folder = find_tile_folder(job)
    files = sorted(path for path in (folder / "patches").glob("*.h5") if not path.name.startswith("."))
    if not files:
        raise UserError(f"{folder / 'patches'}: no tile files (.h5)", "tiles are made by: pathology-mil tile")
    moved = {}
    if slides is not None:
        moved = {slide.slide_id: slide.path for slide in find_slides(slides)}
    clam = not files[0].stem.endswith("_patches")  # CLAM: SLIDE.h5; TRIDENT: SLIDE_patches.h5
    target = feature_folder(folder, encoder.label, clam=clam)
    settings = {**encoder.plain(), "dtype": storage.dtype, "precision": storage.precision}
    items = []
    for file in files:
        slide_id = file.stem
        if not clam:
            slide_id = slide_id.removesuffix("_patches")
        output = target / f"{slide_id}.h5"
        _discard_damaged(output)
        slide = moved.get(slide_id) or _recorded_slide(file)
        key = {"tiles": identity(file, full=True), "slide": _content(slide), **settings}
        inputs = [file]
        if slide is not None:
            inputs.append(slide)
        items.append(Item(slide_id, _Work(file, slide, encoder, storage, settings), output, key=key, inputs=inputs))
    _encoder(encoder, storage.device, storage.precision)  # weights that do not fit are one error, not one per slide
    attempts = bulk(
        _encode,
        items,
        run.on(storage.device),
        log=target / "encode.jsonl",
        description=f"Encoding with {encoder.label}",
        executor=executor,
    )
    return target, [_still_empty(item, attempt) for item, attempt in zip(items, attempts, strict=True)]


def _content(slide: Path | None) -> dict[str, Any] | None:
    """What tells a slide from another, wherever it is."""
    if slide is None:
        return None
    content = identity(slide)
    del content["changed"]  # a copy has another modification time
    return content


def _discard_damaged(output: Path) -> None:
    """Removes features that were damaged later, so that they are computed again."""
    if not output.exists():
        return
    try:
        with open_h5(output) as file:
            file["features"].shape  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    except UserError:
        output.unlink()


def _still_empty(item: Item, attempt: Attempt) -> Attempt:
    """A slide without tiles is not "already done"."""
    if attempt.status != ALREADY:
        return attempt
    with open_h5(item.output) as file:
        data: Any = file["features"]
        has_tiles = data.shape[0] > 0
    if has_tiles:
        return attempt
    return replace(attempt, status="no tissue", message="it has no tiles")


@lru_cache(maxsize=1)
def _encoder(choice: EncoderOptions, device: str, precision: str) -> Encoder:
    """The encoder, once in each process."""
    return build(choice, device=device, precision=precision)


def _encode(item: Item) -> dict[str, Any]:
    work: _Work = item.source
    tiles = read_tiles(work.tiles)
    encoder = _encoder(work.encoder, work.storage.device, work.storage.precision)
    if work.slide is None:
        raise UserError(
            f"the slide of {tiles.slide_id} is no longer where it was tiled",
            "give the slides' present folder with --slides FOLDER",
        )
    with Slide(work.slide) as slide:
        made_by = {"made_by": json.dumps(work.made_by, sort_keys=True)}
        facts = write_features(item.output, encoder, slide, tiles, work.storage, made_by)
    if not len(tiles.coords):
        raise Skipped("no tissue", "no tiles to encode; an empty feature file was written")
    warning = pairing_warning(work.encoder, encoder.dim, tiles.attributes)
    notes = list(tiles.notes)
    if warning is not None:
        notes.append(warning)
    return {**facts, "encoder": work.encoder.label, "dim": encoder.dim, "notes": notes}


def _recorded_slide(tiles: Path) -> Path | None:
    """Where the slide was when it was tiled, if it is still there."""
    try:
        with open_h5(tiles) as file:
            recorded = plain_attributes(file["coords"].attrs).get("slide_path")
    except UserError:
        return None  # a damaged tile file is named when it is encoded
    if recorded is None or not Path(str(recorded)).is_file():
        return None
    return Path(str(recorded))
