"""Feature maps of 7 × 7 cells from any backbone of timm or torchvision, or a model that was trained here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core_runtime.errors import UserError, named
from core_runtime.hub import hub_errors
from core_runtime.identity import identity, model_identity
from core_runtime.models import choose_model
from explainability.attribution.layers import recorded
from explainability.attribution.layout import infer_layout
from explainability.chm_corr.transfer import GRID
from explainability.models.loading import Classifier, load_network

if TYPE_CHECKING:
    from PIL.Image import Image

ADVICE = "--model timm:NAME or torchvision:NAME takes a published backbone (--weights FILE where there is no network); RUN/model one of 'train'"
# the last feature map of torchvision's families, by the name of the module that gives it
LAST_MAPS = ("layer4", "features", "trunk_output", "encoder")
HEADS = ("head.", "fc.", "classifier.", "heads.", "last_linear.")


@dataclass(frozen=True)
class Backbone:
    """A network as a source of features.

    Attributes:
        model: gives feature maps or tokens.
        pictures: what its pictures must look like.
        last: module whose output is the last map; empty: the model has `forward_features`.
    """

    model: nn.Module
    pictures: Classifier
    last: str = ""

    @torch.inference_mode()
    def cells(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c 7 7"]:
        """The last feature map, brought to 7 × 7: cells are averaged where it is finer, and interpolated where it is coarser.

        Raises:
            UserError: the model gives no map of places.
        """
        try:
            maps = self._last_map(image).float()
        except ValueError as error:
            raise UserError(f"this backbone has no map of places: {error}", "choose another --model") from None
        if min(maps.shape[-2:]) >= GRID:
            return F.adaptive_avg_pool2d(maps, GRID)
        return F.interpolate(maps, (GRID, GRID), mode="bilinear", align_corners=False)

    def _last_map(self, image: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        if self.last:
            with recorded(self.model.get_submodule(self.last)) as outputs:
                self.model(image)
            features = outputs[-1]
        else:
            features = self.model.forward_features(image)  # pyright: ignore[reportCallIssue]
        return infer_layout(tuple(features.shape), size, self.model).to_maps(features)

    def prepare(self, image: "Image") -> Tensor:
        """A picture as the backbone takes it, (1, 3, height, width); the whole picture, so that cells cover all of it."""
        return self.pictures.prepare(image).to(self.pictures.device)


def embed(cells: Float[Tensor, "b c 7 7"]) -> Float[Tensor, "b c"]:
    """Mean over the cells, of length 1: what retrieval compares."""
    return F.normalize(cells.mean((2, 3)), dim=1)


def load_backbone(name: str | None, weights: Path | None = None, device: str = "cpu") -> Backbone:
    """The backbone of ``--model``.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME`` or a model folder.
        weights: a checkpoint to load instead of the published weights; its classifier is left out, all else is strict.
        device: where it computes.

    Raises:
        UserError: no such model or weights, or weights that do not fit.
    """
    source, _, published = (name or "").partition(":")
    if source == "timm" and published:
        backbone = _of_timm(published, weights)
    elif source == "torchvision" and published:
        backbone = _of_torchvision(published, weights)
    else:
        if weights is not None:
            raise UserError("--weights belongs to timm:NAME or torchvision:NAME", "a model folder holds its weights")
        folder = choose_model(name, advice=ADVICE)
        network = load_network(folder)
        config = network.config
        inner: Any = getattr(network.model, "backbone", network.model)
        size = (config.image_size, config.image_size)
        identified = model_identity(Path(folder))
        backbone = Backbone(inner, Classifier(inner, size, config.mean, config.std, identity=identified))
    backbone.model.requires_grad_(False).to(device).eval()
    return backbone


def _of_timm(name: str, weights: Path | None) -> Backbone:
    import timm
    from timm.data.config import resolve_data_config

    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.partition('_')[0]}*")[:3])
        raise UserError(f"timm has no model {name!r}", f"near it: {near or 'none'}; timm.list_models() names all")
    with hub_errors(f"timm:{name}", name, "give --weights FILE, or a model folder as --model"):
        model: Any = timm.create_model(name, pretrained=weights is None, num_classes=0)
    data = resolve_data_config(model.pretrained_cfg)
    channels, height, width = data["input_size"]
    facts = {"timm": name}
    if weights is not None:
        load_weights(model, weights)
        facts["weights"] = identity(weights, full=True)["sha256"]
    pictures = Classifier(model, (height, width), data["mean"], data["std"], channels=channels, identity=facts)
    return Backbone(model, pictures)


def _of_torchvision(name: str, weights: Path | None) -> Backbone:
    from torchvision.models import get_model, get_model_weights, list_models

    if name not in list_models():
        raise UserError(f"torchvision has no model {name!r}", "torchvision.models.list_models() names all")
    published = get_model_weights(name)["DEFAULT"]
    with hub_errors(f"torchvision:{name}", name, "give --weights FILE, or a model folder as --model"):
        model = get_model(name, weights=published if weights is None else None)
    last = next((module for module in LAST_MAPS if hasattr(model, module)), None)
    if last is None:
        raise UserError(
            f"torchvision:{name} has no last feature map that is known", f"known are {', '.join(LAST_MAPS)}"
        )
    facts = {"torchvision": name}
    if weights is not None:
        load_weights(model, weights)
        facts["weights"] = identity(weights, full=True)["sha256"]
    transform = published.transforms()
    (side,) = transform.crop_size if len(transform.crop_size) == 1 else transform.crop_size[:1]
    pictures = Classifier(model, (side, side), tuple(transform.mean), tuple(transform.std), identity=facts)
    return Backbone(model, pictures, last)


def load_weights(model: nn.Module, weights: Path) -> None:
    """Loads a checkpoint's backbone; prefixes of data parallel training and of a surrounding network are understood.

    Raises:
        UserError: it cannot be read, or other tensors than those of a classifier are missing or left over.
    """
    from core_attention.checkpoints.files import read_official

    if not weights.is_file():
        raise UserError(f"no such file: {weights}", "--weights takes a .safetensors, .pth or .pt file")
    try:
        official = read_official(weights)
    except (OSError, ValueError) as error:
        raise UserError(named(weights, error)) from None
    state = {}
    for name, tensor in official.items():
        key = name.removeprefix("module.").removeprefix("backbone.")
        if not key.startswith(HEADS):
            state[key] = tensor
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(HEADS)}
    missing, left_over = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or left_over:
        raise UserError(
            f"{weights} does not fit the model: {len(missing)} tensors missing ({', '.join(missing[:2]) or 'none'}), "
            f"{len(left_over)} left over ({', '.join(left_over[:2]) or 'none'})"
        )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{weights} does not fit the model: {str(error).splitlines()[-1].strip()}") from None
