"""``pathology-mil encode``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import ALREADY, DONE, Attempt, BulkOutcome, require_results
from core_runtime.options import AtLeast, BulkOptions, Device, Precision, options, resolve_device
from pathology_mil.features.options import EncoderOptions, StoredType
from pathology_mil.reports.notes import counts, note_lines, slide_facts


@options
class StorageOptions:
    """How features are computed and stored.

    Attributes:
        dtype: type of the stored features.
        batch: tiles per step.
    """

    dtype: StoredType = "float16"
    batch: Annotated[int, AtLeast(1)] = 64


@dataclass(frozen=True)
class Encoded(BulkOutcome):
    """Features of slides in a folder."""

    folder: Path
    encoder: EncoderOptions
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "encoder": self.encoder.label,
            "slides": slide_facts(self.attempts),
            **counts(self.attempts),
        }

    def lines(self) -> Iterable[str]:
        tiles = sum(attempt.facts.get("tiles", 0) for attempt in self.attempts)
        widths = {attempt.facts["dim"] for attempt in self.attempts if "dim" in attempt.facts}
        width = ""
        if widths:
            width = f", {widths.pop()} features each"
        status = Counter(attempt.status for attempt in self.attempts)
        slides = f"{status[DONE]} slide(s), {status[ALREADY]} done before"
        yield f"{self.encoder.label}: {tiles} tiles{width} from {slides}, in {self.folder}"
        if self.encoder.computed:
            yield "  colour-texture is a computed baseline for samples and demos; use a pathology encoder for real studies"
        yield from note_lines(self.attempts)
        yield f"Next: pathology-mil train {self.folder} labels.csv --out run"


def encode(
    job: Path,
    /,
    *,
    encoder: EncoderOptions = EncoderOptions(),
    storage: StorageOptions = StorageOptions(),
    slides: Path | None = None,
    device: Device = "auto",
    precision: Precision = "32-true",
    run: BulkOptions = BulkOptions(),
) -> Encoded:
    """Turns tiles into features, one HDF5 file per slide; a rerun continues where the last one stopped.

    Example: pathology-mil encode job --encoder timm:vit_small_patch16_224 --weights dino.pth

    Args:
        job: folder written by 'tile' (or by CLAM or TRIDENT).
        slides: where the slides are now, if they were moved.
    """
    encoder.name  # noqa: B018  # refuses a missing --encoder before anything heavy is imported
    from pathology_mil.features.encoding import Storage, encode_slides

    where = "cpu"  # the computed encoder uses no torch
    if not encoder.computed:
        where = resolve_device(device)
    how = Storage(dtype=storage.dtype, batch=storage.batch, device=where, precision=precision)
    folder, attempts = encode_slides(
        job,
        encoder,
        how,
        slides=slides,
        run=run,
    )
    if len(attempts) == 1:
        require_results(attempts)
    return Encoded(folder, encoder, attempts)
