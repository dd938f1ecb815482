"""A trained MVPFormer with everything needed to use it: how recordings are prepared for it, the length of its window, what it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import read_config
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field, read_names
from core_runtime.folders import write_text
from core_runtime.models import choose_model, seal, warn_if_changed
from ieeg.model.mvpformer import MVPFormer
from ieeg.model.published import PUBLISHED, RESEARCH_ONLY
from ieeg.recordings.settings import CHOICES, Settings

ADVICE = (
    "'ieeg train' makes a model folder, 'ieeg models' lists published ones, 'ieeg models convert' converts their files"
)
PREPROCESSING = ("rate", "window", "threshold", "preparing", "unit")
PREPARING = tuple(field.name for field in fields(Settings) if field.name not in ("rate", "segment"))
# What the signature of a recording holds (`ieeg.recordings.copies`).
RECORDED: Mapping[str, type] = {
    "name": str, "patient": str, "channels": int, "rate": float, "samples": int, "values": list, "landmarks": list,
}  # fmt: skip
SHORTEST, LONGEST = 0.1, 120.0  # seconds of a segment


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to use, and what its folder states.

    Attributes:
        network: in evaluation mode, on its device.
        rate: sampling rate of the signals that it takes, Hz.
        window: segments T that it was trained with.
        threshold: probability from which a segment counts as seizure.
        preparing: further settings of `ieeg.recordings.settings`, by name; absent ones have their defaults.
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
    def settings(self) -> Settings:
        """How recordings are prepared for it.

        Raises:
            UserError: the model folder names settings that do not exist.
        """
        try:
            return Settings(**{**(self.preparing or {}), "rate": self.rate, "segment": self.segment_seconds})
        except TypeError as error:
            raise UserError(f"{self.path}: the model's preparing settings do not fit: {error}", ADVICE) from None

    @property
    def detects(self) -> bool:
        """Whether it has a seizure head; otherwise it forecasts."""
        return self.network.config.classes > 0


def save_model(
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
    # All settings, not only those that were changed: what is left out would take another default some day.
    settings = {name: value for name, value in asdict(Settings()).items() if name in PREPARING} | dict(preparing or {})
    used = {"rate": rate, "window": window, "threshold": threshold, "preparing": settings, "unit": "µV"}
    origin = {"notice": RESEARCH_ONLY, **(provenance or {})}
    save_folder(network, folder, preprocessing=used, provenance=origin)
    write_text(folder / "README.md", _card(network, used, origin))
    return seal(folder)


def load_model(folder: Path | str, *, device: str = "cpu") -> LoadedModel:
    """Loads a model folder strictly.

    Raises:
        UserError: there is none, or it is not an MVPFormer of this package.
    """
    try:
        described = read_config(folder)
        if described.get("class") != "MVPFormer":
            raise UserError(f"{folder} holds {described.get('class')}, not an MVPFormer", ADVICE)
        network = load_strictly(folder, MVPFormer)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(shorten(str(error)), ADVICE) from None
    where = Path(folder) / "config.json"
    check_names(described, "preprocessing", PREPROCESSING, where=where, hint=ADVICE)
    window = read_field(
        described, "preprocessing.window", int, where=where, low=1, high=network.config.positions, hint=ADVICE
    )
    unit = read_field(described, "preprocessing.unit", str, where=where, hint=ADVICE)
    if unit != "µV":
        raise UserError(f"{where}: preprocessing.unit is {unit!r}, and signals are prepared in µV", ADVICE)
    rate = read_field(described, "preprocessing.rate", float, where=where, low=1, high=1e6, hint=ADVICE)
    seconds = network.config.segment / rate
    if not SHORTEST <= seconds <= LONGEST:
        raise UserError(
            f"{where}: at preprocessing.rate {rate:g} Hz a segment of {network.config.segment} samples lasts {seconds:g} s",
            ADVICE,
        )
    loaded = LoadedModel(
        network.to(device).eval(),
        rate,
        window,
        read_field(described, "preprocessing.threshold", float, where=where, low=1e-6, high=1, hint=ADVICE),
        _read_preparing(described, where),
        _read_provenance(described, where),
        Path(folder),
    )
    warn_if_changed(described, Path(folder))
    return loaded


def _read_provenance(described: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """How the model was made; the recordings of its training, if it names any, are complete.

    Raises:
        UserError: a field of one is missing or of another type.
    """
    provenance = read_field(described, "provenance", dict, where=where, hint=ADVICE)
    recordings = read_field(provenance, "recordings", list, where=f"{where}: provenance", default=[], hint=ADVICE)
    for i, recording in enumerate(recordings):
        place = f"{where}: provenance.recordings[{i}]"
        for name, kind in RECORDED.items():
            read_field(recording, name, kind, where=place, hint=ADVICE)
    return provenance


def _read_preparing(described: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The preparing settings that config.json holds.

    Raises:
        UserError: one is missing, does not exist or has another type.
    """
    check_names(described, "preprocessing.preparing", PREPARING, where=where, hint=ADVICE)
    stored = read_field(described, "preprocessing.preparing", dict, where=where, hint=ADVICE)
    settings: dict[str, Any] = {}
    for name in stored:
        path = f"preprocessing.preparing.{name}"
        if name in ("low", "high", "notch"):
            settings[name] = read_field(described, path, float, where=where, default=None, low=0, high=1e6, hint=ADVICE)
        elif name == "channels":
            settings[name] = read_field(described, path, int, where=where, low=0, high=1e6, hint=ADVICE)
        elif name == "keep_bads":
            settings[name] = read_field(described, path, bool, where=where, hint=ADVICE)
        elif name == "exclude":
            settings[name] = tuple(read_names(described, path, where=where, hint=ADVICE))
        else:
            settings[name] = read_field(described, path, str, where=where, hint=ADVICE)
            if settings[name] not in CHOICES[name]:
                raise UserError(f"{where}: {path} is {settings[name]!r}, not one of {', '.join(CHOICES[name])}", ADVICE)
    if settings.get("low", 0) is None or settings.get("high", 0) is None:
        raise UserError(f"{where}: preprocessing.preparing.low and .high must be numbers", ADVICE)
    return settings


def choose(model: str | None) -> Path:
    """The folder that ``--model`` names.

    Raises:
        UserError: none was given (the message lists those here and how to get one), or it is not a folder.
    """
    folder = Path(choose_model(model, advice=ADVICE))
    if not folder.is_dir():
        advice = ADVICE
        if any(published.name == model for published in PUBLISHED):
            advice = f"'ieeg models get {model}' fetches it"
        raise UserError(f"--model {model}: no such folder", advice)
    return folder


def _card(network: MVPFormer, used: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """The folder's README.md, for users who find it."""
    config = network.config
    kind = "generative model (predicts the next segment)"
    if config.classes:
        kind = "seizure detector"
    made_from = origin.get("trained_on") or origin.get("converted_from") or "unknown"
    seconds = config.segment / used["rate"]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return "\n".join(
        [
            f"# MVPFormer: {kind}",
            "",
            f"**{RESEARCH_ONLY}**",
            "",
            f"- {parameters:,} parameters: width {config.width}, {config.layers} layers, "
            f"{config.heads} heads, {config.kv_heads} of keys and values",
            f"- input: intracranial EEG in microvolts at {used['rate']:g} Hz, windows of {used['window']} segments of {seconds:g} s, "
            f"at most {config.channels} channels",
            f"- made from: {made_from}",
            f"- threshold of a seizure segment: {used['threshold']:g}",
            "",
            "Carzaniga et al., A foundation model with multi-variate parallel attention to generate neuronal activity, arXiv 2506.20354.",
            "",
        ]
    )
