"""``gui-grounding models``."""

from pathlib import Path
from typing import Literal

from core_runtime.errors import UserError
from core_runtime.hub import hub_errors
from core_runtime.models import Described, find_published
from core_runtime.models import models as models_group
from gui_grounding.model.published import NOTICE, PUBLISHED


def get(name: str, /, *, out: Path = Path("models")) -> Described:
    """Fetches a published checkpoint, all of its files, from the hub.

    Example: gui-grounding models get gui-actor-3b --out models

    Args:
        name: as the list says.
        out: folder for the files.
    """
    published = find_published(PUBLISHED, name)
    folder = out / published.name
    by_hand = published.use.format(file=folder)
    with hub_errors(published.name, published.source, f"copy its files to {folder} and use: {by_hand}"):
        from huggingface_hub import snapshot_download

        snapshot_download(published.source, local_dir=folder, allow_patterns=["*.json", "*.txt", "*.safetensors"])
    return Described({"name": published.name, "folder": str(folder), "licence": published.licence, "use": by_hand})


def convert(
    checkpoint: Path,
    /,
    *,
    system_message: Path | None = None,
    loss: Literal["v2p", "guiactor"] | None = None,
    out: Path = Path("model"),
) -> Described:
    """Makes a model folder of a published checkpoint: V2P or GUI-Actor, whole or sharded, old layout or new.

    Example: gui-grounding models convert V2P-7B --system-message message.txt --out model

    Args:
        checkpoint: the folder as it was downloaded.
        system_message: text file with the message that it was trained with; clicks degrade under another.
        loss: whose model it is, which decides how regions are ranked; default: GUI-Actor's where the folder's name says so.
        out: the model folder.
    """
    from gui_grounding.model.folder import check_tokens, load_checkpoint, save_model

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    message = None
    if system_message is not None:
        try:
            message = system_message.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--system-message {system_message}: cannot be read ({error})", "give a text file"
            ) from None
    try:
        loaded = load_checkpoint(checkpoint, system_message=message, loss=loss)
        check_tokens(loaded.network, loaded.tokens, checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: {str(error)[:400]}", "expected a folder of V2P or GUI-Actor") from None
    provenance = {"converted_from": checkpoint.name, "system_message": loaded.prepared.message_digest}
    folder = save_model(loaded.network, loaded.tokens, out, prepared=loaded.prepared, provenance=provenance)
    return Described({"model": str(folder), **_described(loaded)})


def check(folder: str, /) -> Described:
    """Loads a model strictly and asks it once.

    Example: gui-grounding models check run/model

    Args:
        folder: a model folder, or a published checkpoint.
    """
    from PIL import Image

    from gui_grounding.model.folder import load_model
    from gui_grounding.model.inference import Grounder

    loaded = load_model(folder)
    try:
        Grounder(loaded).ground(Image.new("RGB", (112, 84), "white"), ["click the button"])
    except ValueError as error:
        raise UserError(f"{folder}: {error}", "its weights are damaged: train again") from None
    return Described({"model": folder, **_described(loaded)})


def _described(loaded: object) -> dict[str, object]:
    from gui_grounding.model.folder import Loaded

    assert isinstance(loaded, Loaded)
    prepared = loaded.prepared
    return {
        "parameters": sum(parameter.numel() for parameter in loaded.network.parameters()),
        "precision": str(next(loaded.network.parameters()).dtype).removeprefix("torch."),
        "backbone": loaded.network.config.backbone.get("model_type", "qwen2_5_vl"),
        "regions ranked by": prepared.scoring,
        "pixels": f"{prepared.min_pixels} to {prepared.max_pixels}",
        "system message": f"{prepared.message_digest}: {prepared.system_message[:60]}…",
        "calibrated": prepared.slope is not None,
    }


models = models_group(PUBLISHED, get, convert, check, command="gui-grounding", notice=NOTICE)
