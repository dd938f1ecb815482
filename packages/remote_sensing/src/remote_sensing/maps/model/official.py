"""Components of the published MapSAM and SAM: official checkpoints under official keys, and the replay of golden cases.

`segment_anything` loads torchvision, so the networks are imported where a component is built or run: `core-attention list` reads this file.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from core_attention.systems import Component, Config
from remote_sensing.maps.model.dora import DoRAQKV
from remote_sensing.maps.model.losses import dice_loss, focal_loss, mask_loss


def _sizes(config: Config, kind: Any, **more: Any) -> Any:
    """Our configuration from the official one; further entries of it are passed over."""
    sizes = {}
    for field in fields(kind):
        if field.name in config:
            value = config[field.name]
            sizes[field.name] = tuple(value) if isinstance(value, list) else value  # JSON has lists only
    return kind(**(sizes | more))


def build_mapsam(config: Config) -> nn.Module:
    from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig

    return MapSAM(_sizes(config, MapSamConfig))


def run_mapsam(module, inputs, *, config, mode):
    size = module.config.image_size
    result = module(inputs["image"])
    masks = F.interpolate(result.logits, (size, size), mode="bilinear", align_corners=False)
    outputs = {
        "low_res_logits": result.logits,
        "masks": masks,
        "iou_predictions": result.quality,
        "coarse_logits": result.coarse,
        "coarse_logits_quarter": result.coarse_at(size // 4),
        "image_embeddings": result.embedding,
        "point_coords": result.points,
        "point_labels": result.labels,
        "sparse_embeddings": result.sparse,
        "target_embedding": result.semantic,
    }
    for i, state in enumerate(result.states):
        outputs[f"stored_state_{i}"] = state
    for i, allowed in enumerate(result.allowed):
        outputs[f"attn_mask_layer{i}"] = allowed
    return outputs


def build_sam(config: Config) -> nn.Module:
    from remote_sensing.maps.model.sam import Sam, SamConfig

    return Sam(_sizes(config, SamConfig, num_mask_tokens=config.get("num_multimask_outputs", 3) + 1))


def run_sam(module, inputs, *, config, mode):
    from remote_sensing.maps.model.sam import dense_positions, resized_masks

    image = inputs["image"]
    if image.ndim == 3:
        image = image[None]
    x = module.preprocess(image)
    embedding = module.embed(x)
    outputs = {
        "preprocessed": x,
        "image_embeddings": embedding,
        "dense_pe": dense_positions(module.prompt_encoder),
    }
    points = None
    if "point_coords" in inputs:
        points = (inputs["point_coords"], inputs["point_labels"])
    boxes, masks = inputs.get("boxes"), inputs.get("mask_inputs")
    prompts: dict[str, dict[str, Any]] = {
        "points": {"points": points},
        "boxes": {"boxes": boxes},
        "points_boxes_masks": {"points": points, "boxes": boxes, "masks": masks},
    }
    for name, prompt in prompts.items():
        if any(part is None for part in prompt.values()):  # the case does not have these prompts
            continue
        sparse, dense = module.prompt(**prompt)
        low, quality = module.decode(embedding, sparse, dense, multimask=name == "points")
        original = tuple(config.get("original_size", image.shape[2:]))
        logits = resized_masks(low, module.config.image_size, tuple(image.shape[2:]), original)
        parts = {"sparse": sparse, "dense": dense, "low_res_logits": low, "iou": quality, "mask_logits": logits}
        for part, tensor in parts.items():
            outputs[f"{name}/{part}"] = tensor
    return outputs


def build_dora(config: Config) -> nn.Module:
    return DoRAQKV(nn.Linear(config["dim"], 3 * config["dim"]), rank=config["rank"])


def run_dora(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


def build_attention(config: Config) -> nn.Module:
    from segment_anything.modeling.transformer import Attention

    return Attention(config["embedding_dim"], config["num_heads"], config.get("downsample_rate", 1))


def run_attention(module, inputs, *, config, mode):
    from remote_sensing.maps.model.sam import decoder_attention

    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    allowed = inputs["allowed"].bool().expand(len(k), -1)
    form = config.get("masked_attention", "double")
    return {
        "masked": decoder_attention(module, q, k, v, allowed, form),
        "none_allowed": decoder_attention(module, q, k, v, torch.zeros_like(allowed), form),
        "unmasked": decoder_attention(module, q, k, v),
    }


def run_losses(module, inputs, *, config, mode):
    logits, target = inputs["logits"], inputs["target"]
    weights = {name: config[name] for name in ("focal_weight", "dice_weight") if name in config}
    return {
        "focal": focal_loss(logits, target),
        "dice": dice_loss(logits, target),
        "loss_total": mask_loss(logits, target, **weights),
    }


def run_metrics(module, inputs, *, config, mode):
    from remote_sensing.maps.metrics import image_measures

    return {"precision_recall_f1_iou": image_measures(inputs["pred"], inputs["gt"])}


def run_resize(module, inputs, *, config, mode):
    from remote_sensing.maps.model.checkpoints import resized_tables

    side = config["resize_to"] // config.get("patch_size", 16)
    return resized_tables(inputs, side, config["global_attn_indexes"])


_UNTRAINED = ("prompt_encoder.mask_downscaling.*", "prompt_encoder.point_embeddings.[23].*")


components = {
    "DoRA_Sam": Component(run=run_mapsam, build=build_mapsam, unused=_UNTRAINED, batch={"image": 0, "masks": 0}),
    "Sam": Component(run=run_sam, build=build_sam),
    "_DoRA_qkv": Component(run=run_dora, build=build_dora, batch={"x": 0, "y": 0}),
    "Attention": Component(
        run=run_attention,
        build=build_attention,
        unused=("k_proj.bias",),
        batch={"q": 0, "k": 0, "v": 0, "masked": 0, "none_allowed": 0, "unmasked": 0},
    ),
    "losses": Component(run=run_losses),
    "calculate_metric": Component(run=run_metrics),
    "load_from": Component(run=run_resize),
}
