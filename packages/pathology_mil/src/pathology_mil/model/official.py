"""Components of the published ACMIL: official checkpoints under official keys, and the replay of golden cases."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from pathology_mil.model.acmil import ACMIL_GA, ACMIL_MHA, ACMILConfig, MILOutput
from pathology_mil.model.losses import acmil_loss
from pathology_mil.model.official_slides import components as slide_components

_PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj", "norm": "layer_norm"}


def model_config(config: Config) -> ACMILConfig:
    """Our configuration from the official names; `n_token` and the masking default to the constructor's (one branch, no masking)."""
    rate = config.get("dropout", config.get("droprate"))
    return ACMILConfig(
        n_features=config["D_feat"],
        n_class=config["n_class"],
        width=config["D_inner"],
        branches=config.get("n_token", 1),
        top_k=config.get("n_masked_patch", 0),
        mask_drop=config.get("mask_drop", 0.0),
        hidden=config.get("D", 128),
        heads=config.get("num_heads", 8),
        dropout=rate,
    )


def infer_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Official configuration of an official state dict, from its shapes alone; `component` names the class.

    Raises:
        ValueError: not the state dict of an ACMIL model.
    """
    try:
        inner, features = state["dimreduction.fc1.weight"].shape
        config = {"D_feat": features, "D_inner": inner, "n_class": state["Slide_classifier.fc.weight"].shape[0]}
        if "q" in state:
            return config | {"component": "ACMIL_MHA", "n_token": state["q"].shape[1]}
        branches, hidden = state["attention.attention_weights.weight"].shape
        return config | {"component": "ACMIL_GA", "n_token": branches, "D": hidden}
    except KeyError as missing:
        raise ValueError(f"not an ACMIL state dict: it has no {missing}") from None


def _classifiers(official: StateDict, branches: int) -> StateDict:
    """The entries that both forms share; the branches' classifiers are stacked."""
    ours = {"project": official.pop("dimreduction.fc1.weight")}
    for kind in ("weight", "bias"):
        classifiers = [official.pop(f"classifier.{branch}.fc.{kind}") for branch in range(branches)]
        ours[f"branch_{kind}"] = torch.stack(classifiers)
        ours[f"slide_{kind}"] = official.pop(f"Slide_classifier.fc.{kind}")
    return ours


def convert_ga(official: StateDict, config: Config) -> StateDict:
    """V above U in one matrix; the rest is renamed or stacked."""
    ours = _classifiers(official, config.get("n_token", 1))
    for kind in ("weight", "bias"):
        gate = [official.pop(f"attention.attention_{half}.0.{kind}") for half in "VU"]
        ours[f"gate_{kind}"] = torch.cat(gate)
        ours[f"score_{kind}"] = official.pop(f"attention.attention_weights.{kind}")
    return ours


def convert_mha(official: StateDict, config: Config) -> StateDict:
    """The layers of the branches stacked along a first axis."""
    branches = config.get("n_token", 1)
    ours = _classifiers(official, branches) | {"query": official.pop("q")[0]}
    for name, part in _PARTS.items():
        for kind in ("weight", "bias"):
            layers = [official.pop(f"sub_attention.{branch}.{part}.{kind}") for branch in range(branches)]
            ours[f"{name}_{kind}"] = torch.stack(layers)
            if name not in ("query", "key"):
                ours[f"slide_{name}_{kind}"] = official.pop(f"bag_attention.{part}.{kind}")
    return ours


def run(module: nn.Module, inputs: dict[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    """Logits, scores, slide embedding and losses of one bag under the official names."""
    uniforms = None
    names = [name for name in inputs if name.startswith("stkim_uniform_")]
    if names:
        names.sort(key=lambda name: int(name.rsplit("_", 1)[1]))  # branch 2 before branch 10
        uniforms = torch.cat([inputs[name] for name in names])[None]
    output: MILOutput = module(inputs["features"], uniforms=uniforms)
    result = {
        "bag_logits": output.slide_logits,
        "branch_logits": output.branch_logits[0],
        "branch_scores": output.scores,
        "bag_feature": output.embedding,
        "masked": output.scores.detach() <= -1e9,
    }
    if "label" in inputs:
        losses = acmil_loss(output, inputs["label"].view(-1))
        result |= {
            "loss_total": losses.total,
            "loss_bag": losses.slide,
            "loss_branch": losses.branch,
            "loss_diversity": losses.diversity,
        }
    return result


# A constant added to every score of a row does not change its softmax: these biases have a true gradient of zero through the losses.
_COMPONENTS = {
    "ACMIL_GA": Component(
        run=run, build=lambda config: ACMIL_GA(model_config(config)), convert=convert_ga, unused=("score_bias",)
    ),
    "ACMIL_MHA": Component(
        run=run, build=lambda config: ACMIL_MHA(model_config(config)), convert=convert_mha, unused=("key_bias",)
    ),
}


components = _COMPONENTS | slide_components
