"""dingmyu/davit: timm/models/davit.py. The networks are registered by the package that holds the backbones."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.davit import ChannelBlock, SpatialBlock
from core_attention.systems import Component, Config, System

_BOTH = ("mlp_ratio", "qkv_bias", "ffn", "cpe_act")


def _channel(config: Config) -> nn.Module:
    options: dict[str, Any] = {"qkv_bias": False}  # the official default of this block only
    options |= {name: config[name] for name in (*_BOTH, "scaling") if name in config}
    return ChannelBlock(config["dim"], config["num_heads"], drop_path=config.get("drop_path", 0.0), **options)


def _spatial(config: Config) -> nn.Module:
    options = {name: config[name] for name in (*_BOTH, "window_size", "mask_pad") if name in config}
    return SpatialBlock(config["dim"], config["num_heads"], drop_path=config.get("drop_path", 0.0), **options)


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    tokens = inputs["x"]  # (batch, H·W, channels), row by row
    return {"y": module(tokens.unflatten(1, (config["H"], config["W"]))).flatten(1, 2)}


_axis = {"x": 0, "y": 0}
system = System(
    "davit",
    {
        "ChannelBlock": Component(run=_run, build=_channel, batch=_axis),
        "SpatialBlock": Component(run=_run, build=_spatial, batch=_axis),
    },
)
