"""Model folders of this domain: saving, strict loading, and what the model was made for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import find_folder, read_config
from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field
from core_runtime.models import choose_model, seal, warn_if_changed
from gaze.model.durations import Durations, read_durations
from gaze.model.oat import OAT

ADVICE = "'gaze train SCANPATHS --out RUN' makes RUN/model"


@dataclass(frozen=True)
class Prepared:
    """What a model expects of scenes.

    Attributes:
        looks: whether it was trained with pictures.
        longest: fixations of its longest training path: predictions end there.
        patches: rows and columns of equal parts of the picture that are its tokens (the pixel baseline); (0, 0): its tokens are objects.
        durations: how long fixations of its training paths lasted; None: not known. The network itself predicts no durations.
    """

    looks: bool
    longest: int
    patches: tuple[int, int] = (0, 0)
    durations: Durations | None = None


def save_model(model: OAT, folder: Path, *, prepared: Prepared, provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder that knows what it was trained on."""
    durations = None
    if prepared.durations is not None:
        durations = prepared.durations.to_json()
    preprocessing = {**prepared.__dict__, "durations": durations}
    return seal(save_folder(model, folder, preprocessing=preprocessing, provenance=dict(provenance)))


def load_model(model: str | None, device: str = "cpu") -> tuple[OAT, Prepared]:
    """The model of ``--model``, ready to be used, and what it expects.

    Raises:
        UserError: none was given, or it is not a model folder of this domain.
    """
    name = choose_model(model, advice=ADVICE)
    try:
        network = load_strictly(name, OAT).to(device).eval()
        config = read_config(name)
    except (OSError, ValueError) as error:
        raise UserError(shorten(str(error)), ADVICE) from None
    where = f"{name}/config.json"
    check_names(config, "preprocessing", [field.name for field in fields(Prepared)], where=where, hint=ADVICE)
    patches = read_field(config, "preprocessing.patches", list, where=where)
    if len(patches) != 2 or not all(isinstance(count, int) and count >= 0 for count in patches):
        raise UserError(f"{where}: preprocessing.patches is {patches}, expected two whole numbers", ADVICE)
    prepared = Prepared(
        looks=read_field(config, "preprocessing.looks", bool, where=where),
        longest=read_field(config, "preprocessing.longest", int, where=where, low=1),
        patches=(patches[0], patches[1]),
        durations=read_durations(config, where),
    )
    warn_if_changed(config, find_folder(name))
    return network, prepared


def trained_on(model: str) -> Mapping[str, Sequence[str]]:
    """What a model folder was made from: of each part the sources of its trials; empty for a converted model.

    Raises:
        UserError: its config.json does not say it as `train` writes it.
    """
    where = f"{model}/config.json"
    provenance = read_field(read_config(model), "provenance", dict, where=where)
    if "converted_from" in provenance:
        return {}
    trials = read_field(provenance, "trials", dict, where=f"{where}: provenance")
    for part, sources in trials.items():
        if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
            raise UserError(f"{where}: provenance.trials.{part} is not a list of digests", ADVICE)
    return trials
