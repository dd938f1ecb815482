"""SAT under its published names: golden cases, and checkpoints of the published code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core_attention.systems import Component, Config, StateDict
from explainability.sat_wsol.boxes import best_iou, box_at, normalise_map
from explainability.sat_wsol.model import SAT
from explainability.vit.backbone import build_backbone

OURS = {
    "loc_token": "loc_token",
    "loc_embed": "loc_embed",
    "weight": "smoothing",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}


def _build(config: Config) -> nn.Module:
    return SAT(build_backbone(config), config["num_classes"], spatial_blocks=config.get("spatial_blocks"))


def convert(official: StateDict, config: Config) -> StateDict:
    """Our state dict; published files prefix every key with ``module.``."""
    ours = {}
    for name in list(official):
        key = name.removeprefix("module.")
        ours[OURS.get(key, f"backbone.{key}")] = official.pop(name)
    return ours


def _run(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: SAT = module
    located = model.locate(inputs["image"])
    outputs: dict[str, Any] = {
        "logits": located.logits,
        "map": located.map,
        "spatial_probs": located.gates,
        "patch_tokens": located.patches,
    }
    if "label" in inputs:
        losses = model.losses(located, inputs["label"], area=config.get("area_thr", 0.25))
        outputs["loss_total"], outputs["loss_ce"] = losses.total, losses.classification
        outputs["area_per_image"], outputs["norm_per_image"] = losses.area, losses.norm
    if "thresholds" in config:
        side = config.get("crop_size", 224)
        resized = normalise_map(located.map.detach(), (side, side))
        outputs["map_resized_norm_image0"] = resized[0]
        maps = resized.cpu().numpy()
        boxes = [[box_at(values, threshold) for threshold in config["thresholds"]] for values in maps]
        outputs["boxes_xyxy"] = torch.tensor(boxes)
        if "gt_boxes_xyxy" in inputs:
            truths = inputs["gt_boxes_xyxy"].tolist()
            overlaps = [[best_iou(box, [truth]) for box in of_one] for of_one, truth in zip(boxes, truths, strict=True)]
            outputs["iou"] = torch.tensor(overlaps, dtype=torch.float64)
    return outputs


components = {"SAT": Component(run=_run, build=_build, convert=convert)}
