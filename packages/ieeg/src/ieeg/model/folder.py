"""A trained MVPFormer with what it needs to be used: how recordings are prepared for it, how long its window is, what it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import load_model, read_config, save_model
from core_runtime.errors import UserError
from core_runtime.folders import write_text
from ieeg.model.mvpformer import MVPFormer

RESEARCH_ONLY = "For research only, not for diagnosis."
_MADE_BY = "'ieeg train' makes a model folder, 'ieeg models convert' one of a published checkpoint"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to use, and what its folder says.

    Attributes:
        network: in evaluation mode, on its device.
        rate: of the signals that it takes, Hz.
        window: segments T that it was trained with.
        threshold: probability from which a segment counts as seizure.
        preparing: further settings of `ieeg.recordings.prepared`, by name; those left out have their defaults.
        provenance: how the model was made; `recordings` holds the signatures of what it was trained on (`ieeg.recordings.copies`).
    """

    network: MVPFormer
    rate: float = 512.0
    window: int = 25
    threshold: float = 0.5
    preparing: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    path: Path | None = None

    @property
    def segment_seconds(self) -> float:
        """Length of a segment."""
        return self.network.config.segment / self.rate

    @property
    def detects(self) -> bool:
        """Whether it has a seizure head; otherwise it forecasts."""
        return self.network.config.classes > 0


def save(
    network: MVPFormer,
    folder: Path,
    *,
    rate: float = 512.0,
    window: int = 25,
    threshold: float = 0.5,
    preparing: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model folder with a model card; arguments as the attributes of `LoadedModel`."""
    used = {"rate": rate, "window": window, "threshold": threshold, "preparing": dict(preparing or {}), "unit": "µV"}
    origin = {"notice": RESEARCH_ONLY, **(provenance or {})}
    save_model(network, folder, preprocessing=used, provenance=origin)
    write_text(folder / "README.md", _card(network, used, origin))
    return folder


def load(folder: Path | str, *, device: str = "cpu") -> LoadedModel:
    """Loads a model folder strictly.

    Raises:
        UserError: none there, or no MVPFormer of this package.
    """
    try:
        described = read_config(folder)
        if described.get("class") != "MVPFormer":
            raise UserError(f"{folder} holds a {described.get('class')}, not an MVPFormer", _MADE_BY)
        network = load_model(folder, MVPFormer)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(str(error), _MADE_BY) from None
    used = described["preprocessing"]
    return LoadedModel(
        network.to(device).eval(),
        float(used.get("rate", 512.0)),
        int(used.get("window", 25)),
        float(used.get("threshold", 0.5)),
        used.get("preparing", {}),
        described.get("provenance", {}),
        Path(folder),
    )


def chosen(model: str | None, *, device: str = "cpu") -> LoadedModel:
    """The model asked for with ``--model``.

    Raises:
        UserError: none was; says which exist here and how to get one.
    """
    if model is None:
        near = sorted(str(p.parent) for p in Path().glob("*/model/config.json"))
        there = (
            f"here are: {', '.join(near)}" if near else "'ieeg models' lists the published ones, 'ieeg train' makes one"
        )
        raise UserError("no --model was given", there)
    return load(model, device=device)


def _card(network: MVPFormer, used: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """What a person who finds the folder reads."""
    config = network.config
    kind = "seizure detector" if config.classes else "generative model (predicts the next segment)"
    trained = origin.get("trained_on") or origin.get("converted_from") or "not said"
    seconds = config.segment / used["rate"]
    return "\n".join(
        [
            f"# MVPFormer: {kind}",
            "",
            f"**{RESEARCH_ONLY}**",
            "",
            f"- {sum(p.numel() for p in network.parameters()):,} parameters: width {config.width}, {config.layers} layers, "
            f"{config.heads} heads, {config.kv_heads} of keys and values",
            f"- input: intracranial EEG in microvolts at {used['rate']:g} Hz, windows of {used['window']} segments of {seconds:g} s, "
            f"at most {config.channels} channels",
            f"- made from: {trained}",
            f"- threshold of a seizure segment: {used['threshold']:g}",
            "",
            "Carzaniga et al., A foundation model with multi-variate parallel attention to generate neuronal activity, arXiv 2506.20354.",
            "",
        ]
    )
