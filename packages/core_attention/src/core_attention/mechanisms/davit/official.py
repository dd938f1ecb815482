"""dingmyu/davit: timm/models/davit.py, and timm's own naming of the same blocks. The package that holds the backbones registers the networks."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.davit.attention import ChannelBlock, SpatialBlock
from core_attention.registry.systems import Component, Config, StateDict

_BOTH = ("mlp_ratio", "qkv_bias", "ffn", "cpe_act")


def _channel(config: Config) -> nn.Module:
    options: dict[str, Any] = {"qkv_bias": False}  # the official default of this block only
    options |= {name: config[name] for name in (*_BOTH, "scaling") if name in config}
    if config.get("v2"):  # timm's name for the towers of Florence-2
        options["scaling"] = "tokens"
    return ChannelBlock(config["dim"], config["num_heads"], drop_path=config.get("drop_path", 0.0), **options)


def _spatial(config: Config) -> nn.Module:
    options = {name: config[name] for name in (*_BOTH, "window_size", "mask_pad") if name in config}
    return SpatialBlock(config["dim"], config["num_heads"], drop_path=config.get("drop_path", 0.0), **options)


def _convert(official: StateDict, config: Config) -> StateDict:
    ours: StateDict = {}
    for key in list(official):
        name = key.replace("cpe1.", "cpe.0.").replace("cpe2.", "cpe.1.")  # timm's names of the two encodings
        ours[name] = official.pop(key)
    return ours


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    x = inputs["x"]
    if x.ndim == 4:  # timm's blocks take (batch, channels, height, width)
        return {"y": module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)}
    return {"y": module(x.unflatten(1, (config["H"], config["W"]))).flatten(1, 2)}  # tokens, row by row


_axis = {"x": 0, "y": 0}


components = {
    "ChannelBlock": Component(run=_run, build=_channel, convert=_convert, batch=_axis),
    "SpatialBlock": Component(run=_run, build=_spatial, convert=_convert, batch=_axis),
}
