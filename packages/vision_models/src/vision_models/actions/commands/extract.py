"""``vision-models actions extract``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Any

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results
from core_runtime.errors import UserError
from core_runtime.identity import identity
from core_runtime.options import BulkOptions, Device, Out, flat, resolve_device
from vision_models.actions.backbones import BackboneOptions
from vision_models.actions.inputs import find_inputs, holds_features, name_videos


@dataclass(frozen=True)
class Work:
    """One video."""

    path: Path
    backbone: BackboneOptions
    device: str


@dataclass(frozen=True)
class Extracted(BulkOutcome):
    """The features of videos, and the videos that could not be used.

    Attributes:
        out: their folder.
        shapes: video → snippets and channels.
    """

    attempts: Sequence[Attempt]
    out: Path
    shapes: Mapping[str, Sequence[int]]

    def facts(self) -> dict[str, Any]:
        return {"out": self.out, "features": dict(self.shapes), "failed": self.failed}

    def lines(self) -> Iterable[str]:
        for name, (snippets, channels) in list(self.shapes.items())[:8]:
            yield f"{name}: {snippets} snippets × {channels} channels"
        if len(self.shapes) > 8:
            yield f"… and {len(self.shapes) - 8} more"
        yield f"Next: vision-models actions train {quote(str(self.out))} --annotations FILE --out run"


def extract(
    path: Path,
    /,
    *,
    out: Out = Path("features"),
    backbone: BackboneOptions = BackboneOptions(),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Extracted:
    """Makes snippet features of videos, by any image or video network or by plain statistics of motion; a killed run goes on.

    Example: vision-models actions extract videos/ --backbone resnet18 --weights resnet18.safetensors --out features

    Args:
        path: a video, or a folder of videos.
    """
    from core_runtime.terminal import warn
    from vision_models.actions.features import Source, read_features

    inputs = [each for each in find_inputs(path) if not holds_features(each)]
    if not inputs:
        raise UserError(f"{path} holds features already", "give videos")
    names = name_videos(inputs)
    place = resolve_device(device)
    built = _build(backbone, place)
    if backbone.backbone not in ("motion",) and backbone.weights is None and not Path(backbone.backbone).is_dir():
        warn(f"{backbone.backbone} has random weights: name a file of trained ones with --weights")
    items = []
    for each, name in zip(inputs, names, strict=True):
        key = {"input": identity(each), "options": flat(backbone=backbone), "backbone": built.description}
        items.append(Item(name, Work(each, backbone, place), out / f"{name}.npz", key=key, inputs=[each]))
    attempts = bulk(extract_item, items, run, log=out / "log.jsonl", description="Extracting")
    require_results(attempts)
    shapes: dict[str, Sequence[int]] = {}
    for item, attempt in zip(items, attempts, strict=True):
        if attempt.ok:
            shapes[item.name] = read_features(item.name, Source(item.output)).values.shape
    return Extracted(attempts, out, shapes)


@lru_cache(1)
def _build(how: BackboneOptions, device: str) -> Any:
    """The backbone, once in each process."""
    from vision_models.actions.backbones import build_backbone

    return build_backbone(how, device=device)


def extract_item(item: Item) -> dict[str, Any]:
    """Writes the features of one video, whole or not at all."""
    from vision_models.actions.snippets import extract as extract_features

    work: Work = item.source
    features = extract_features(work.path, _build(work.backbone, work.device), item.output)
    return {"snippets": len(features.values), "channels": features.values.shape[1]}
