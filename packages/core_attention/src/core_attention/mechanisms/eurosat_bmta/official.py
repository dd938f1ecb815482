"""Attention modules of the EuroSAT networks (Vir 2025), repository virAditya/satellite-image-classification-eurosat."""

from __future__ import annotations

from torch import nn

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM
from core_attention.registry.systems import Component, Config, Paper, System


def build_balanced(config: Config) -> nn.Module:
    options = {name: config[name] for name in ("coord_reduction", "se_reduction") if name in config}
    return BalancedMultiTaskAttention(config["channels"], **options)


def build_cbam(config: Config) -> nn.Module:
    options = {name: config[name] for name in ("reduction", "kernel_size") if name in config}
    return CBAM(config["channels"], **options)


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


system = System(
    "eurosat_bmta",
    {
        "BalancedMultiTaskAttention": Component(run=run, build=build_balanced, batch={"x": 0, "y": 0}),
        "CBAM": Component(run=run, build=build_cbam, batch={"x": 0, "y": 0}),
    },
    paper=Paper(
        "Balanced Multi-Task Attention for Satellite Image Classification",
        2025,
        repository="virAditya/satellite-image-classification-eurosat",
        licence="MIT",
        components=(
            "Attention7LayerCNN",
            "Balanced12LayerCNN",
            "BalancedMultiTaskAttention",
            "BalancedResidualBlock",
            "Baseline3LayerCNN",
            "CBAM",
            "DropBlock2D",
        ),
    ),
    examples={
        "balanced": "core_attention.mechanisms.eurosat_bmta.balanced:example",
        "cbam": "core_attention.mechanisms.eurosat_bmta.cbam:example",
        "coordinate": "core_attention.mechanisms.eurosat_bmta.coordinate:example",
        "squeeze-excitation": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:example",
    },
    aliases={
        "BalancedMultiTaskAttention": "balanced",
        "CoordinateAttention": "coordinate",
        "se": "squeeze-excitation",
    },
    page="balanced.md",
    pages={
        "cbam": "feature_maps.md",
        "coordinate": "feature_maps.md",
        "squeeze-excitation": "feature_maps.md",
    },
    inserts={
        "balanced": "core_attention.mechanisms.eurosat_bmta.balanced:BalancedMultiTaskAttention",
        "cbam": "core_attention.mechanisms.eurosat_bmta.cbam:CBAM",
        "coordinate": "core_attention.mechanisms.eurosat_bmta.coordinate:CoordinateAttention",
        "eca": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:EfficientChannelAttention",
        "se": "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:SqueezeExcitation",
    },
)
