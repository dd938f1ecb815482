"""``remote-sensing maps models``."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.models import Described, find_published
from core_runtime.models import models as models_group
from core_runtime.options import Names
from remote_sensing.maps.model.published import PUBLISHED


def get(name: str, /, *, out: Path = Path("models")) -> Described:
    """Fetches published weights from the hub.

    Example: remote-sensing maps models get mapsam-tithe --out models

    Args:
        name: as in the list.
        out: folder for the files.
    """
    from core_runtime.hub import hub_errors

    published = find_published(PUBLISHED, name)
    if not published.files:
        raise UserError(f"{name} is not on the hub", f"it needs {published.needs}")
    from huggingface_hub import snapshot_download

    # the repository names its checkpoints by epoch: all of them are fetched
    patterns = [*published.files, "*.md"]
    with hub_errors(name, published.source, f"copy {published.files[0]} of {published.source} here"):
        folder = snapshot_download(published.source, allow_patterns=patterns, local_dir=out / name)
    return Described(
        {"name": name, "folder": folder, "licence": published.licence, "use": published.use.format(file="FILE")}
    )


def convert(
    adapter: Path,
    /,
    *,
    sam: Path | None = None,
    classes: Names | None = None,
    image_size: int = 512,
    side: int = 224,
    out: Path = Path("models"),
) -> Described:
    """Makes a model folder from SAM's checkpoint and a MapSAM adapter file of the official code; ranks and classes are inferred from its shapes.

    Example: remote-sensing maps models convert epoch_159.pth --sam sam_vit_b_01ec64.pth --out railway-model

    Args:
        adapter: the adapter file (epoch_159.pth).
        sam: SAM's own checkpoint (sam_vit_b_01ec64.pth).
        classes: names of the classes, in the order of the adapter's masks.
        image_size: pixels of a tile in the network.
        side: pixels of a sheet that one tile shows.
        out: the model folder.
    """
    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    if sam is None:
        raise UserError("an adapter holds no encoder", "--sam names SAM's own checkpoint (sam_vit_b_01ec64.pth)")
    from core_attention.checkpoints.folders import read_official
    from remote_sensing.maps.model.checkpoints import load_adapter, load_sam, plain_keys, variant_of
    from remote_sensing.maps.model.folder import SheetModel, save
    from remote_sensing.maps.model.mapsam import MapSAM, mapsam_config

    try:
        state, base = plain_keys(read_official(adapter)), read_official(sam)
        tokens = state.get("mask_decoder.mask_tokens.weight")
        # one per attention layer: (inputs, rank)
        ranks = [tensor.shape[1] for key, tensor in state.items() if key.endswith(".lora_A_q")]
        if tokens is None or not ranks:
            raise ValueError(f"{adapter} is not a MapSAM adapter: no mask tokens or no lora_A_q")
        names = classes or ("feature",)
        if classes is None and len(tokens) > 1:
            names = tuple(f"class {number}" for number in range(1, len(tokens) + 1))
        if len(names) != len(tokens):
            raise UserError(
                f"{len(names)} class names were given, the adapter has {len(tokens)} classes", "--classes names them"
            )
        network = MapSAM(mapsam_config(variant_of(base), image_size=image_size, num_classes=len(tokens), rank=ranks[0]))
        load_sam(network, base)
        load_adapter(network, state)
    except (OSError, ValueError) as error:
        raise UserError(str(error), "expected SAM's .pth and an adapter of MapSAM (epoch_159.pth)") from None
    # the official code reads pictures as BGR in [0, 1]
    provenance = {"converted_from": [sam.name, adapter.name]}
    save(SheetModel(network, tuple(names), side, "bgr", provenance=provenance), out)
    return Described({"model": str(out), "classes": list(names), "rank": ranks[0], "image_size": image_size})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: remote-sensing maps models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from remote_sensing.maps.model.folder import load

    model = load(folder)
    logits = model.logits(torch.zeros(1, 3, model.side, model.side, dtype=torch.uint8))
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"{folder}: the model's outputs are not finite", "its weights are damaged: train or convert again"
        )
    return Described(
        {
            "model": folder,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "classes": list(model.classes),
            "tile": f"{model.side} sheet pixels, {model.network.config.image_size} in the network",
            "channel_order": model.channel_order,
            "temperature": model.temperature,
            "trained_on": model.provenance.get("trained_on"),
        }
    )


models = models_group(PUBLISHED, get, convert, check, command="remote-sensing maps")
