"""A trained model with what it needs to be used: classes, feature width, how the features were made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from core_attention.checkpoints.folders import load_model, read_config, save_model
from core_runtime.errors import UserError
from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, MeanMIL

CLASSES = {c.__name__: c for c in (ACMIL_GA, ACMIL_MHA, MeanMIL)}
_MADE_BY = "'pathology-mil train' makes a model folder, 'pathology-mil models convert' one of an official checkpoint"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to predict, and what its folder says.

    Attributes:
        network: in eval mode, on its device.
        classes: names by class number.
        features: how the features were made (encoder, magnification, patch size), as far as their files told.
        provenance: how the model was made.
    """

    network: nn.Module
    classes: tuple[str, ...]
    features: Mapping[str, Any]
    provenance: Mapping[str, Any]
    path: Path | None = None

    @property
    def width(self) -> int:
        """F, the width of features that it takes."""
        return self.network.config.n_features  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def check_width(self, width: int, name: str) -> None:
        """Raises UserError where features have another width."""
        if width != self.width:
            made = f" (made by {self.features['encoder']})" if self.features.get("encoder") else ""
            raise UserError(
                f"{name}: features are {width} wide, the model takes {self.width}{made}",
                "encode with the encoder of the model",
            )


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
    return save_model(network, folder, preprocessing=preprocessing, provenance=provenance)


def load(folder: Path | str, *, device: str = "cpu") -> LoadedModel:
    """Loads a model folder.

    Raises:
        UserError: none there, or not one of this package's models.
    """
    try:
        config = read_config(folder)
        form = CLASSES.get(str(config.get("class")))
        if form is None:
            raise UserError(f"{folder} holds a {config.get('class')}, which is no slide classifier", _MADE_BY)
        network = load_model(folder, form)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(str(error), _MADE_BY) from None
    classes = tuple(config["preprocessing"].get("classes") or map(str, range(network.config.n_class)))
    return LoadedModel(
        network.to(device).eval(),
        classes,
        config["preprocessing"].get("features", {}),
        config.get("provenance", {}),
        Path(folder),
    )
