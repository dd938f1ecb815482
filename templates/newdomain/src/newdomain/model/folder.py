"""Model folders of this domain: saving, strict loading, choosing."""

from collections.abc import Sequence
from pathlib import Path

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.models import choose_model
from newdomain.model.burst import BurstClassifier

ADVICE = "'newdomain train FOLDER --out RUN' makes RUN/model"


def save_model(model: BurstClassifier, folder: Path, *, signals: Sequence[str], seed: int) -> Path:
    """Writes a model folder that knows the signals it was trained on."""
    preprocessing = {"window": model.config.window}
    save_folder(model, folder, preprocessing=preprocessing, provenance={"trained_on": list(signals), "seed": seed})
    return folder


def load_model(folder: str | None, device: str = "cpu") -> BurstClassifier:
    """The model of ``--model``, ready to be used.

    Raises:
        UserError: none was given, or it is not a model folder of this domain.
    """
    chosen = choose_model(folder, advice=ADVICE)
    try:
        return load_strictly(chosen, BurstClassifier).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(str(error), ADVICE) from None
