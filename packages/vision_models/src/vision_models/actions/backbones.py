"""What turns the frames of a snippet into its features: plain statistics of motion, or any image or video network.

An image network sees each frame alone; a snippet is the mean of its frames' features beside the mean change from frame to frame.
Nothing is downloaded: weights come from a file or a folder on this machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from core_runtime.errors import UserError, clean
from core_runtime.options import Above, AtLeast, options

Clip = NDArray[np.uint8]  # (snippets, frames, height, width, 3)
_CELLS = 4  # a side of the grid of the plain statistics
MOVING = 2 * _CELLS**2 + 2  # place among them of how much of the picture changes


@options
class BackboneOptions:
    """What makes the features of a video.

    Attributes:
        backbone: motion (statistics of brightness and change, no network), a name of timm, torchvision:NAME or pytorchvideo:NAME of their
            video networks (pytorchvideo:x3d_s), or a folder of a video model of transformers (VideoMAE).
        weights: file of the network's weights (.safetensors, .pth); without it a network has random ones.
        rate: snippets per second.
        frames: of a snippet.
        size: side in pixels to which frames are scaled; default: 64 for motion, else the network's own.
    """

    backbone: str = "motion"
    weights: Path | None = None
    rate: Annotated[float, Above(0)] = 4.0
    frames: Annotated[int, AtLeast(2)] = 4
    size: Annotated[int, AtLeast(16)] | None = None


@dataclass(frozen=True)
class Backbone:
    """A function of clips, and the words that tell it from another.

    Attributes:
        description: JSON; equal descriptions make equal features.
        rate: snippets per second.
        frames: of a snippet.
        size: side in pixels of its frames.
        features: (snippets, frames, size, size, 3) bytes → (snippets, channels).
    """

    description: str
    rate: float
    frames: int
    size: int
    features: Callable[[Clip], NDArray[np.float32]]

    @property
    def step(self) -> float:
        """Seconds of a snippet."""
        return 1 / self.rate


def build_backbone(how: BackboneOptions, *, device: str = "cpu") -> Backbone:
    """The backbone of the options.

    Raises:
        UserError: there is no such network, its library is missing, or its weights do not fit.
    """
    if how.backbone == "motion":
        if how.weights is not None:
            raise UserError("--backbone motion has no weights", "leave --weights out, or name a network")
        return _described(how, how.size or 64, "", motion_features)
    if Path(how.backbone).is_dir():
        size, features, digest = _of_transformers(Path(how.backbone), how, device)
    elif how.backbone.startswith("torchvision:"):
        size, features = _of_torchvision(how, device)
        digest = _digest(how.weights)
    elif how.backbone.startswith("pytorchvideo:"):
        size, features = _of_pytorchvideo(how, device)
        digest = _digest(how.weights)
    else:
        size, features = _of_timm(how, device)
        digest = _digest(how.weights)
    return _described(how, size, digest, features)


def rebuild_backbone(description: str, weights: Path | None, *, device: str = "cpu") -> Backbone:
    """The backbone of a description that a model folder or a file of features holds.

    Raises:
        UserError: it says nothing of use, or the weights are others.
    """
    try:
        said = json.loads(description)
        how = BackboneOptions(
            backbone=said["backbone"],
            weights=weights,
            rate=float(said["rate"]),
            frames=int(said["frames"]),
            size=int(said["size"]),
        )
        needed = said["weights"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            "the model was trained on features whose backbone is not known here",
            "give it files of such features instead of a video",
        ) from None
    if needed and weights is None and not Path(how.backbone).is_dir():
        raise UserError(
            f"the model's features come from {how.backbone} with weights of its own", "name their file with --weights"
        )
    backbone = build_backbone(how, device=device)
    if json.loads(backbone.description) != said:
        raise UserError(f"these weights of {how.backbone} are not those that the model was trained with", "--weights")
    return backbone


def option_words(description: str) -> str:
    """The options of ``extract`` that make features of a description; "" where it was not written here."""
    try:
        said = json.loads(description)
        words = [f"--backbone {said['backbone']}"]
        if said["weights"] and not Path(said["backbone"]).is_dir():
            words.append("--weights FILE")
        return " ".join([*words, *(f"--{name} {said[name]}" for name in ("rate", "frames", "size"))])
    except (ValueError, KeyError, TypeError):
        return ""


def _described(how: BackboneOptions, size: int, weights: str, features: Callable[[Clip], Any]) -> Backbone:
    said = {"backbone": how.backbone, "weights": weights, "rate": how.rate, "frames": how.frames, "size": size}
    return Backbone(json.dumps(said, sort_keys=True), how.rate, how.frames, size, features)


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"--weights {path}: {error.strerror}") from None


def motion_features(clips: Clip) -> NDArray[np.float32]:
    """Brightness and change of each snippet, on a grid of 4 × 4 and as a whole.

    The grids hold the mean of grey and of its absolute change from frame to frame; the rest are the mean and spread of grey, how much of
    the picture changes, the greatest change, where the change lies and how widely, how its place moves, and the signed change.
    """
    grey = clips.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    change = np.abs(np.diff(grey, axis=1))
    energy = change.mean(1)  # (snippets, height, width)
    side = clips.shape[2]
    grids = [_grid(grey.mean(1)), _grid(energy) * 8]
    moving = change > 0.08
    y, x = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    weight = change + 1e-6
    total = weight.sum((2, 3))
    x_of, y_of = (weight * x).sum((2, 3)) / total, (weight * y).sum((2, 3)) / total  # by frame
    spread = np.sqrt((weight * (x**2 + y**2)).sum((2, 3)) / total)
    whole = [
        grey.mean((1, 2, 3)),
        grey.std((2, 3)).mean(1),
        moving.mean((1, 2, 3)) * 10,
        energy.max((1, 2)) * 2,
        x_of.mean(1),
        y_of.mean(1),
        spread.mean(1),
        np.abs(np.diff(x_of, axis=1)).mean(1) if x_of.shape[1] > 1 else np.zeros(len(clips)),
        np.abs(np.diff(y_of, axis=1)).mean(1) if y_of.shape[1] > 1 else np.zeros(len(clips)),
        np.abs(np.diff(grey.mean((2, 3)), axis=1)).mean(1) * 20,
    ]
    return np.concatenate([*grids, np.stack(whole, 1)], 1).astype(np.float32)


def _grid(maps: NDArray[Any]) -> NDArray[Any]:
    side = maps.shape[1] // _CELLS * _CELLS
    cell = side // _CELLS
    return maps[:, :side, :side].reshape(-1, _CELLS, cell, _CELLS, cell).mean((2, 4)).reshape(len(maps), -1)


def _of_timm(how: BackboneOptions, device: str) -> tuple[int, Callable[[Clip], Any]]:
    import timm
    import torch
    from timm.data.config import resolve_data_config

    from vision_models.starting import load_start

    torch.manual_seed(0)  # random weights are the same ones each time
    try:
        network = timm.create_model(how.backbone, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"--backbone {how.backbone}: {clean(str(error))[:120]}",
            "motion, a name of timm, torchvision:NAME, pytorchvideo:NAME, or a folder of a transformers model",
        ) from None
    if how.weights is not None:
        load_start(network, how.weights)
    data = resolve_data_config({}, model=network)
    mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
    network = network.to(device).eval()

    def features(clips: Clip) -> NDArray[np.float32]:
        frames = torch.from_numpy(clips).flatten(0, 1).to(device)
        x = (frames.float() / 255 - mean.to(device)) / std.to(device)
        with torch.inference_mode():
            values = network(x.permute(0, 3, 1, 2).contiguous()).unflatten(0, clips.shape[:2])
        both = torch.cat([values.mean(1), values.diff(dim=1).abs().mean(1)], 1)
        return both.float().cpu().numpy()

    return how.size or int(data["input_size"][1]), features


def _of_torchvision(how: BackboneOptions, device: str) -> tuple[int, Callable[[Clip], Any]]:
    import torch
    from torch import nn
    from torchvision.models import get_model, list_models, video

    from vision_models.starting import load_start

    name = how.backbone.removeprefix("torchvision:")
    known = list_models(video)
    if name not in known:
        raise UserError(
            f"--backbone {how.backbone}: torchvision has no such video network", f"one of {', '.join(known)}"
        )
    torch.manual_seed(0)
    network: Any = get_model(name, weights=None)
    if how.weights is not None:
        load_start(network, how.weights)
    for head in ("fc", "head", "classifier"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
    scale = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    return how.size or 112, _of_clips(network, *scale, device)


def _of_clips(
    network: Any, mean: Sequence[float], std: Sequence[float], device: str
) -> Callable[[Clip], NDArray[np.float32]]:
    """Features by a network that takes whole clips (snippets, 3, frames, height, width)."""
    import torch

    network = network.to(device).eval()
    middle, spread = torch.tensor(mean, device=device), torch.tensor(std, device=device)

    def features(clips: Clip) -> NDArray[np.float32]:
        x = (torch.from_numpy(clips).to(device).float() / 255 - middle) / spread
        with torch.inference_mode():
            return network(x.permute(0, 4, 1, 2, 3).contiguous()).flatten(1).float().cpu().numpy()

    return features


# networks of pytorchvideo that take one clip, and the side of their pictures
_PYTORCHVIDEO = {"x3d_xs": 160, "x3d_s": 160, "x3d_m": 224, "x3d_l": 312}
_PYTORCHVIDEO |= dict.fromkeys(("slow_r50", "i3d_r50", "c2d_r50", "csn_r101", "r2plus1d_r50"), 224)


def _of_pytorchvideo(how: BackboneOptions, device: str) -> tuple[int, Callable[[Clip], Any]]:
    try:
        import torch
        from pytorchvideo.models import hub  # pyright: ignore[reportMissingImports]
        from torch import nn
    except ImportError as error:
        raise UserError(
            f"--backbone {how.backbone} needs pytorchvideo; {error.name} is not installed", "pip install pytorchvideo"
        ) from None
    from vision_models.starting import load_start

    name = how.backbone.removeprefix("pytorchvideo:")
    if name not in _PYTORCHVIDEO:
        raise UserError(f"--backbone {how.backbone}: no such network here", f"one of {', '.join(_PYTORCHVIDEO)}")
    torch.manual_seed(0)
    network: Any = getattr(hub, name)(pretrained=False)
    if how.weights is not None:
        load_start(network, how.weights)
    head = network.blocks[-1]
    head.proj, head.activation = nn.Identity(), None
    size = how.size or _PYTORCHVIDEO[name]
    features = _of_clips(network, (0.45,) * 3, (0.225,) * 3, device)
    try:
        features(np.zeros((1, how.frames, size, size, 3), np.uint8))
    except RuntimeError as error:
        raise UserError(
            f"--backbone {how.backbone} does not take {how.frames} frames of {size} × {size}: {clean(str(error))[:120]}",
            "--frames and --size as it was trained: x3d_xs takes 4, x3d_s 13, x3d_m and x3d_l 16 frames",
        ) from None
    return size, features


def _of_transformers(folder: Path, how: BackboneOptions, device: str) -> tuple[int, Callable[[Clip], Any], str]:
    try:
        import torch
        from transformers import AutoModel
    except ImportError:
        raise UserError(
            "a folder of a video model needs transformers, which is not installed",
            "pip install 'attention-suite-vision-models[transformers]'",
        ) from None
    from core_runtime.folders import fingerprint
    from core_runtime.identity import model_identity

    try:
        network: Any = AutoModel.from_pretrained(str(folder), local_files_only=True)
        size, frames = int(network.config.image_size), int(network.config.num_frames)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"--backbone {folder} is not a folder of a video model: {clean(str(error))[:100]}",
            "expected a model such as VideoMAE, saved by transformers",
        ) from None
    if how.frames != frames:
        raise UserError(f"--backbone {folder} takes {frames} frames, --frames is {how.frames}", f"--frames {frames}")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network = network.to(device).eval()

    def features(clips: Clip) -> NDArray[np.float32]:
        x = (torch.from_numpy(clips).to(device).float() / 255 - mean.to(device)) / std.to(device)
        with torch.inference_mode():
            states = network(pixel_values=x.permute(0, 1, 4, 2, 3).contiguous()).last_hidden_state
        return states.mean(1).float().cpu().numpy()

    return size, features, fingerprint(model_identity(folder))
