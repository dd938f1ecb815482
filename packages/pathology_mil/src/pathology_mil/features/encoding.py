"""From tiles to feature files: one slide at a time, tiles streamed, the file whole or absent."""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from core_runtime.bulk import Item, Outcome, Skipped, bulk
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, fingerprint, writing
from pathology_mil.features.encoders import Encoder, EncoderChoice, build, pairing_warning
from pathology_mil.slides.reading import RGB, Slide, find_slides, resized
from pathology_mil.slides.tiles import Tiles, open_h5, plain_attributes, read_tiles

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class EncodeParams:
    """How tiles become features.

    Args:
        encoder: which encoder.
        dtype: of the stored features.
        batch: tiles a step.
        device: a torch device.
        precision: of the network's arithmetic.
        readers: threads that read tiles.
    """

    encoder: EncoderChoice
    dtype: Literal["float16", "float32"] = "float16"
    batch: int = 64
    device: str = "cpu"
    precision: str = "32-true"
    readers: int = 2

    def identity(self) -> dict[str, Any]:
        """What decides the features."""
        return {**self.encoder.identity(), "dtype": self.dtype, "precision": self.precision}


def stream(
    slide: Slide, tiles: Tiles, *, size: int | None, batch: int, readers: int = 2
) -> Iterator[NDArray[np.uint8]]:
    """Reads the tiles in order, in batches (B, size, size, 3); only a few batches are in memory at a time.

    Args:
        slide: the open slide.
        tiles: coordinates and sizes.
        size: side that tiles are resized to; None leaves them at the size they were laid out for.
        batch: tiles a batch.
        readers: threads.
    """

    def read(corner: NDArray) -> RGB:
        tile = slide.read_tile(*corner.tolist(), side=tiles.side, size=tiles.size)
        return tile if size is None else resized(tile, size, size)

    corners = iter(tiles.coords)
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
    path: Path, encoder: Encoder, slide: Slide, tiles: Tiles, params: EncodeParams, extra: dict[str, Any]
) -> dict[str, Any]:
    """Encodes the tiles of one slide into an HDF5 file (`features` (N, F), `coords` (N, 2)) in TRIDENT's layout, which CLAM reads too.

    Returns:
        Facts for the log: tiles, bad tiles.
    """
    rows = max(1, _CHUNK_BYTES // (encoder.dim * np.dtype(params.dtype).itemsize))
    n = len(tiles.coords)
    with writing(path) as temporary:
        with h5py.File(temporary, "w") as file:
            chunks = (min(n, rows), encoder.dim) if n else None
            data = file.create_dataset("features", (n, encoder.dim), params.dtype, chunks=chunks)
            done = 0
            for block in stream(slide, tiles, size=encoder.size, batch=params.batch, readers=params.readers):
                features = encoder.encode(block)
                if not np.isfinite(features.astype(params.dtype)).all():
                    wide = "" if params.dtype == "float32" else ": try --dtype float32"
                    raise UserError(f"{slide.path.name}: the encoder gave values that {params.dtype} cannot hold{wide}")
                data[done : done + len(features)] = features
                done += len(features)
            coords = file.create_dataset("coords", data=tiles.coords, chunks=(min(n, 65536), 2) if n else None)
            for key, value in tiles.attributes.items():
                coords.attrs[key] = "None" if value is None else value
            attributes = {"name": tiles.slide_id, "savetodir": str(path.parent), "encoder": encoder.choice.label}
            for key, value in {**attributes, **extra, "bad_tiles": slide.bad_regions}.items():
                data.attrs[key] = value
        if (
            path.parent.name == "h5_files"
        ):  # CLAM wants the bare tensor too; it goes first, as the HDF5 file means "done"
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
    found = [p.parent for p in (job / "patches", *sorted(job.glob("*/patches"))) if p.is_dir()]
    if not found:
        raise UserError(f"{job}: no folder 'patches' here", "tiles are made by: pathology-mil tile")
    if len(found) > 1:
        raise UserError(
            f"{job} holds several sets of tiles: {', '.join(p.name for p in found)}", "name one of these folders"
        )
    return found[0]


def feature_folder(tile_folder: Path, label: str, *, clam: bool) -> Path:
    folder = tile_folder / f"features_{label}"
    return folder / "h5_files" if clam else folder


def encode_slides(
    job: Path,
    params: EncodeParams,
    *,
    slides: Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    skip_errors: bool = True,
) -> tuple[Path, list[Outcome]]:
    """Encodes every tile file of a job folder; goes on where an interrupted run stopped.

    Args:
        job: what `tile` wrote, or a folder that CLAM or TRIDENT wrote.
        params: encoder and storage.
        slides: where the slides are, if not where they were when they were tiled.
        workers: processes (one, where the device is not the CPU).
        executor: where to work instead, as `core_runtime.bulk` takes it.
        overwrite: make all again.
        skip_errors: go on after a slide that failed.

    Returns:
        The folder of features and one outcome a slide.

    Raises:
        UserError: no tiles; features there were made with another encoder, weights or tiles.
    """
    folder = find_tile_folder(job)
    files = sorted(p for p in (folder / "patches").glob("*.h5") if not p.name.startswith("."))
    if not files:
        raise UserError(f"{folder / 'patches'}: no tile files (.h5)", "tiles are made by: pathology-mil tile")
    places = {s.slide_id: s.path for s in find_slides(slides)} if slides is not None else {}
    clam = not files[0].stem.endswith("_patches")
    target = feature_folder(folder, params.encoder.label, clam=clam)
    items = []
    for file in files:
        slide_id = file.stem if clam else file.stem.removesuffix("_patches")
        items.append(Item(slide_id, (file, places.get(slide_id), folder, params), target / f"{slide_id}.h5"))
    _encoder(params.encoder, params.device, params.precision)  # weights that do not fit are one error, not one a slide
    workers = workers if params.device == "cpu" else 1
    outcomes = bulk(
        _encode,
        items,
        log=target / "encode.jsonl",
        description=f"Encoding with {params.encoder.label}",
        workers=workers,
        executor=executor,
        skip_errors=skip_errors,
        already=(lambda item: False) if overwrite else _already,
    )
    return target, outcomes


def _identity(tiles_file: Path, params: EncodeParams) -> str:
    """Digest of what decides the features: encoder, storage, and the tiles by their own fingerprint (by content, where others made them)."""
    with open_h5(tiles_file) as file:
        tiles = plain_attributes(file["coords"].attrs).get("fingerprint")
    return fingerprint({**params.identity(), "tiles": tiles or data_fingerprint([tiles_file])})


def _already(item: Item) -> bool:
    """Whether the features are there, made of the same tiles in the same way.

    Raises:
        UserError: they are there, made otherwise.
    """
    tiles_file, _, _, params = item.source
    if not item.output.exists():
        return False
    try:
        with open_h5(item.output) as file:
            attributes = plain_attributes(file["features"].attrs)
            empty = file["features"].shape[0] == 0  # pyright: ignore[reportAttributeAccessIssue]
    except UserError:
        return False  # damaged from outside: made again
    if attributes.get("fingerprint") != _identity(tiles_file, params):
        before = json.loads(attributes.get("parameters", "{}"))
        changed = [k for k, v in params.identity().items() if before.get(k) != v] or ["tiles"]
        raise UserError(
            f"{item.output} was made with other {', '.join(changed)}",
            "--overwrite makes all features again; another folder of tiles keeps both",
        )
    return not empty


@lru_cache(maxsize=1)
def _encoder(choice: EncoderChoice, device: str, precision: str) -> Encoder:
    return build(choice, device=device, precision=precision)


def _encode(item: Item) -> dict[str, Any]:
    tiles_file, slide_path, folder, params = item.source
    tiles = read_tiles(tiles_file)
    encoder = _encoder(params.encoder, params.device, params.precision)
    path = slide_path or _recorded(tiles, folder)
    extra = {
        "parameters": json.dumps(params.identity(), sort_keys=True),
        "fingerprint": _identity(tiles_file, params),
    }
    with Slide(path) as slide:
        facts = write_features(item.output, encoder, slide, tiles, params, extra)
    if not len(tiles.coords):
        raise Skipped("no tissue", "no tiles to encode; an empty feature file was written")
    facts["encoder"], facts["dim"] = params.encoder.label, encoder.dim
    facts["notes"] = [*tiles.notes, *filter(None, [pairing_warning(params.encoder, encoder.dim, tiles.attributes)])]
    return facts


def _recorded(tiles: Tiles, folder: Path) -> Path:
    place = tiles.attributes.get("slide_path")
    if place is None or not Path(str(place)).is_file():
        raise UserError(
            f"the slide of {tiles.slide_id} is not where it was when it was tiled",
            "say where the slides are: --slides FOLDER",
        )
    return Path(str(place))
