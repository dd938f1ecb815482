"""rayleizhu/BiFormer: models/biformer.py, biformer_stl.py, biformer_stl_nchw.py; the detectors' backbones have `extra_norms`."""

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from core_attention.mechanisms.biformer.official import attention_options
from core_attention.systems import Component, Config
from vision_models.networks.biformer.network import BiFormer
from vision_models.networks.layouts import Layout, converted_by

# the projections of the attentions with routing, by code; those of the last stage's full attention keep our names
_JOINED = {"attn.qkv.": "attn.qkv.qkv."}
_REFACTORED = {"attn.qkv.": "attn.qkv_linear.", "attn.wo.": "attn.output_linear."}


def layouts(keys: Collection[str]) -> tuple[Layout, ...]:
    """The three published layouts, for a network with these keys."""

    def routed(key: str) -> bool:
        block = ".".join(key.split(".")[:3])
        return f"{block}.attn.proj.weight" not in keys

    def common(key: str, projections: dict[str, str]) -> str:
        key = key.replace("output_norms.", "extra_norms.").replace("attn.router.", "attn.router.emb.")
        if routed(key):
            for ours, theirs in projections.items():
                key = key.replace(ours, theirs)
        return re.sub(
            r"attn\.(\d)\.", lambda match: f"attn.{int(match[1]) + 1}.", key
        )  # topk = 0: a permutation comes first

    def in_blocks(key: str, projections: dict[str, str]) -> str:
        key = re.sub(r"^stages\.(\d+)\.", r"stages.\1.blocks.", common(key, projections))
        return key.replace("mlp.3.", "mlp.2.")

    def convolved(key: str) -> bool:
        linear = ("attn.qkv.weight", "attn.wo.weight", "attn.proj.weight", "mlp.0.weight", "mlp.3.weight")
        return key.endswith(linear)

    return (
        Layout(name="biformer", rename=lambda key: common(key, _JOINED).replace("mlp.1.0.", "mlp.1.dwconv.")),
        Layout(name="biformer_stl", rename=partial(in_blocks, projections=_JOINED)),
        Layout(name="biformer_stl_nchw", rename=partial(in_blocks, projections=_REFACTORED), convolved=convolved),
    )


def _common(config: Config, **defaults: Any) -> dict[str, Any]:
    names = (
        "depth", "embed_dim", "mlp_ratios", "topks", "side_dwconv", "in_chans", "num_classes", "drop_rate", "drop_path_rate",
    )  # fmt: skip
    return defaults | {name: config[name] for name in names if name in config}


def _build(config: Config) -> BiFormer:
    """Official arguments, with the official defaults: one entry per stage in kv_per_wins and kv_downsample_ratios."""
    start = config.get("layer_scale_init_value", -1)
    blocks = []
    for stage in range(len(config.get("depth", (3, 4, 8, 3)))):
        one_stage = dict(config) | {
            "kv_downsample_mode": config.get("kv_downsample_mode", "ada_avgpool"),
            "kv_per_win": config.get("kv_per_wins", (2, 2, -1, -1))[stage],
            "kv_downsample_ratio": config.get("kv_downsample_ratios", (4, 2, 1, 1))[stage],
        }
        options = attention_options({name: value for name, value in one_stage.items() if name in _PER_STAGE})
        blocks.append(options | {name: config[name] for name in ("mlp_dwconv", "pre_norm") if name in config})
    options = _common(
        config, depth=(3, 4, 8, 3), embed_dim=(64, 128, 320, 512), topks=(8, 8, -1, -1), mlp_ratios=(4, 4, 4, 4)
    )
    return BiFormer(
        **options,
        head_dim=config.get("head_dim", 64),
        n_win=config.get("n_win", 7),
        qk_dims=config.get("qk_dims"),
        before_attn_dwconv=config.get("before_attn_dwconv", 3),
        layer_scale=start if start > 0 else None,
        block=blocks,
    )


_PER_STAGE = (
    "kv_downsample_mode", "kv_per_win", "kv_downsample_ratio", "param_routing", "diff_routing", "soft_routing",
    "param_attention", "qk_scale", "auto_pad",
)  # fmt: skip


def _build_stl(config: Config, refactored: bool) -> BiFormer:
    norm = config.get("norm_layer", "BatchNorm2d")
    return BiFormer(
        **_common(config, mlp_ratios=(4, 4, 4, 4)),
        head_dim=config.get("head_dim", 32),
        n_win=config.get("n_wins", (7, 7, 7, 7)),
        stem="patches",
        round_up=False,
        refactored=refactored,
        pad_mode="nchw" if refactored else "legacy",
        norm="batch" if "BatchNorm" in norm else "layer",
    )


def _build_legacy_stl(config: Config) -> BiFormer:
    return _build_stl(config, refactored=False)


def _build_nchw_stl(config: Config) -> BiFormer:
    return _build_stl(config, refactored=True)


def _run(module: nn.Module, inputs: Mapping[str, Any], *, config: Config, mode: str) -> dict[str, Any]:
    return {"y": module(inputs["x"])}


_BATCH = {"x": 0, "y": 0}


components = {
    "BiFormer": Component(run=_run, build=_build, convert=converted_by(_build, layouts, "biformer"), batch=_BATCH),
    "BiFormerSTL": Component(
        run=_run,
        build=_build_legacy_stl,
        convert=converted_by(_build_legacy_stl, layouts, "biformer_stl"),
        batch=_BATCH,
    ),
    "nchwBiFormerSTL": Component(
        run=_run,
        build=_build_nchw_stl,
        convert=converted_by(_build_nchw_stl, layouts, "biformer_stl_nchw"),
        batch=_BATCH,
    ),
}
