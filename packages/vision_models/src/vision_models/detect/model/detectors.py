"""Detectors under one call: torchvision's, torchvision's heads on any backbone, transformers'."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core_runtime.errors import UserError
from vision_models import networks
from vision_models.networks.featenhancer import EnhancedDetector, FeatEnHancer

HEADS = ("fcos", "retinanet", "fasterrcnn")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
LEVELS = 3  # of the pyramid: strides 8, 16, 32


@dataclass(frozen=True)
class DetectorConfig:
    """How a detector is built.

    Attributes:
        detector: one of `HEADS`, the name of a torchvision detector, or "transformers".
        num_classes: without the background.
        backbone, settings, channels: of `HEADS`; settings as JSON.
        size, largest: sides that pictures are scaled to.
        enhancer: whether FeatEnHancer stands in front, and how wide it is.
        described: a transformers detector's own config, as JSON.
    """

    detector: str
    num_classes: int
    backbone: str = ""
    settings: str = "{}"
    channels: int = 128
    size: int = 480
    largest: int = 1333
    enhancer: bool = False
    enhancer_width: int = 32
    described: str = ""


class Detector(nn.Module):
    """Pictures to boxes, with or without FeatEnHancer in front; boxes are those of the picture as it came.

    ``detector(images, targets)`` gives the losses in training; ``detector(images)`` a list of boxes (left, top, right, bottom), labels from 1 and
    scores.

    Attributes:
        enhancer: FeatEnHancer, where it stands in front.

    Raises:
        UserError: there is no such detector, or it does not take its settings.
    """

    enhancer: FeatEnHancer | None

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        detector = build_detector(config)
        object.__setattr__(self, "enhancer", None)
        if config.enhancer:
            enhancer = FeatEnHancer(width=config.enhancer_width)
            if isinstance(detector, TransformersDetector):
                detector.network = EnhancedDetector(enhancer, detector.network)
            else:
                detector = EnhancedDetector(enhancer, detector)
            # looked at, not owned: its weights have one name in the state dict
            object.__setattr__(self, "enhancer", enhancer)
        self.model = detector

    @property
    def bare(self) -> nn.Module:
        """The network that published weights are of: without the enhancer, and as its own library names it."""
        network = self.model
        if isinstance(network, TransformersDetector):
            network = network.network
        if isinstance(network, EnhancedDetector):
            network = network.detector
        return network

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Pictures (3, height, width) from 0 to 1, of any sizes."""
        return self.model(list(images), targets)


def build_detector(config: DetectorConfig) -> nn.Module:
    """The detector alone."""
    if config.detector == "transformers":
        return TransformersDetector(config)
    if config.detector in HEADS:
        return _on_backbone(config)
    import torchvision

    named = torchvision.models.list_models(torchvision.models.detection)
    if config.detector not in named:
        raise UserError(
            f"no detector is called {config.detector!r}",
            f"{', '.join(HEADS)}, a folder of a transformers detector, or one of torchvision: {', '.join(named)}",
        )
    if "rcnn" in config.detector and "fasterrcnn" not in config.detector:
        raise UserError(f"{config.detector} finds more than boxes", "choose a Faster R-CNN, FCOS, RetinaNet or SSD")
    sizes = {} if "ssd" in config.detector else {"min_size": config.size, "max_size": config.largest}
    return torchvision.models.get_model(
        config.detector, weights=None, weights_backbone=None, num_classes=config.num_classes + 1, **sizes
    )


class Pyramid(nn.Module):
    """The last three levels of a backbone's features behind a feature pyramid (Lin et al. 2017)."""

    def __init__(self, name: str, settings: dict[str, Any], out_channels: int) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.out_channels = out_channels
        self.body = networks.create(name, num_classes=0, in_chans=3, features_only=True, **settings)
        channels = list(self.body.feature_info.channels())[-LEVELS:]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        self.fpn = FeaturePyramidNetwork(channels, out_channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)[-LEVELS:]
        return self.fpn(OrderedDict((str(level), feature) for level, feature in enumerate(features)))


def _on_backbone(config: DetectorConfig) -> nn.Module:
    """FCOS, RetinaNet or Faster R-CNN on a backbone of three levels."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    settings = {}
    for name, value in json.loads(config.settings).items():
        settings[name] = tuple(value) if isinstance(value, list) else value
    try:
        pyramid = Pyramid(config.backbone, settings, config.channels)
    except (ValueError, TypeError, RuntimeError, AssertionError, KeyError, AttributeError) as error:
        raise UserError(
            f"--backbone {config.backbone}: {error}", "a name of timm or of ours that gives a pyramid of features"
        ) from None
    sizes: dict[str, Any] = {"min_size": config.size, "max_size": config.largest}
    count = config.num_classes + 1
    if config.detector == "fcos":
        if config.channels % 32:
            raise UserError(f"--channels {config.channels}: FCOS's head is normalised in 32 groups", "a multiple of 32")
        strides = AnchorGenerator(tuple((8 * 2**i,) for i in range(LEVELS)), ((1.0,),) * LEVELS)
        return detection.FCOS(pyramid, count, anchor_generator=strides, **sizes)
    # three scales of an octave and three shapes at each level, as in the papers
    scales = tuple(tuple(round(32 * 2**i * 2 ** (j / 3)) for j in range(3)) for i in range(LEVELS))
    anchors = AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * LEVELS)
    if config.detector == "retinanet":
        return detection.RetinaNet(pyramid, count, anchor_generator=anchors, **sizes)
    levels = [str(level) for level in range(LEVELS)]
    pooling = MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2)
    return detection.FasterRCNN(pyramid, count, rpn_anchor_generator=anchors, box_roi_pool=pooling, **sizes)


class TransformersDetector(nn.Module):
    """A transformers detector (DETR, YOLOS and their kin) under torchvision's call.

    Pictures are scaled as the config says and normalised as ImageNet's; those of one size make a batch, so that nothing is padded, since these
    models differ in what the padding does to their boxes. Boxes come back in pixels of the picture.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        transformers = import_transformers()
        self.config = config
        values = json.loads(config.described)
        kind = transformers.CONFIG_MAPPING[values.pop("model_type")]
        described = kind.from_dict(values | {"num_labels": config.num_classes})
        # weights are random here; `load_start` or a model folder fills them
        self.network: nn.Module = transformers.AutoModelForObjectDetection.from_config(described)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        scaled = [self._scaled(image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(scaled):
            by_size.setdefault(tuple(image.shape), []).append(place)
        detections: list[Any] = [None] * len(images)
        losses = []
        for places in by_size.values():
            labels = None
            if targets is not None:
                labels = [self._target(images[place], targets[place]) for place in places]
            output = self.network(pixel_values=torch.stack([scaled[place] for place in places]), labels=labels)
            if labels is not None:
                losses.append(output.loss * (len(places) / len(images)))
                continue
            for row, place in enumerate(places):
                detections[place] = self._boxes(output.logits[row], output.pred_boxes[row], images[place])
        if targets is not None:
            return {"loss": torch.stack(losses).sum()}
        return detections

    def _scaled(self, image: Tensor) -> Tensor:
        short, long = min(image.shape[1:]), max(image.shape[1:])
        scale = min(self.config.size / short, self.config.largest / long)
        size = [max(1, round(side * scale)) for side in image.shape[1:]]
        image = nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
        return (image - mean) / std

    def _target(self, image: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
        from torchvision.ops import box_convert

        height, width = image.shape[1:]
        scale = torch.tensor([width, height, width, height], device=image.device)
        boxes = box_convert(target["boxes"], "xyxy", "cxcywh") / scale
        return {"class_labels": target["labels"] - 1, "boxes": boxes}

    def _boxes(self, logits: Tensor, boxes: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Boxes in pixels of the picture, from shares of it."""
        from torchvision.ops import box_convert

        if logits.shape[-1] == self.config.num_classes + 1:  # DETR's last class is "no object"
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        else:
            scores, labels = logits.sigmoid().max(-1)
        height, width = image.shape[1:]
        scale = torch.tensor([width, height, width, height], device=logits.device)
        return {
            "boxes": box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1) * scale,
            "labels": labels + 1,
            "scores": scores,
        }


def import_transformers() -> Any:
    """transformers, or one line that says how to add it."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "detectors of transformers need transformers", "pip install 'attention-suite-vision-models[transformers]'"
        ) from None
    return transformers


def read_transformers(folder: Path, num_classes: int) -> tuple[str, Path]:
    """A transformers detector's config, as JSON, and its weights.

    Raises:
        UserError: the folder holds none.
    """
    config, weights = folder / "config.json", folder / "model.safetensors"
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "model_type" not in values:
            raise ValueError("no model_type")
    except (OSError, ValueError):
        raise UserError(f"{folder} holds no transformers model: config.json is missing or damaged") from None
    if not weights.is_file():
        raise UserError(f"{folder} has no model.safetensors", "save the model with save_pretrained")
    return json.dumps(values), weights
