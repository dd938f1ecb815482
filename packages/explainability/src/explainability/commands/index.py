"""``explainability index``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk
from core_runtime.models import no_model
from core_runtime.options import AtLeast, BulkOptions, Device, Model, Out, resolve_device


@dataclass(frozen=True)
class Indexed(BulkOutcome):
    """An index.

    Attributes:
        out: its folder.
        pictures: how many it holds; 0 where it is not complete.
        classes: their names.
        duplicates: pictures that are there more than once.
        attempts: what became of each of its files.
    """

    out: Path
    pictures: int
    classes: Sequence[str]
    duplicates: int
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {
            "index": self.out,
            "pictures": self.pictures,
            "classes": list(self.classes),
            "duplicates": self.duplicates,
            "failed": self.failed,
        }

    def lines(self) -> Iterable[str]:
        if not self.pictures:
            yield "The index is not complete: mend what is named above and run the same command again."
            return
        yield f"Index of {self.pictures} pictures of {len(self.classes)} classes: {self.out}"
        if self.duplicates:
            yield f"{self.duplicates} pictures are there more than once, so the same picture may vote twice"
        yield f"Next: explainability correspond PICTURE --index {self.out}"


def index(
    folder: Path,
    /,
    *,
    model: Model = None,
    weights: Path | None = None,
    chm: Path | None = None,
    batch_size: Annotated[int, AtLeast(1)] = 16,
    out: Out = Path("index"),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Indexed:
    """Keeps the features of pictures by class, for classification by correspondences (CHM-Corr). A rerun goes on.

    Any backbone of timm or torchvision will do, or a model that was trained here; files are safetensors of half precision.

    Example: explainability index shapes/train --model run/model --out shapes-index

    Args:
        folder: a folder of pictures per class; of one with train, that part.
        weights: checkpoint of the backbone instead of the published weights (timm: and torchvision:).
        chm: checkpoint of CHM (pas_psi.pt); without it cells go to the nearest features.
        batch_size: pictures at a time.
    """
    from core_runtime.identity import data_fingerprint, identity
    from explainability.chm_corr.features import ADVICE
    from explainability.chm_corr.index import SHARD, Entry, Index, digests_of_shard, fingerprint_of
    from explainability.images.formats import find_classes, parts_of

    classes = find_classes(parts_of(folder)[0] if folder.is_dir() else folder)
    if model is None:
        raise no_model(ADVICE)
    where = resolve_device(device)
    backbone, _ = load_networks(model, weights, chm, where)
    files: list[Path] = []
    labels: list[int] = []
    for number, paths in enumerate(classes.values()):
        files += paths
        labels += [number] * len(paths)
    made_with = {
        "model": model if ":" in model and not Path(model).exists() else str(Path(model).resolve()),
        "weights": None if weights is None else str(weights.resolve()),
        "chm": None if chm is None else str(chm.resolve()),
        "fingerprint": fingerprint_of(backbone),
    }
    key = {
        "model": backbone.pictures.identity,
        "chm": None if chm is None else identity(chm),
        "batch_size": batch_size,
    }
    items = []
    for number, first in enumerate(range(0, len(files), SHARD)):
        part = files[first : first + SHARD]
        name = f"{number:05d}.safetensors"
        source = (part, model, weights, chm, where, batch_size)
        of_part = {**key, "pictures": data_fingerprint(part)}
        words = f"pictures {first + 1} to {first + len(part)}"
        items.append(Item(words, source, out / "shards" / name, key=of_part, inputs=part))
    attempts = bulk(index_shard, items, run, log=out / "log.jsonl", description="Indexing", parts=True)
    if not all(attempt.ok for attempt in attempts):
        (out / "index.json").unlink(missing_ok=True)
        return Indexed(out, 0, tuple(classes), 0, attempts)
    digests: list[str] = []
    for item in items:
        digests += digests_of_shard(item.output)
    base = parts_of(folder)[0]
    entries = []
    for file, label, digest in zip(files, labels, digests, strict=True):
        entries.append(Entry(str(file.relative_to(base)), label, digest))
    shards = tuple((item.output.name, len(item.inputs)) for item in items)
    Index(out, tuple(classes), tuple(entries), shards, made_with, str(base.resolve())).write()
    return Indexed(out, len(entries), tuple(classes), len(digests) - len(set(digests)), attempts)


@lru_cache(1)
def load_networks(model: str, weights: Path | None, chm: Path | None, device: str) -> Any:
    """The backbone and, with a checkpoint, CHM; once in each process."""
    from explainability.chm_corr.features import load_backbone
    from explainability.chm_corr.matching import load_chm

    return load_backbone(model, weights, device), None if chm is None else load_chm(chm, device)


def index_shard(item: Item) -> dict[str, Any]:
    """Writes the features of some pictures."""
    from explainability.chm_corr.index import write_shard

    files, model, weights, chm, device, batch_size = item.source
    backbone, network = load_networks(model, weights, chm, device)
    write_shard(item.output, files, backbone, network, batch_size)
    return {"pictures": len(files)}
