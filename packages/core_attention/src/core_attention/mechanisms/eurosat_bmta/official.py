"""Attention modules of the EuroSAT networks (Vir 2025), repository virAditya/satellite-image-classification-eurosat."""

from __future__ import annotations

from torch import nn

from core_attention.mechanisms.eurosat_bmta.balanced import BalancedMultiTaskAttention
from core_attention.mechanisms.eurosat_bmta.cbam import CBAM
from core_attention.registry.systems import Component, Config


def build_balanced(config: Config) -> nn.Module:
    options = {name: config[name] for name in ("coord_reduction", "se_reduction") if name in config}
    return BalancedMultiTaskAttention(config["channels"], **options)


def build_cbam(config: Config) -> nn.Module:
    options = {name: config[name] for name in ("reduction", "kernel_size") if name in config}
    return CBAM(config["channels"], **options)


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


components = {
    "BalancedMultiTaskAttention": Component(run=run, build=build_balanced, batch={"x": 0, "y": 0}),
    "CBAM": Component(run=run, build=build_cbam, batch={"x": 0, "y": 0}),
}
