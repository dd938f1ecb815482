"""dingmyu/davit: timm/models/davit.py and mmdet/models/backbones/davit.py; timm's own naming; the towers of microsoft/Florence-2."""

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from core_attention.systems import Component, Config
from vision_models.networks.davit.network import DaViT
from vision_models.networks.layouts import Layout, converted_by

_BLOCKS = ("spatial_block", "channel_block")


def _official(key: str) -> str:
    return re.sub(r"^output_norms\.(\d+)\.", r"norm\1.", key)


def _timm(key: str, *, named: bool) -> str:
    """timm's names; the towers of Florence-2 name the two blocks of a dual block."""
    key = re.sub(r"^norms\.", "head.norm.", key)
    key = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)
    key = re.sub(r"^patch_embeds\.0\.proj\.", "stem.conv.", key)
    key = re.sub(r"^patch_embeds\.0\.norm\.", "stem.norm.", key)
    key = re.sub(r"^patch_embeds\.(\d+)\.proj\.", r"stages.\1.downsample.conv.", key)
    key = re.sub(r"^patch_embeds\.(\d+)\.norm\.", r"stages.\1.downsample.norm.", key)
    match = re.fullmatch(r"main_blocks\.(\d+)\.(\d+)\.(\d+)\.(.*)", key)
    if match is None:
        return key
    stage, layer, kind, rest = match.groups()
    block = _BLOCKS[int(kind)] if named else kind
    return f"stages.{stage}.blocks.{layer}.{block}.{rest.replace('cpe.0.', 'cpe1.').replace('cpe.1.', 'cpe2.')}"


def _florence(key: str) -> str:
    """The names inside Florence-2 itself: each part of a block is a function with its norm around it."""
    key = key.replace("patch_embeds.", "convs.")
    match = re.fullmatch(r"main_blocks\.(\d+)\.(\d+)\.(\d+)\.(.*)", key)
    if match is None:
        return key
    stage, layer, kind, rest = match.groups()
    attention = ("window_attn", "channel_attn")[int(kind)]
    parts = {
        "cpe.0.proj.": "conv1.fn.dw.",
        "cpe.1.proj.": "conv2.fn.dw.",
        "norm1.": f"{attention}.norm.",
        "attn.": f"{attention}.fn.",
        "norm2.": "ffn.norm.",
        "mlp.": "ffn.fn.net.",
    }
    for ours, theirs in parts.items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
            break
    return f"blocks.{stage}.{layer}.{_BLOCKS[int(kind)]}.{rest}"


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The official layout, in detectors under ``backbone.``; timm's, with numbered or named blocks; Florence-2's."""
    return (
        Layout(name="official", rename=_official),
        Layout(name="detector", rename=_official, prefix="backbone."),
        Layout(name="timm", rename=partial(_timm, named=False)),
        Layout(name="timm_named", rename=partial(_timm, named=True)),
        # without the norm before the classifier, which such a tower does not need
        Layout(
            name="florence2",
            rename=_florence,
            prefix="vision_tower.",
            lacks=lambda key: key.startswith(("norms.", "head.")),
        ),
    )


_NAMES = (
    "in_chans", "num_classes", "depths", "patch_size", "embed_dims", "num_heads", "window_size", "mlp_ratio", "qkv_bias",
    "drop_path_rate", "attention_types", "ffn", "overlapped_patch", "cpe_act", "scaling", "mask_pad",
)  # fmt: skip


def _build(config: Config, dense: bool = False) -> DaViT:
    defaults = {"embed_dims": (64, 128, 192, 256), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.1}
    options = defaults | {name: config[name] for name in _NAMES if name in config}
    return DaViT(**options, dense=dense)


def _build_dense(config: Config) -> DaViT:
    return _build(config, dense=True)


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"logits": module(inputs["x"])}


def _run_dense(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {f"stage{index}": out for index, out in enumerate(module(inputs["x"]))}


components = {
    "DaViT": Component(run=_run, build=_build, batch={"x": 0, "logits": 0}),
    "DaViT_dense": Component(
        run=_run_dense,
        build=_build_dense,
        convert=converted_by(_build_dense, layouts, "official"),
        batch={"x": 0} | {f"stage{index}": 0 for index in range(4)},
    ),
}
