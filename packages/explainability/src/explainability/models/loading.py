"""Any classifier by name or folder, with what its pictures must look like."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core_attention.checkpoints.folders import load_model as load_folder
from core_attention.checkpoints.folders import save_model
from core_runtime.errors import UserError
from core_runtime.folders import writing
from core_runtime.hub import hub_errors
from core_runtime.identity import model_identity
from core_runtime.models import choose_model
from explainability.models.network import Network, NetworkConfig
from explainability.promptcam.model import PromptCAM
from explainability.vit.backbone import adapter_of

if TYPE_CHECKING:
    from PIL.Image import Image

ADVICE = "--model timm:NAME, torchvision:NAME or hf:NAME takes a published model; 'explainability train FOLDER --out RUN' makes RUN/model"
SOURCES = ("timm", "torchvision", "hf")


@dataclass(frozen=True)
class Classifier:
    """A model with its pre-processing.

    Attributes:
        model: takes normalised images, gives logits.
        size: height and width that it takes.
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
        names: of the classes; empty where they are not known.
        channels: of its input.
        identity: which weights these are.
        known: digests of the pictures that it was trained on or selected by (`explainability.training.data.digest`).
    """

    model: nn.Module
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()
    channels: int = 3
    identity: dict[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()

    def name(self, number: int) -> str:
        """A class in words."""
        return self.names[number] if number < len(self.names) else f"class {number}"

    def number(self, target: str | None, classes: int) -> int | None:
        """The class of ``--target``: a number or a name; None: the predicted one.

        Raises:
            UserError: the model has no such class.
        """
        if target is None:
            return None
        if target in self.names:
            return self.names.index(target)
        if target.isdecimal() and int(target) < classes:
            return int(target)
        known = f"numbers from 0 to {classes - 1}"
        if 0 < len(self.names) <= 20:
            known = f"{', '.join(self.names)}, or {known}"
        raise UserError(f"--target {target}: the model has no such class", f"its classes are {known}")

    def prepare(self, image: "Image") -> Tensor:
        """The whole picture at the model's size, normalised, (1, channels, height, width).

        The picture is resized without regard to its proportions, so that a map covers all of it and nothing is cut off.
        """
        from PIL import Image as Images

        height, width = self.size
        resized = image.resize((width, height), Images.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized, np.float32) / 255).permute(2, 0, 1)
        if self.channels == 1:
            pixels = pixels.mean(0, keepdim=True)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std)[None]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def load_classifier(name: str | None, device: str = "cpu") -> Classifier:
    """The model of ``--model``.

    Args:
        name: a model folder, or ``timm:``, ``torchvision:`` or ``hf:`` and a published name.
        device: where it computes.

    Raises:
        UserError: none was given, there is no such model, it cannot be downloaded, or it does not classify.
    """
    source, _, published = (name or "").partition(":")
    if source in SOURCES and published and not Path(name or "").exists():
        loaders = {"timm": _load_timm, "torchvision": _load_torchvision, "hf": _load_transformers}
        classifier = loaders[source](published)
        classifier.model.to(device).eval()
        return classifier
    folder = choose_model(name, advice=ADVICE)
    network = load_network(folder)
    config = network.config
    network.to(device)
    if isinstance(network.model, PromptCAM):
        network.model.keep_prompts()
    size = (config.image_size, config.image_size)
    return Classifier(
        network.model,
        size,
        config.mean,
        config.std,
        config.classes,
        identity=model_identity(Path(folder)),
        known=_known_pictures(Path(folder)),
    )


def _known_pictures(folder: Path) -> frozenset[str]:
    """The pictures that a model folder, or one of an adapter, says it was made from; none where it was made elsewhere."""
    adapter = folder / "adapter.json"
    described = json.loads((adapter if adapter.is_file() else folder / "config.json").read_text(encoding="utf-8"))
    provenance = described.get("provenance")
    pictures = provenance.get("pictures", []) if isinstance(provenance, dict) else []
    if not isinstance(pictures, list) or not all(isinstance(name, str) for name in pictures):
        raise UserError(f"{folder}: provenance.pictures is not a list of digests", ADVICE)
    return frozenset(pictures)


def load_network(folder: str) -> Network:
    """A network of a model folder.

    Raises:
        UserError: it is not a model folder of this package.
    """
    if (Path(folder) / "adapter.json").is_file():
        return load_adapter(Path(folder))
    try:
        return load_folder(folder, Network)
    except (OSError, ValueError) as error:
        raise UserError(str(error), ADVICE) from None


def save_network(network: Network, folder: Path, provenance: dict[str, Any]) -> Path:
    """Writes a model folder."""
    save_model(network, folder, provenance=provenance)
    return folder


def save_adapter(network: Network, folder: Path, base: Path | None, provenance: dict[str, Any]) -> Path:
    """Writes what was trained beside a frozen backbone, a few MB; it is taken as a model folder is.

    Args:
        network: of Prompt-CAM or TCPA.
        folder: where.
        base: model folder that the backbone is from; None: timm's published weights of ``config.backbone``.
        provenance: how it was trained.
    """
    inner: Any = network.model
    described = {
        "config": asdict(network.config),
        "base": None if base is None else str(base.resolve()),
        "backbone_sum": _checksum(inner.backbone),
        "provenance": provenance,
    }
    with writing(folder) as part:
        part.mkdir()
        tensors = {name: tensor.contiguous() for name, tensor in adapter_of(inner).items()}
        save_file(tensors, part / "adapter.safetensors")
        (part / "adapter.json").write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder


def load_adapter(folder: Path) -> Network:
    """A network of an adapter folder, with its backbone from where it was.

    Raises:
        UserError: damaged, or its backbone is not there or not the same.
    """
    try:
        described = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        values: dict[str, Any] = described["config"]
        for name in ("classes", "mean", "std"):  # JSON has lists
            values[name] = tuple(values[name])
        config = NetworkConfig(**values)
        network = Network(config)
        tensors = load_file(folder / "adapter.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} is a damaged adapter ({type(error).__name__}: {error})", "train it again") from None
    inner: Any = network.model
    expected = set(adapter_of(inner))
    if set(tensors) != expected:
        raise UserError(f"{folder}: adapter.safetensors holds {len(tensors)} tensors, expected {len(expected)}")
    if described["base"] is not None:
        other = load_network(described["base"])
        published = getattr(other.model, "backbone", other.model)
    else:
        import timm

        with hub_errors(f"timm:{config.backbone}", config.backbone, "use RUN/model, which holds its backbone"):
            published = timm.create_model(config.backbone, pretrained=True, num_classes=0, img_size=config.image_size)
    state = {name: tensor for name, tensor in published.state_dict().items() if not name.startswith("head.")}
    inner.backbone.load_state_dict(state)
    if abs(_checksum(inner.backbone) - described["backbone_sum"]) > 1e-3 * abs(described["backbone_sum"]):
        raise UserError(
            f"{folder}: its backbone is not the one that it was trained with", "use RUN/model of the same run"
        )
    inner.load_state_dict(tensors, strict=False)  # names were compared above
    return network.eval()


def _checksum(module: nn.Module) -> float:
    """A sum that tells weights apart."""
    return float(sum(tensor.double().abs().sum() for tensor in module.state_dict().values()))


def _load_timm(name: str) -> Classifier:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.partition('_')[0]}*")[:3])
        raise UserError(f"timm has no model {name!r}", f"near it: {near or 'none'}; timm.list_models() names all")
    with hub_errors(f"timm:{name}", name, "give a model folder as --model"):
        model = timm.create_model(name, pretrained=True)
    data = resolve_data_config(model.pretrained_cfg)
    channels, height, width = data["input_size"]
    if not getattr(model, "num_classes", 0):
        raise UserError(f"timm:{name} has no classifier", "choose weights with classes, or train a head on them")
    return Classifier(model, (height, width), data["mean"], data["std"], channels=channels, identity={"timm": name})


def _load_torchvision(name: str) -> Classifier:
    from torchvision.models import get_model, get_model_weights, list_models

    if name not in list_models():
        raise UserError(f"torchvision has no model {name!r}", "torchvision.models.list_models() names all")
    weights = get_model_weights(name)["DEFAULT"]
    with hub_errors(f"torchvision:{name}", name, "give a model folder as --model"):
        model = get_model(name, weights=weights)
    transform = weights.transforms()
    (side,) = transform.crop_size if len(transform.crop_size) == 1 else transform.crop_size[:1]
    names = tuple(weights.meta.get("categories", ()))
    return Classifier(
        model, (side, side), tuple(transform.mean), tuple(transform.std), names, identity={"torchvision": name}
    )


def _load_transformers(name: str) -> Classifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    with hub_errors(f"hf:{name}", name, "give a model folder as --model"):
        model = AutoModelForImageClassification.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name)
    size = processor.size
    side = size.get("height", size.get("shortest_edge", 224))
    names = tuple(model.config.id2label[number] for number in range(model.config.num_labels))
    return Classifier(
        model,
        (side, size.get("width", side)),
        tuple(processor.image_mean),
        tuple(processor.image_std),
        names,
        identity={"hf": name},
    )
