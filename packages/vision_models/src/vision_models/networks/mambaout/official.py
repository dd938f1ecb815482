"""yuweihao/MambaOut: models/mambaout.py; timm's naming of the same networks and its "rw" ones."""

import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from core_attention.measuring.example import Example
from core_attention.systems import Component, Config
from vision_models.networks.layouts import Layout, converted_by
from vision_models.networks.mambaout.network import GatedCNNBlock, MambaOut

_TIMM = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.gamma$", ".ls.gamma"),
    (r"^norm\.", "head.norm."),
    (r"^head\.fc1\.", "head.pre_logits.fc."),
    (r"^head\.fc2\.", "head.fc."),
)


def _timm(key: str) -> str:
    if key.startswith("head.norm."):
        return key.replace("head.norm.", "head.pre_logits.norm.")
    for ours, theirs in _TIMM:
        key, changed = re.subn(ours, theirs, key)
        if changed and not theirs.startswith("stages"):
            break
    return key


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, which is ours, and timm's."""
    return (
        Layout(name="official", rename=str),
        Layout(name="timm", rename=_timm),
    )


def _ratio(value: Any) -> float:
    """A number, or one that is written as a fraction."""
    return float(Fraction(value)) if isinstance(value, str) else float(value)


def _block(config: Config) -> GatedCNNBlock:
    return GatedCNNBlock(
        config["dim"],
        expansion_ratio=_ratio(config.get("expansion_ratio", "8/3")),
        kernel_size=config.get("kernel_size", 7),
        conv_ratio=_ratio(config.get("conv_ratio", 1.0)),
        drop_path=config.get("drop_path", 0.0),
    )


def _build(config: Config) -> MambaOut:
    names = ("depths", "dims", "num_classes", "in_chans", "drop_path_rate", "kernel_size")
    return MambaOut(
        **{name: config[name] for name in names if name in config},
        expansion_ratio=_ratio(config.get("expansion_ratio", "8/3")),
        conv_ratio=_ratio(config.get("conv_ratio", 1.0)),
        act=config.get("act_layer", "gelu"),
        layer_scale=config.get("ls_init_value"),
        stem_mid_norm=config.get("stem_mid_norm", True),
        downsample="norm_first" if config.get("downsample", "conv") == "conv_nf" else "norm_last",
        head=config.get("head_fn", "default"),
        drop_rate=config.get("head_dropout", config.get("drop_rate", 0.0)),
    )


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


def example(tokens: int) -> Example:
    """A block of the tiny network's third stage, for ``core-attention show`` and ``bench``."""
    side = max(1, round(tokens**0.5))
    return Example(GatedCNNBlock(384), (torch.randn(1, side, side, 384),), tokens=side * side, softmax=(384, 12))


_BATCH = {"x": 0, "y": 0}


components = {
    "GatedCNNBlock": Component(run=_run, build=_block, batch=_BATCH),
    "MambaOut": Component(run=_run, build=_build, batch=_BATCH),
    "timm_MambaOut": Component(run=_run, build=_build, convert=converted_by(_build, layouts, "timm"), batch=_BATCH),
}
