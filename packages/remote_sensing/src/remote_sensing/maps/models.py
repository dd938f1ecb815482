"""The verb `models`: list what is published, get it, make a model folder of SAM's file and an adapter's, check a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core_attention.checkpoints.folders import read_official
from core_runtime.errors import UserError
from core_runtime.hub import hub_errors
from remote_sensing.maps.checkpoints import load_adapter, load_sam, plain_keys, variant_of
from remote_sensing.maps.mapsam import MapSAM, mapsam_config
from remote_sensing.maps.model_folders import SheetModel, load, save
from remote_sensing.maps.published import PUBLISHED


def listed() -> dict[str, Any]:
    """For ``models --json``."""
    rows = [
        {
            "name": p.name,
            "kind": p.kind,
            "licence": p.licence,
            "size": p.size,
            "source": p.source,
            "file": p.file,
            "needs": p.needs,
        }
        for p in PUBLISHED
    ]
    return {"models": rows}


def get(name: str, out: Path) -> dict[str, Any]:
    """Downloads published weights that are on the hub into `out`.

    Raises:
        UserError: an unknown name, a file that is not on the hub, or a hub that cannot be reached.
    """
    found = next((p for p in PUBLISHED if p.name == name), None)
    if found is None:
        raise UserError(f"no published model is called {name!r}", f"known: {', '.join(p.name for p in PUBLISHED)}")
    if not found.hub:
        raise UserError(f"{name} is not on the hub", f"it needs {found.needs}")
    from huggingface_hub import snapshot_download

    with hub_errors(name, found.hub, f"copy {found.file} of {found.hub} here"):
        path = snapshot_download(found.hub, allow_patterns=[found.file, "*.md"], local_dir=out / name)
    return {"name": name, "file": path, "licence": found.licence, "use": found.needs}


def convert(
    adapter: Path,
    out: Path,
    *,
    sam: Path | None,
    classes: Sequence[str] | None = None,
    image_size: int = 512,
    side: int = 224,
) -> dict[str, Any]:
    """Makes a model folder of a SAM checkpoint and a MapSAM adapter file of the official code; ranks and classes are read off its shapes.

    Raises:
        UserError: files that do not fit, each key named.
    """
    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    if sam is None:
        raise UserError("an adapter holds no encoder", "--sam names SAM's own checkpoint (sam_vit_b_01ec64.pth)")
    try:
        state, base = plain_keys(read_official(adapter)), read_official(sam)
        tokens = state.get("mask_decoder.mask_tokens.weight")
        ranks = [v.shape[1] for k, v in state.items() if k.endswith(".lora_A_q")]
        if tokens is None or not ranks:
            raise ValueError(f"{adapter} is no MapSAM adapter: no mask tokens or no lora_A_q")
        names = tuple(classes or (("feature",) if len(tokens) == 1 else [f"class {i + 1}" for i in range(len(tokens))]))
        if len(names) != len(tokens):
            raise UserError(f"{len(names)} class names were given, the adapter has {len(tokens)} classes")
        model = MapSAM(mapsam_config(variant_of(base), image_size=image_size, num_classes=len(tokens), rank=ranks[0]))
        load_sam(model, base)
        load_adapter(model, state)
    except (OSError, ValueError) as error:
        raise UserError(str(error), "expected SAM's .pth and an adapter of MapSAM (epoch_159.pth)") from None
    # the official code reads pictures as BGR in [0, 1]
    save(SheetModel(model, names, side, "bgr"), out, {"converted_from": [sam.name, adapter.name]})
    return {"model": str(out), "classes": list(names), "rank": ranks[0], "image_size": image_size}


def check(folder: Path | str) -> dict[str, Any]:
    """Loads a model folder strictly and runs it once.

    Raises:
        UserError: it cannot be used.
    """
    model = load(folder)
    logits = model.logits(torch.zeros(1, 3, model.side, model.side, dtype=torch.uint8))
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"{folder}: the model's answers are not finite", "its weights are damaged: train or convert again"
        )
    return {
        "model": str(folder),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "classes": list(model.classes),
        "tile": f"{model.side} sheet pixels, {model.network.config.image_size} in the network",
        "channel_order": model.channel_order,
        "temperature": model.temperature,
        "trained_on": (model.provenance or {}).get("trained_on"),
    }
