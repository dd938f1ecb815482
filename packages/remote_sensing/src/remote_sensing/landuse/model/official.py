"""Components of the published EuroSAT networks (Vir 2025), repository virAditya/satellite-image-classification-eurosat."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from core_attention.systems import Component, Config
from remote_sensing.landuse.model.dropblock import DropBlock2D
from remote_sensing.landuse.model.eurosat import (
    Attention7LayerCNN,
    Balanced12LayerCNN,
    BalancedConfig,
    BalancedResidualBlock,
    Baseline3LayerCNN,
    BaselineConfig,
    CBAMConfig,
)

_NAMES = {"dropout_rate": "dropout", "in_channels": "in_chans"}


def _sizes(config: Config, kind: Any) -> Any:
    """Our configuration from the official constructor arguments; facts about the recording of the case are passed over."""
    known = {field.name for field in fields(kind)}
    sizes = {}
    for key, value in config.items():
        name = _NAMES.get(key, key)
        if name not in known:
            continue
        sizes[name] = tuple(value) if isinstance(value, list) else value  # JSON has lists only
    return kind(**sizes)


def build_baseline(config: Config) -> nn.Module:
    return Baseline3LayerCNN(_sizes(config, BaselineConfig))


def build_cbam_network(config: Config) -> nn.Module:
    return Attention7LayerCNN(_sizes(config, CBAMConfig))


def build_balanced_network(config: Config) -> nn.Module:
    return Balanced12LayerCNN(_sizes(config, BalancedConfig))


def build_block(config: Config) -> nn.Module:
    names = ("stride", "drop_prob", "block_size", "coord_reduction", "se_reduction")
    options = {name: config[name] for name in names if name in config}
    return BalancedResidualBlock(config["in_channels"], config["out_channels"], **options)


def build_drop_block(config: Config) -> nn.Module:
    options = {name: config[name] for name in ("drop_prob", "block_size") if name in config}
    return DropBlock2D(**options)


def run(module, inputs, *, config, mode):
    return {"y": module(inputs["x"])}


def run_noisy(module, inputs, *, config, mode):
    return {"y": module(inputs["x"], inputs.get("uniform"))}


_BATCH = {"x": 0, "y": 0}


components = {
    "Baseline3LayerCNN": Component(run=run, build=build_baseline, batch=_BATCH),
    "Attention7LayerCNN": Component(run=run, build=build_cbam_network, batch=_BATCH),
    # the squeeze has four hidden units in stage 1, and generated weights leave all of them below zero: their gradient is truly zero
    "Balanced12LayerCNN": Component(
        run=run, build=build_balanced_network, batch=_BATCH, unused=("*.se_attention.excitation.*",)
    ),
    "BalancedResidualBlock": Component(run=run_noisy, build=build_block, batch=_BATCH),
    "DropBlock2D": Component(run=run_noisy, build=build_drop_block, batch={**_BATCH, "uniform": 0}),
}
