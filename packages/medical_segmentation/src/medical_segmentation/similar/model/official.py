"""Components of the published dynamic subspace learners, repository adigasu/Dynamic_subspace_learners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from medical_segmentation.similar.metrics import nearest, nmi, recall_hits
from medical_segmentation.similar.model.embedding import EmbeddingConfig, EmbeddingNet
from medical_segmentation.similar.model.margin import MarginLoss
from medical_segmentation.similar.model.subspaces import (
    cluster_costs,
    plan_split,
    reassign_clusters,
    split_rows,
    without_singletons,
)


def build_embedding(config: Config) -> EmbeddingNet:
    learners = tuple((int(start), int(stop)) for start, stop in config.get("learners", ()))
    return EmbeddingNet(EmbeddingConfig(size=config.get("sz_embedding", 128), learners=learners))


def convert_embedding(official: StateDict, config: Config) -> StateDict:
    """The trunk under ``trunk.``; what is under ``features.`` is the same trunk again, and layer4 and fc are never run."""
    ours = {}
    for key in list(official):
        if key.startswith(("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")):
            ours[f"trunk.{key}"] = official.pop(key)
        elif key.startswith(("attention_map.", "embedding.")):
            ours[key] = official.pop(key)
    size = len(ours["embedding.bias"])
    owners = torch.zeros(size, dtype=torch.int64)
    for number, (start, stop) in enumerate(config.get("learners") or [(0, size)]):
        owners[start:stop] = number
    return ours | {"owners": owners}


def run_embedding(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    x = inputs["x"] if "x" in inputs else inputs["x28"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    result = module(x)
    return {
        "attention": result.attention,
        "embedding": result.embedding,
        "feature_mean": result.pooled,
        "penultimate": result.penultimate,
    }


def build_margin(config: Config) -> MarginLoss:
    names = ("beta", "margin", "nu", "class_specific_beta", "pair_count")
    options = {name: config[name] for name in names if name in config}
    return MarginLoss(config["nb_classes"], **options, **config.get("sampler", {}))


def run_margin(module: MarginLoss, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    x = F.normalize(inputs["embeddings"], dim=1)
    triplets = module.sample(x, inputs["labels"])
    return {"loss": module.of_triplets(x, inputs["labels"], triplets), **triplets._asdict()}


def run_reassignment(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    current, previous, labels = (np.asarray(inputs[name].cpu()) for name in ("current", "previous", "labels"))
    clusters = config["nb_clusters"]
    matched = reassign_clusters(current, previous, clusters)
    return {
        "costs": torch.from_numpy(cluster_costs(current, previous, clusters)),
        "reassigned_expected": torch.from_numpy(matched),
        "reassigned_official": torch.from_numpy(reassign_clusters(current, previous, clusters, published=True)),
        "without_singletons": torch.from_numpy(without_singletons(matched, labels)),
    }


class EmbeddingRows(nn.Module):
    """The rows of an embedding layer, as wide as the weights that are loaded: a configuration says only how many they are."""

    weight: nn.Parameter
    bias: nn.Parameter

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in ("weight", "bias"):
            if f"{prefix}{name}" in state_dict:
                setattr(self, name, nn.Parameter(state_dict[f"{prefix}{name}"].clone()))
            else:
                missing_keys.append(f"{prefix}{name}")
        known = {f"{prefix}weight", f"{prefix}bias"}
        unexpected_keys.extend(key for key in state_dict if key not in known)


def build_rows(config: Config) -> nn.Module:
    return EmbeddingRows()


def run_split(module: EmbeddingRows, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    learner = (config["learner_start"], config["sz_embedding"])
    products = (inputs["activations"] * inputs["gradients"]).mean(0)
    split = plan_split(products, learner, threshold=config.get("threshold", 0.5))
    values: dict[str, Any] = {
        "score": split.scores,
        "selected": split.selected,
        "kept_positions": split.kept,
        "reset_positions": split.reset,
    }
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    for name, published in (("expected", False), ("after_official", True)):
        rows, width = weight.shape
        layer = nn.Linear(width, rows, dtype=weight.dtype, device=weight.device)
        layer.load_state_dict({"weight": weight, "bias": bias})
        split_rows(layer, split, published=published)
        values[f"weight_{name}"] = layer.weight.detach()[split.kept]
        values[f"bias_{name}"] = layer.bias.detach()[split.kept]
    return values


def run_retrieval(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    ks = list(config["k"])
    labels = inputs["labels"]
    _, numbers = nearest(inputs["embeddings"], inputs["embeddings"], max(ks), exclude_self=True)
    neighbours = labels[numbers]
    hits = recall_hits(neighbours.cpu().numpy(), labels.cpu().numpy(), ks)
    return {
        "recall": torch.from_numpy(hits.mean(0)),
        "neighbour_labels": neighbours,
        "nmi": torch.tensor(nmi(labels.cpu().numpy(), inputs["clusters"].cpu().numpy()), dtype=torch.float64),
    }


components = {
    "embedding_model": Component(
        run=run_embedding,
        build=build_embedding,
        convert=convert_embedding,
        # the trunk once more under another name, and the last stage and classifier that the forward never runs
        ignore=("features.*", "layer4.*", "fc.*"),
        batch={"x28": 0, "attention": 0, "embedding": 0, "feature_mean": 0, "penultimate": 0},
    ),
    "MarginLoss": Component(run=run_margin, build=build_margin),
    "reassign_clusters": Component(run=run_reassignment),
    # rows are moved, not learned from
    "split_neurons": Component(run=run_split, build=build_rows, unused=("weight", "bias")),
    "retrieval_metrics": Component(run=run_retrieval),
}
