"""V2P and GUI-Actor under their published names: golden cases, and state dicts of the published code in old and new layouts."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from gui_grounding.model.answers import reformat_coordinates
from gui_grounding.model.head import PointerHead, scores_of
from gui_grounding.model.labels import multi_patch_labels, token_index
from gui_grounding.model.losses import pointer_loss
from gui_grounding.model.pointer import PointerModel, config_from_published
from gui_grounding.model.regions import Scoring, find_regions

HEAD = "multi_patch_pointer_head."
_HEAD_KEYS = (
    ("self_attention.in_proj_", "project."),
    ("self_attention.out_proj.", "output."),
    ("layer_norm.", "norm."),
    ("projection_enc.", "encode_keys."),
    ("projection_dec.", "encode_queries."),
)
# released checkpoints (transformers 4), and what transformers 5 writes of a subclass
_BACKBONE_KEYS = (
    (r"^visual\.", "backbone.model.visual."),
    (r"^model\.(visual|language_model)\.", r"backbone.model.\1."),
    (r"^model\.", "backbone.model.language_model."),
    (r"^lm_head\.", "backbone.lm_head."),
)


def convert_head(official: StateDict, config: Config) -> StateDict:
    """The head's state dict in our names."""
    ours = {}
    for key in list(official):
        for before, after in _HEAD_KEYS:
            if key.startswith(before):
                ours[key.replace(before, after, 1)] = official.pop(key)
    return ours


def convert(official: StateDict, config: Config) -> StateDict:
    """The whole state dict in our names, from the old layout or the new one."""
    head = {key.removeprefix(HEAD): official.pop(key) for key in list(official) if key.startswith(HEAD)}
    ours = {f"head.{key}": tensor for key, tensor in convert_head(head, config).items()}
    official.update({HEAD + key: tensor for key, tensor in head.items()})  # what the head has no place for is told
    for key in list(official):
        for pattern, replacement in _BACKBONE_KEYS:
            if re.match(pattern, key):
                ours[re.sub(pattern, replacement, key)] = official.pop(key)
                break
    return ours


def _build_head(config: Config) -> nn.Module:
    return PointerHead(
        config["d_model"],
        projection_width=config.get("projection_dim"),
        heads=config.get("num_attention_heads", 8),
        dropout=config.get("dropout_rate", 0.1),
    )


def _run_head(
    module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str, suppress: bool = True
) -> dict[str, Any]:
    logits = module(inputs["visual"], inputs["target"])
    outputs = {"attn_weights": scores_of(logits)}
    if "labels" in inputs:
        loss = pointer_loss(logits, inputs["labels"], suppress=suppress)
        outputs |= {"loss": loss.total, "kl_part": loss.kl, "suppression_part": loss.suppression}
    return outputs


def _run_guiactor(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return _run_head(module, inputs, config=config, mode=mode, suppress=False)


def _run_labels(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    width, height = config["image_width"], config["image_height"]
    cell = config.get("patch_size", 14) * config.get("merge_size", 2)
    boxes = inputs["boxes_norm"]
    outputs = {
        "all": multi_patch_labels(boxes, width, height, style="all", cell=cell),
        "center": multi_patch_labels(boxes, width, height, style="center", cell=cell),
    }
    for factor in config.get("sigma_factors", ()):
        outputs[f"gauss_sigma{factor}"] = multi_patch_labels(boxes, width, height, sigma_factor=factor, cell=cell)
    if "points_norm" in inputs:
        outputs["token_index"] = token_index(inputs["points_norm"], width, height, cell=cell)
    return outputs


def _run_regions(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    columns, rows = config["n_width"], config["n_height"]
    threshold = config.get("activation_threshold", 0.3)
    scores = inputs["attn_scores"][0].numpy()
    outputs: dict[str, Any] = {}
    scorings: dict[str, Scoring] = {"v2p": "max", "guiactor": "mean"}
    for name, scoring in scorings.items():
        for suffix, rect in (("", False), ("_rect", True)):
            regions = find_regions(scores, columns, rows, threshold=threshold, scoring=scoring, rect_center=rect)
            centres = np.array([(region.x, region.y) for region in regions])
            outputs |= {
                f"{name}{suffix}/best_point": torch.from_numpy(centres[0]),
                f"{name}{suffix}/centers": torch.from_numpy(centres),
                f"{name}{suffix}/scores": torch.tensor([region.score for region in regions], dtype=torch.float64),
                f"{name}{suffix}/region_sizes": torch.tensor([len(region.cells) for region in regions]),
            }
    return outputs


def _run_answers(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    pairs = [reformat_coordinates(text) for text in inputs["text"]]
    return {
        "reformatted": [text for text, _ in pairs],
        "coordinates": [[list(point) for point in points] for _, points in pairs],
    }


def _build_model(config: Config) -> nn.Module:
    return PointerModel(config_from_published(config))


def _run_model(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: PointerModel = module
    # of a sample without pointer tokens there are none
    targets: list[Tensor | None] = [inputs.get(f"multi_patch_labels_{i}") for i in range(len(inputs["input_ids"]))]
    output = model(
        inputs["input_ids"],
        inputs["attention_mask"],
        inputs["pixel_values"],
        inputs["image_grid_thw"],
        labels=inputs.get("labels"),
        targets=targets if any(target is not None for target in targets) else None,
    )
    outputs = {
        "position_ids": output.position_ids,
        "image_embeds": torch.cat(list(output.image_embeddings)),
        "last_hidden": output.hidden,
        "logits": model.lm_logits(output.hidden),
    }
    losses = {"loss": output.loss, "lm_loss": output.lm_loss, "pointer_loss": output.pointer_loss}
    outputs |= {name: loss for name, loss in losses.items() if loss is not None}
    outputs |= {f"pointer_scores_{i}": scores_of(logits) for i, logits in enumerate(output.logits)}
    return outputs


components = {
    "VisionHead_MultiPatch": Component(
        run=_run_head, build=_build_head, convert=convert_head, unused=("encode_keys.2.bias",)
    ),
    "VisionHead_MultiPatch_guiactor": Component(
        run=_run_guiactor, build=_build_head, convert=convert_head, unused=("encode_keys.2.bias",)
    ),
    "multi_patch_labels": Component(run=_run_labels),
    "prediction_region_point": Component(run=_run_regions),
    "reformat_coordinates": Component(run=_run_answers),
    "Qwen2_5_VLForConditionalGenerationWithPointer": Component(
        run=_run_model, build=_build_model, convert=convert, ignore=("*rotary_emb.inv_freq",)
    ),
}
