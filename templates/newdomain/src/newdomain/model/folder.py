"""Model folders of this domain: saving, strict loading, choosing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import find_folder, read_config
from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.models import choose_model, seal, warn_if_changed
from newdomain.model.burst import BurstClassifier

ADVICE = "'newdomain train FOLDER --out RUN' makes RUN/model"


def save_model(model: BurstClassifier, folder: Path, *, provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder.

    Args:
        model: ready to be used.
        folder: is made, or replaced as a whole.
        provenance: what it was made from: the digests of its training signals, the options of the run.
    """
    return seal(save_folder(model, folder, preprocessing={"window": model.config.window}, provenance=provenance))


def trained_on(folder: Path) -> set[str]:
    """The digests of the signals that a model was trained on; empty where it has no record of them."""
    return set(read_config(folder)["provenance"].get("trained_on", []))


def load_model(folder: str | None, device: str = "cpu") -> BurstClassifier:
    """The model of ``--model``, ready to be used.

    Raises:
        UserError: none was given, or it is not a model folder of this domain.
    """
    chosen = choose_model(folder, advice=ADVICE)
    try:
        warn_if_changed(read_config(find_folder(chosen)), Path(chosen))
        return load_strictly(chosen, BurstClassifier).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(str(error), ADVICE) from None
