"""ArieSeirack/DHVT: vision_transformer.py. Its keys are ours."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from core_attention.systems import Component, Config
from vision_models.networks.dhvt.network import DHVT
from vision_models.networks.layouts import Layout


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, which is ours."""
    return (Layout(name="official", rename=str),)


def _build(config: Config) -> DHVT:
    names = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "in_chans")
    rates = ("drop_rate", "attn_drop_rate", "drop_path_rate")
    defaults: dict[str, Any] = {"embed_dim": 768, "num_heads": 12}
    options = defaults | {name: config[name] for name in (*names, *rates) if name in config}
    return DHVT(**options, qkv_bias=config.get("qkv_bias", True), scale=config.get("qk_scale"))


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


components = {"VisionTransformer": Component(run=_run, build=_build, batch={"x": 0, "y": 0})}
