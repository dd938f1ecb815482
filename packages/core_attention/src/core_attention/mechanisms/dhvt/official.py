"""ArieSeirack/DHVT: vision_transformer.py, attention and feed-forward. The networks are registered by the package of the backbones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from core_attention.mechanisms.dhvt.attention import DAFF, HeadInteractedAttention
from core_attention.registry.systems import Component, Config


def _attention(config: Config) -> nn.Module:
    names = ("attn_drop", "proj_drop", "use_head_tokens")
    options = {"qkv_bias": config.get("qkv_bias", False), "scale": config.get("qk_scale")}
    options |= {name: config[name] for name in names if name in config}
    return HeadInteractedAttention(config["dim"], config.get("num_heads", 8), **options)


def _feed_forward(config: Config) -> nn.Module:
    hidden = config.get("hidden_features") or config["in_features"]
    return DAFF(config["in_features"], hidden=hidden, kernel_size=config.get("kernel_size", 3))


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


components = {
    "DAFF": Component(run=_run, build=_feed_forward, batch={"x": 0, "y": 0}),
    "HI_Attention": Component(run=_run, build=_attention, batch={"x": 0, "y": 0}),
}
