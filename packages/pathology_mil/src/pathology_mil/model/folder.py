"""A trained model with everything needed to use it: classes, feature width, how the features were made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from core_attention.checkpoints.folders import load_model, read_config, save_model
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.models import seal, warn_if_changed
from pathology_mil.features.bags import Bag, differing
from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, MeanMIL

CLASSES = {form.__name__: form for form in (ACMIL_GA, ACMIL_MHA, MeanMIL)}
_MADE_BY = (
    "'pathology-mil train' makes a model folder, 'pathology-mil models convert' makes one from an official checkpoint"
)


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to predict, and what its folder states.

    Attributes:
        network: in eval mode, on its device.
        classes: names by class number.
        features: how the features were made (encoder, magnification, patch size), as far as their files state it.
        provenance: how the model was made.
    """

    network: nn.Module
    classes: tuple[str, ...]
    features: Mapping[str, Any]
    provenance: Mapping[str, Any]
    path: Path | None = None

    @property
    def width(self) -> int:
        """F, the width of the features that it takes."""
        return self.network.config.n_features  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def check_bag(self, bag: Bag) -> None:
        """Makes sure that features are of the kind that the model was trained on.

        Raises:
            UserError: another width, encoder, weights, magnification or patch size.
        """
        width = bag.features.shape[1]
        if width != self.width:
            encoder = self.features.get("encoder")
            made_by = ""
            if encoder:
                made_by = f" (made by {encoder})"
            raise UserError(
                f"{bag.slide_id}: features are {width} wide, the model takes {self.width}{made_by}",
                "encode with the encoder of the model",
            )
        differences = differing(self.features, bag.preparation)
        if differences:
            raise UserError(
                f"{bag.slide_id}: the model and these features have different {', '.join(differences)}",
                "make the features in the same way as those that the model was trained on",
            )

    def seen(self, slides: Mapping[str, str], patients: Mapping[str, str]) -> dict[str, str]:
        """Slide → its part in making the model ("trained on", "chose the epoch"), by content, name or patient.

        Args:
            slides: slide → digest of its features.
            patients: slide → patient, where known.
        """
        reasons: dict[str, str] = {}
        for part, use in (("train", "was trained on"), ("val", "chose its epoch by")):
            digest_of = read_field(self.provenance, f"slides.{part}", dict, where=self.path, default={})
            known_patients = set(read_names(self.provenance, f"patients.{part}", where=self.path, default=()))
            digests = set(digest_of.values())
            for slide, digest in slides.items():
                # by content as well as by name: renamed copies of a slide are common
                if slide in digest_of or digest in digests:
                    reasons.setdefault(slide, f"the model {use} it")
                elif patients.get(slide) in known_patients:
                    reasons.setdefault(slide, f"the model {use} another slide of patient {patients[slide]}")
        return reasons


def save(
    network: nn.Module,
    folder: Path,
    *,
    classes: Sequence[str],
    features: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Writes a model folder that knows its classes, how its features were made and what it was trained on."""
    preprocessing = {"classes": list(classes), "features": dict(features)}
    return seal(save_model(network, folder, preprocessing=preprocessing, provenance=provenance))


def load(folder: Path | str, *, device: str = "cpu") -> LoadedModel:
    """Loads a model folder.

    Raises:
        UserError: there is none, or it does not hold a model of this package.
    """
    try:
        config = read_config(folder)
        form = CLASSES.get(str(config.get("class")))
        if form is None:
            raise UserError(f"{folder} holds {config.get('class')}, which is not a slide classifier", _MADE_BY)
        network = load_model(folder, form)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(shorten(str(error)), _MADE_BY) from None
    where = f"{Path(folder) / 'config.json'}"
    check_names(config, "preprocessing", ("classes", "features"), where=where, hint=_MADE_BY)
    n_class = network.config.n_class
    classes = read_names(config, "preprocessing.classes", where=where, hint=_MADE_BY)
    if len(classes) != n_class:
        raise UserError(
            f"{where}: preprocessing.classes names {len(classes)} classes, the model has {n_class}", _MADE_BY
        )
    features = read_field(config, "preprocessing.features", dict, where=where, hint=_MADE_BY)
    provenance = read_field(config, "provenance", dict, where=where, hint=_MADE_BY)
    warn_if_changed(config, Path(folder))
    return LoadedModel(network.to(device).eval(), tuple(classes), features, provenance, Path(folder))
