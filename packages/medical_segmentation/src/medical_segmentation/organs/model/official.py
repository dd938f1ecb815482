"""Components of the published self-guided network, repository sinAshish/Multi-Scale-Attention, and the names of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_attention.systems import Component, Config, StateDict
from medical_segmentation.organs.metrics.overlap import measure
from medical_segmentation.organs.model.backbones import SCALES
from medical_segmentation.organs.model.guided import GuidedAttentionNet, GuidedConfig
from medical_segmentation.organs.model.layers import MultiConv, SemanticModule
from medical_segmentation.organs.model.losses import guided_losses

# Official name → ours, tried in this order. A function gets the match; scales are counted from 0 (finest) in ours.
_RULES: list[tuple[str, Any]] = [
    (r"resnext\.layer0\.0\.(.+)", lambda m: f"backbone.network.conv1.{m[1]}"),
    (r"resnext\.layer0\.1\.(.+)", lambda m: f"backbone.network.bn1.{m[1]}"),
    # the published layer1 is [max pooling, stage]
    (r"resnext\.layer1\.1\.(.+)", lambda m: f"backbone.network.layer1.{m[1]}"),
    (r"resnext\.(layer[234]\..+)", lambda m: f"backbone.network.{m[1]}"),
    (r"down(\d)\.(.+)", lambda m: f"down.{int(m[1]) - 1}.{m[2]}"),
    (r"fuse1\.(.+)", lambda m: f"fuse.{m[1]}"),
    (r"pam_attention_([12])_(\d)\.(.+)", lambda m: f"stages.{int(m[1]) - 1}.position.{int(m[2]) - 1}.{m[3]}"),
    (r"cam_attention_([12])_(\d)\.(.+)", lambda m: f"stages.{int(m[1]) - 1}.channel.{int(m[2]) - 1}.{m[3]}"),
    (r"semanticModule_([12])_1\.(.+)", lambda m: f"stages.{int(m[1]) - 1}.semantic.0.{m[2]}"),
    # numbered from coarse to fine: …_1 belongs to scale 4
    (r"conv_sem_([12])_(\d)\.(.+)", lambda m: f"stages.{int(m[1]) - 1}.guide.{SCALES - int(m[2])}.{m[3]}"),
    (r"conv8_1(\d)\.(.+)", lambda m: f"stages.1.project.{SCALES - int(m[1])}.{m[2]}"),
    (r"conv8_(\d)\.(.+)", lambda m: f"stages.0.project.{SCALES - int(m[1])}.{m[2]}"),
    (r"predict(\d)_2\.(.+)", lambda m: f"second_heads.{int(m[1]) - 1}.{m[2]}"),
    (r"predict(\d)\.(.+)", lambda m: f"first_heads.{int(m[1]) - 1}.{m[2]}"),
    (r"((?:conv6_|conv7_|attention|refine)\d\..+)", lambda m: f"unused.{m[1]}"),
]


def our_name(official: str) -> str | None:
    """Our name of an official key; None where there is none."""
    for pattern, name in _RULES:
        if match := re.fullmatch(pattern, official):
            return name(match)
    return None


def official_name(ours: str) -> str:
    """The official key of one of our names: the inverse of `our_name`.

    Raises:
        KeyError: the published class has nothing of that kind.
    """
    for pattern, make in _INVERSE:
        if match := re.fullmatch(pattern, ours):
            return make(match)
    raise KeyError(ours)


_INVERSE: list[tuple[str, Any]] = [
    (r"backbone\.network\.conv1\.(.+)", lambda m: f"resnext.layer0.0.{m[1]}"),
    (r"backbone\.network\.bn1\.(.+)", lambda m: f"resnext.layer0.1.{m[1]}"),
    (r"backbone\.network\.layer1\.(.+)", lambda m: f"resnext.layer1.1.{m[1]}"),
    (r"backbone\.network\.(layer[234]\..+)", lambda m: f"resnext.{m[1]}"),
    (r"down\.(\d)\.(.+)", lambda m: f"down{int(m[1]) + 1}.{m[2]}"),
    (r"fuse\.(.+)", lambda m: f"fuse1.{m[1]}"),
    (r"stages\.(\d)\.position\.(\d)\.(.+)", lambda m: f"pam_attention_{int(m[1]) + 1}_{int(m[2]) + 1}.{m[3]}"),
    (r"stages\.(\d)\.channel\.(\d)\.(.+)", lambda m: f"cam_attention_{int(m[1]) + 1}_{int(m[2]) + 1}.{m[3]}"),
    (r"stages\.(\d)\.semantic\.0\.(.+)", lambda m: f"semanticModule_{int(m[1]) + 1}_1.{m[2]}"),
    (r"stages\.(\d)\.guide\.(\d)\.(.+)", lambda m: f"conv_sem_{int(m[1]) + 1}_{SCALES - int(m[2])}.{m[3]}"),
    (r"stages\.0\.project\.(\d)\.(.+)", lambda m: f"conv8_{SCALES - int(m[1])}.{m[2]}"),
    (r"stages\.1\.project\.(\d)\.(.+)", lambda m: f"conv8_1{SCALES - int(m[1])}.{m[2]}"),
    (r"second_heads\.(\d)\.(.+)", lambda m: f"predict{int(m[1]) + 1}_2.{m[2]}"),
    (r"first_heads\.(\d)\.(.+)", lambda m: f"predict{int(m[1]) + 1}.{m[2]}"),
    (r"unused\.(.+)", lambda m: m[1]),
]


def official_state(network: GuidedAttentionNet) -> StateDict:
    """The state dict of a network under official keys; complete, if the network was built with `unused_layers`."""
    return {official_name(name): tensor for name, tensor in network.state_dict().items()}


def convert(official: StateDict, config: Config) -> StateDict:
    """Renames; pops what has a place here."""
    ours = {}
    for key in list(official):
        name = our_name(key)
        if name is not None:
            ours[name] = official.pop(key)
    return ours


def build_network(config: Config) -> GuidedAttentionNet:
    """The published class, with its unused layers; further sizes under our names."""
    names = {"n_classes", "in_channels", "backbone", "width"}
    return GuidedAttentionNet(
        GuidedConfig(unused_layers=True, **{name: value for name, value in config.items() if name in names})
    )


def run_network(module: GuidedAttentionNet, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    outputs = module(inputs["x"])
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    values: dict[str, Any] = {"logits": outputs.logits}
    for stage, heads in (("first", outputs.first), ("second", outputs.second)):
        for scale, logits in enumerate(heads, 1):
            values[f"pred_{stage}_stage_scale{scale}"] = logits
    if "label" in inputs:
        losses = guided_losses(outputs, inputs["label"])
        values |= {
            "loss_seg": losses.segmentation,
            "loss_guided": losses.guided,
            "loss_rec": losses.reconstruction,
            "loss_total": losses.total,
        }
    return values


def build_semantic(config: Config) -> nn.Module:
    return SemanticModule(config["in_dim"])


def run_semantic(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    code, reconstruction = module(inputs["x"])
    return {"semantic_vector": code.flatten(), "reconstruction": reconstruction}


def build_fusion(config: Config) -> nn.Module:
    return MultiConv(config["in_ch"], config["out_ch"], attention=config.get("attn", False))


def run_fusion(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


def run_metrics(module: None, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    masks = [np.asarray(inputs[name].cpu()).astype(bool) for name in ("prediction", "reference")]
    measures = measure(masks[0], masks[1], config["spacing"])
    values = {
        "dice": measures.dice,
        "volume_similarity": measures.volume_similarity,
        "asd_pred_to_ref": measures.asd_prediction,
        "asd_ref_to_pred": measures.asd_truth,
        "assd": measures.msd,
        "msd_pooled": measures.msd,
        "hausdorff": measures.hausdorff,
        "hausdorff95": measures.hausdorff95,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


components = {
    "DAF_stack": Component(
        run=run_network, build=build_network, convert=convert, unused=("unused.*",), batch={"x": 0, "logits": 0}
    ),
    "semanticModule": Component(run=run_semantic, build=build_semantic),
    "MultiConv": Component(run=run_fusion, build=build_fusion, batch={"x": 0, "y": 0}),
    "segmentation_metrics": Component(run=run_metrics),
}
