"""CHM-Corr under its published names: golden cases, and the learner's part of published checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core_attention.systems import Component, Config, StateDict
from explainability.chm_corr.decision import (
    BEST_CELLS,
    common_mask,
    cross_correlation,
    decide,
    reverse_map,
    score_common,
    score_user,
    similarity_map,
)
from explainability.chm_corr.learner import CHMLearner
from explainability.chm_corr.transfer import source_keypoints, target_cells, transfer_keypoints

ROW_STEP = 97  # of the rows that a large case records
LEAST_CELLS = 16 * 16  # of a grid that is fine enough for keypoints to be transferred


def _build(config: Config) -> nn.Module:
    return CHMLearner(
        config["feature_dim"],
        kind=config.get("kernel_type", "psi"),
        scales=config.get("scales", (0.5, 1, 2)),
        side=config.get("kernel_translation", 5),
    )


def convert(official: StateDict, config: Config) -> StateDict:
    """Our state dict of the learner; keys may carry the ``learner.`` of a whole checkpoint."""
    ours = {}
    for name in list(official):
        if name.startswith("backbone."):
            continue
        key = name.removeprefix("module.").removeprefix("learner.")
        key = key.replace("conv2ds.", "convolutions.").replace("chm6d.param.", "votes6d.sets.")
        key = key.replace("chm4d.weight", "votes4d.sets.0").replace("chm6d.bias", "votes6d.bias")
        ours[key.replace("chm4d.bias", "votes4d.bias")] = official.pop(name)
    return ours


def split_trunks(backbone: Mapping[str, torch.Tensor]) -> tuple[StateDict, StateDict]:
    """The two trunks of a checkpoint whose convolutions have two groups: the source's half of the channels, then the target's.

    Raises:
        ValueError: a tensor whose channels cannot be halved.
    """
    source, target = {}, {}
    for name, tensor in backbone.items():
        key = name.removeprefix("backbone.")
        if tensor.ndim == 0:  # counters of batch normalisation
            source[key], target[key] = tensor, tensor
            continue
        if tensor.shape[0] % 2:
            raise ValueError(f"{name} has {tensor.shape[0]} channels, which are not two halves")
        source[key], target[key] = tensor.chunk(2)
    return source, target


def _run_learner(module: Any, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    model: CHMLearner = module
    correlation = model(inputs["source_features"], inputs["target_features"])
    outputs = {
        "kernel4d": model.votes4d.kernel()[None, None],
        "kernel6d": model.votes6d.kernel()[None, None],
        "correlation": correlation,
        "correlation_rows": correlation[:, ::ROW_STEP],
        "correlation_sum": correlation.sum((1, 2)),
        "correlation_argmax": correlation.argmax(2),
    }
    if correlation.shape[-1] >= LEAST_CELLS:
        points = transfer_keypoints(correlation, source_keypoints(config.get("img_size", 240)).to(correlation))
        outputs |= {"transferred_keypoints": points, "target_cells": target_cells(points)}
    return outputs


def _run_classifier(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    query = inputs["query_features"][0].double()
    support = inputs["support_features"].double()
    labels, k = inputs["support_labels"], config["K"]
    cells = inputs.get("target_cells")
    if cells is None:
        cells = target_cells(inputs["transferred_keypoints"])
    similarity = similarity_map(query, support, cells, axis_order="official")
    of_query, of_support = cross_correlation(query, support)
    mask = common_mask(of_query, config.get("binarization_threshold", 0.55))
    outputs: dict[str, Any] = {
        "similarity_map": similarity,
        "similarity_map_geometry_fixed": similarity_map(query, support, cells),
        "reverse_similarity_map": reverse_map(similarity, cells),
        "cross_correlation_source": of_query,
        "cross_correlation_target": of_support,
        "cc_mask": mask,
        # published as 7 · column + row
        "top5_cells_cc": (similarity * mask).mT.flatten(1).topk(BEST_CELLS, 1).indices,
    }
    scores = {"cc": score_common(similarity, mask)}
    if "user_mask" in inputs:
        user_mask = inputs["user_mask"]
        # no cell at all is no edit
        scores["user_mask"] = score_user(similarity, user_mask) if user_mask.any() else scores["cc"]
    for name, values in scores.items():
        batch, interactive = decide(values, labels, k), decide(values, labels, k, ties="more")
        outputs[f"scores_{name}"] = values
        outputs[f"order_{name}"] = batch.order
        outputs[f"prediction_{name}"] = torch.tensor([batch.label])
        outputs[f"votes_{name}"] = torch.tensor([batch.votes])
        outputs[f"ui_prediction_and_final_k_{name}"] = torch.tensor([interactive.label, interactive.k])
    return outputs


components = {
    "CHMLearner": Component(run=_run_learner, build=_build, convert=convert, ignore=("backbone.*",)),
    "CHMGridTransfer": Component(run=_run_classifier),
}
